package server

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/server/api"
)

const replaysPath = "/v1/replays"

func TestReplay(t *testing.T) {
	t.Parallel()
	r := start(t)
	publish(t, r, "article-1")
	r.ledger.preview = fanfare.ReplayPreview{Count: 5000}
	woken := r.wakes.Load()
	got := r.send(t, http.MethodPost, replaysPath, `{"dry_run": false, "filter": {"publication": "article-1", "topic": "writer-1", "channel": "email", "code": "sendgrid:429",
		"reason": "retries_exhausted", "since": "2026-03-01T12:00:00+01:00", "until": "2026-03-02T00:00:00Z"}}`, header("Idempotency-Key", "once"))
	require.Equal(t, http.StatusAccepted, got.status, "%s", got.body)
	var accepted fanfare.Replay
	got.into(t, &accepted)
	self := "https://fanfare.example/v1/replays/" + string(accepted.ID)
	require.Equal(t, self, got.header.Get("Location"))
	require.Equal(t, map[string]string{
		"self": self, "temporal": "http://temporal.example:8233/namespaces/fanfare/workflows/replay%2F" + string(accepted.ID),
	}, accepted.Links)
	require.Equal(t, fanfare.ReplayRunning, accepted.State)
	require.Equal(t, int64(5000), accepted.Count)
	require.Equal(t, woken+1, r.wakes.Load(), "the relay has work")
	filter := r.ledger.replays[0].Filter
	require.Equal(t, "article-1 writer-1 email sendgrid:429 retries_exhausted",
		strings.Join([]string{filter.Publication, string(filter.Topic), string(filter.Channel), filter.Code, filter.Reason}, " "))
	require.True(t, filter.Since.Equal(testNow.Add(-3600e9)))

	again := r.send(t, http.MethodGet, replaysPath+"/"+string(accepted.ID), "")
	require.Equal(t, http.StatusOK, again.status)
	require.JSONEq(t, string(got.body), string(again.body))
}

func TestReplayTwiceUnderOneKey(t *testing.T) {
	t.Parallel()
	r := start(t)
	body, once := `{"filter": {"topic": "writer-1"}}`, header("Idempotency-Key", "once")
	first := r.send(t, http.MethodPost, replaysPath, body, once)
	again := r.send(t, http.MethodPost, replaysPath, body, once)
	require.Equal(t, http.StatusAccepted, again.status)
	require.JSONEq(t, string(first.body), string(again.body))
	require.NotContains(t, string(first.body), "temporal", "nothing matched, so there is no workflow")
	other := r.send(t, http.MethodPost, replaysPath, `{"filter": {"topic": "writer-2"}}`, once)
	require.Equal(t, http.StatusUnprocessableEntity, other.status)
	require.Equal(t, api.ProblemCodeKeyReused, other.problem(t).Code)
	require.Len(t, r.ledger.replays, 1)
}

func TestDryRunOfAReplay(t *testing.T) {
	t.Parallel()
	r := start(t)
	woken := r.wakes.Load()
	want := fanfare.ReplayPreview{
		Count: 5, ByChannel: map[fanfare.Channel]int64{fanfare.Email: 5}, ByReason: map[string]int64{"retries_exhausted": 5}, ByCode: map[string]int64{"sendgrid:429": 5},
		Sample: []string{"p.email.1"}, Excluded: map[string]int64{"doubt_held": 2}, EstimatedSeconds: 3,
	}
	r.ledger.preview = want
	got := r.send(t, http.MethodPost, replaysPath, `{"filter": {"channel": "email"}, "dry_run": true}`)
	require.Equal(t, http.StatusOK, got.status, "%s", got.body)
	var preview fanfare.ReplayPreview
	got.into(t, &preview)
	require.Empty(t, cmp.Diff(want, preview))
	r.ledger.preview = fanfare.ReplayPreview{}
	got = r.send(t, http.MethodPost, replaysPath, `{"filter": {"channel": "email"}, "dry_run": true}`)
	require.JSONEq(t, `{"count": 0, "by_channel": {}, "by_reason": {}, "by_code": {}, "sample": [], "excluded": {}, "estimated_seconds": 0}`, string(got.body))
	require.Empty(t, r.ledger.replays)
	require.Equal(t, woken, r.wakes.Load())
}

func TestReplayViolations(t *testing.T) {
	t.Parallel()
	r := start(t)
	for body, want := range map[string][]string{
		`{}`:                                     {"filter"},
		`{"filter": null}`:                       {"filter"},
		`{"filter": []}`:                         {"filter"},
		`{"filter": {}}`:                         {"filter"},
		`{"filter": {"topic": null}}`:            {"filter"},
		`{"filter": {"topics": "writer-1"}}`:     {"filter.topics"},
		`{"filter": {"channel": ""}}`:            {"filter.channel"},
		`{"filter": {"publication": ""}}`:        {"filter.publication"},
		`{"filter": {"code": "429"}}`:            {"filter.code"},
		`{"filter": {"code": ":429"}}`:           {"filter.code"},
		`{"filter": {"code": "sendgrid:"}}`:      {"filter.code"},
		`{"filter": {"since": 7}}`:               {"filter.since"},
		`{"filter": {"since": "yesterday"}}`:     {"filter.since"},
		`{"dry_run": "yes", "filter": {"x": 1}}`: {"dry_run", "filter.x"},
		`{"filter": {"since": "2026-03-01T12:00:00Z", "until": "2026-03-01T12:00:00Z"}}`:                                                                         {"filter.until"},
		`{"filter": {"channel": "fax", "topic": "two words", "reason": "tired", "code": "x", "since": "2026-03-02T00:00:00Z", "until": "2026-03-01T12:00:00Z"}}`: {"filter.channel", "filter.code", "filter.reason", "filter.topic", "filter.until"},
	} {
		got := r.send(t, http.MethodPost, replaysPath, body)
		require.Equal(t, http.StatusBadRequest, got.status, body)
		require.Equal(t, want, fields(got.problem(t)), body)
	}
	p := r.send(t, http.MethodPost, replaysPath, `{"filter": {}}`).problem(t)
	require.Contains(t, p.Detail, "filter must name at least one of publication, topic, channel, code, reason, since, until")
	p = r.send(t, http.MethodPost, replaysPath, `{"filter": {"channel": "fax"}}`).problem(t)
	require.Equal(t, "must be one of email, sms, push, inapp", detail(t, p, "filter.channel"))
	for _, dry := range []string{"true", "false"} {
		got := r.send(t, http.MethodPost, replaysPath, `{"filter": {"publication": "article-9"}, "dry_run": `+dry+`}`)
		require.Equal(t, http.StatusNotFound, got.status)
		require.Contains(t, got.problem(t).Detail, "filter.publication")
	}
	require.Empty(t, r.ledger.replays)
	require.Zero(t, r.wakes.Load())
}

func TestCancelReplay(t *testing.T) {
	t.Parallel()
	r := start(t)
	r.ledger.preview = fanfare.ReplayPreview{Count: 3}
	var accepted fanfare.Replay
	r.send(t, http.MethodPost, replaysPath, `{"filter": {"channel": "email"}}`).into(t, &accepted)
	cancel := replaysPath + "/" + string(accepted.ID) + "/cancel"
	for range 2 {
		got := r.send(t, http.MethodPost, cancel, "")
		require.Equal(t, http.StatusOK, got.status)
		var replay fanfare.Replay
		got.into(t, &replay)
		require.Equal(t, fanfare.ReplayCancelled, replay.State)
		require.NotEmpty(t, replay.Links["self"])
	}
	r.ledger.set(func() { r.ledger.replays[0].State = fanfare.ReplayCompleted })
	got := r.send(t, http.MethodPost, cancel, "")
	require.Equal(t, http.StatusConflict, got.status)
	require.Equal(t, api.ProblemCodeWrongState, got.problem(t).Code)
	require.Contains(t, got.problem(t).Detail, "it is completed")
	for _, missing := range []string{"0199c7b0-0000-7000-8000-00000000ffff", "nonsense"} {
		require.Equal(t, http.StatusNotFound, r.send(t, http.MethodGet, replaysPath+"/"+missing, "").status)
		require.Equal(t, http.StatusNotFound, r.send(t, http.MethodPost, replaysPath+"/"+missing+"/cancel", "").status)
	}
}

func TestListReplaysByPages(t *testing.T) {
	t.Parallel()
	r := start(t)
	require.JSONEq(t, `{"items": [], "next_cursor": null}`, string(r.send(t, http.MethodGet, replaysPath, "").body))
	for range 25 {
		r.send(t, http.MethodPost, replaysPath, `{"filter": {"channel": "email"}}`)
	}
	var seen []fanfare.ReplayID
	for path := replaysPath + "?limit=10"; path != ""; {
		var list api.ReplayList
		r.send(t, http.MethodGet, path, "").into(t, &list)
		for _, replay := range list.Items {
			seen = append(seen, replay.ID)
			require.NotEmpty(t, replay.Links["self"])
		}
		path = ""
		if list.NextCursor != nil {
			path = replaysPath + "?limit=10&cursor=" + *list.NextCursor
		}
	}
	require.Len(t, seen, 25)
	require.Equal(t, r.ledger.replays[24].ID, seen[0])
	require.Equal(t, r.ledger.replays[0].ID, seen[24])
	require.Equal(t, []string{"cursor"}, fields(r.send(t, http.MethodGet, replaysPath+"?cursor=!", "").problem(t)))
}

package main

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/server/api"
)

const replayID = "0199c7b0-1c2d-7e3f-8a4b-5c6d7e8f9a0b"

func someReplay(state fanfare.ReplayState, change func(*fanfare.Replay)) fanfare.Replay {
	at := time.Date(2026, 1, 31, 8, 0, 0, 0, time.UTC)
	r := fanfare.Replay{
		ID: replayID, Filter: fanfare.ReplayFilter{Publication: "article-1", Code: "sendgrid:429"}, State: state, CreatedAt: at, Count: 5000,
		Reopened: 3000, Waiting: 2000, Totals: fanfare.Totals{Intended: 3000, Sent: 2900, Pending: 100}, Links: map[string]string{"self": "http://api.example/r"},
	}
	if state != fanfare.ReplayRunning {
		end := at.Add(90 * time.Second)
		r.FinishedAt = &end
		r.Reopened, r.Waiting, r.Passed = 4990, 0, 10
		r.Totals = fanfare.Totals{Intended: 4990, Sent: 4990}
	}
	if change != nil {
		change(&r)
	}
	return r
}

func TestDryRunOfAReplay(t *testing.T) {
	t.Parallel()
	preview := fanfare.ReplayPreview{
		Count: 5000, ByChannel: map[fanfare.Channel]int64{fanfare.Email: 5000}, ByReason: map[string]int64{"retries_exhausted": 5000},
		ByCode: map[string]int64{"sendgrid:429": 4990, "sendgrid:503": 10}, Sample: []string{someID + ".email.7"},
		Excluded: map[string]int64{"doubt_held": 3, "replaying": 2}, EstimatedSeconds: 240,
	}
	s := newStub(t, map[string][]answer{"POST /v1/replays": {{http.StatusOK, preview}}})
	asked := []string{
		"replay", "--publication", "article-1", "--topic", "writer-1", "--channel", "email", "--code", "sendgrid:it's full",
		"--reason", "retries_exhausted", "--since", "2026-01-31T08:00:00Z", "--until", "2026-02-01T08:00:00+01:00", "--dry-run",
	}
	got := command(t, s.environ(), "", asked...)
	require.Equal(t, 0, got.code, got.err)
	require.JSONEq(t, `{"dry_run": true, "filter": {"publication": "article-1", "topic": "writer-1", "channel": "email", "code": "sendgrid:it's full",
		"reason": "retries_exhausted", "since": "2026-01-31T08:00:00Z", "until": "2026-02-01T08:00:00+01:00"}}`, s.last().body)
	for _, line := range []string{
		"5,000 dead letters would be sent again, in about 4m.",
		"By channel: 5,000 email",
		"By reason:  5,000 retries_exhausted",
		"By code:    4,990 sendgrid:429, 10 sendgrid:503",
		"Left out:   3 doubt_held, 2 replaying",
		"  replaying: they wait for another replay already",
		"  doubt_held: they may have been sent already; --reason doubt_held takes them all the same",
		"  " + someID + ".email.7",
		`  fanfare replay --publication article-1 --topic writer-1 --channel email --code 'sendgrid:it'\''s full' --reason retries_exhausted ` +
			"--since 2026-01-31T08:00:00Z --until 2026-02-01T08:00:00+01:00",
	} {
		require.Contains(t, got.out, line+"\n")
	}
	require.NotContains(t, got.out, "expired")

	got = command(t, s.environ(), "", append(asked, "--json")...)
	require.Empty(t, cmp.Diff(preview, fromJSON[fanfare.ReplayPreview](t, got)))
}

func TestDryRunThatFindsNothing(t *testing.T) {
	t.Parallel()
	s := newStub(t, map[string][]answer{"POST /v1/replays": {
		{http.StatusOK, fanfare.ReplayPreview{Excluded: map[string]int64{"expired": 2, "cancelled": 1}}},
		{http.StatusAccepted, someReplay(fanfare.ReplayCompleted, func(r *fanfare.Replay) { r.Count, r.Reopened, r.Passed = 0, 0, 0 })},
	}})
	got := command(t, s.environ(), "", "replay", "--publication", "article-1", "--dry-run")
	require.Equal(t, 0, got.code, got.err)
	require.Contains(t, got.out, "There is nothing to send again.\nLeft out:   2 expired, 1 cancelled\n")
	require.Contains(t, got.out, "  cancelled: their publication was cancelled, and stays so\n  expired: their publisher's expires_at has passed\n")
	require.NotContains(t, got.out, "This sends them again")
	got = command(t, s.environ(), "", "replay", "--publication", "article-1", "--code", "sendgrid:429", "--watch")
	require.Equal(t, 0, got.code, got.err)
	require.NotContains(t, got.err, "sending again", "there is nothing to watch")
	require.Contains(t, got.out, "nothing to send again. `fanfare replay --publication article-1 --code sendgrid:429 --dry-run` says what is left out")
}

func TestReplayIsAccepted(t *testing.T) {
	t.Parallel()
	accepted := someReplay(fanfare.ReplayRunning, func(r *fanfare.Replay) { r.Reopened, r.Waiting = 0, 5000 })
	s := newStub(t, map[string][]answer{"POST /v1/replays": {{http.StatusAccepted, accepted}}})
	got := command(t, s.environ(), "", "replay", "--publication", "article-1")
	require.Equal(t, 0, got.code, got.err)
	require.JSONEq(t, `{"filter": {"publication": "article-1"}}`, s.last().body)
	require.Contains(t, got.out, "Replay "+replayID+" sends 5,000 dead letters again.")
	require.Contains(t, got.out, "http://api.example/r")
	require.Contains(t, got.out, "`fanfare replay status "+replayID+"`; `fanfare replay cancel "+replayID+"` stops it.")
	got = command(t, s.environ(), "", "replay", "--publication", "article-1", "--json")
	require.Empty(t, cmp.Diff(accepted, fromJSON[fanfare.Replay](t, got)))
}

func TestWatchedReplayEndsAsItDid(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		end  fanfare.Replay
		code int
		says string
	}{
		{someReplay(fanfare.ReplayCompleted, nil), 0, "5,000 dead letters: 4,990 taken up, 0 waiting, 10 passed over."},
		{someReplay(fanfare.ReplayCompleted, func(r *fanfare.Replay) { r.Totals = fanfare.Totals{Intended: 4990, Sent: 4900, Skipped: 90} }), 0, "4,900 sent, 90 skipped"},
		{someReplay(fanfare.ReplayCompleted, func(r *fanfare.Replay) { r.Totals = fanfare.Totals{Intended: 4990, Sent: 4989, Dead: 1} }), 3, "fanfare replay --publication article-1 --code sendgrid:429 --dry-run"},
		{someReplay(fanfare.ReplayCompleted, func(r *fanfare.Replay) { r.Totals = fanfare.Totals{Intended: 4990, Sent: 4989, Failed: 1} }), 3, "1 failed"},
		{someReplay(fanfare.ReplayCancelled, nil), 4, "is cancelled."},
	} {
		s := newStub(t, map[string][]answer{
			"POST /v1/replays": {{http.StatusAccepted, someReplay(fanfare.ReplayRunning, nil)}},
			"GET /v1/replays/" + replayID: {
				{http.StatusOK, someReplay(fanfare.ReplayRunning, nil)},
				{},
				{http.StatusServiceUnavailable, api.Problem{Code: api.ProblemCodeUnavailable, Status: 503, Retryable: true}},
				{http.StatusOK, c.end},
			},
		})
		got := command(t, s.environ(), "", "replay", "--publication", "article-1", "--watch")
		require.Equal(t, c.code, got.code, got.err)
		require.Contains(t, got.err, "waiting for the API", "a server that is away is waited for")
		require.Contains(t, got.err, "sending again: 5,000 of 5,000 deliveries (100 %)")
		require.NotContains(t, got.err, "fanfare:")
		require.Contains(t, got.out, c.says)
		require.Contains(t, got.out, "ended after 1m30s")
		got = command(t, s.environ(), "", "replay", "--publication", "article-1", "--watch", "--json")
		require.Equal(t, c.code, got.code, got.err)
		require.Empty(t, cmp.Diff(c.end, fromJSON[fanfare.Replay](t, got)))
	}
}

func TestReplayStatusAndCancel(t *testing.T) {
	t.Parallel()
	s := newStub(t, map[string][]answer{
		"GET /v1/replays/" + replayID:              {{http.StatusOK, someReplay(fanfare.ReplayRunning, nil)}},
		"POST /v1/replays/" + replayID + "/cancel": {{http.StatusOK, someReplay(fanfare.ReplayCancelled, nil)}, {http.StatusConflict, api.Problem{Code: api.ProblemCodeWrongState, Status: 409, Title: "Not possible in this state", Detail: "it is completed"}}},
	})
	got := command(t, s.environ(), "", "replay", "status", replayID)
	require.Equal(t, 0, got.code, got.err)
	require.Contains(t, got.out, "Replay "+replayID+" is running.\n  filter: publication article-1, code sendgrid:429\n")
	require.Contains(t, got.out, "5,000 dead letters: 3,000 taken up, 2,000 waiting, 0 passed over.\nThose taken up now stand at: 2,900 sent, 100 pending\n")
	got = command(t, s.environ(), "", "replay", "status", replayID, "--json")
	require.Empty(t, cmp.Diff(someReplay(fanfare.ReplayRunning, nil), fromJSON[fanfare.Replay](t, got)))

	got = command(t, s.environ(), "", "replay", "cancel", replayID)
	require.Equal(t, 0, got.code, got.err)
	require.Contains(t, got.out, "is cancelled.")
	got = command(t, s.environ(), "", "replay", "cancel", replayID)
	require.Equal(t, 1, got.code)
	require.Contains(t, got.err, "it is completed")
	for _, verb := range []string{"status", "cancel"} {
		got = command(t, s.environ(), "", "replay", verb, "article-1")
		require.Equal(t, 2, got.code)
		require.Contains(t, got.err, "is not a replay's id")
	}
}

func TestReplayThatCannotBe(t *testing.T) {
	t.Parallel()
	s := newStub(t, map[string][]answer{"POST /v1/replays": {
		{http.StatusBadRequest, api.Problem{
			Code: api.ProblemCodeInvalidRequest, Status: 400, Title: "The request is not valid",
			Violations: []fanfare.Violation{{Field: "filter", Detail: "must name at least one of publication, topic"}},
		}},
		{},
	}})
	got := command(t, s.environ(), "", "replay")
	require.Equal(t, 1, got.code)
	require.Equal(t, "fanfare: The request is not valid\n  filter must name at least one of publication, topic\n", got.err)
	got = command(t, s.environ(), "", "replay", "--topic", "writer-1")
	require.Equal(t, 1, got.code)
	require.Contains(t, got.err, "nobody is sent to twice")
	for _, wrong := range []struct{ args, says string }{
		{"replay --since soon --until -2h", `--until "-2h": write a time`},
		{"replay --topic writer-1 --dry-run --watch", "dry-run watch"},
		{"replay everything", `unknown command "everything"`},
		{"replay status", "accepts 1 arg"},
	} {
		got = command(t, s.environ(), "", strings.Fields(wrong.args)...)
		require.Equal(t, 2, got.code, wrong.args)
		require.Contains(t, got.err, wrong.says)
	}
}

func TestTimesPastAreTimesOrSpansBack(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 31, 8, 0, 0, 5000, time.UTC)
	at, err := readPast("--since", "", now)
	require.NoError(t, err)
	require.Nil(t, at)
	at, err = readPast("--since", "90m", now)
	require.NoError(t, err)
	require.Equal(t, time.Date(2026, 1, 31, 6, 30, 0, 0, time.UTC), *at)
	at, err = readPast("--since", "2026-01-31T10:00:00+01:00", now)
	require.NoError(t, err)
	require.Equal(t, time.Date(2026, 1, 31, 9, 0, 0, 0, time.UTC), at.UTC())
}

func TestSpansAreAsPreciseAsPeopleWant(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "0s", 1400 * time.Millisecond: "1s", 10 * time.Second: "10s", time.Minute: "1m", 70 * time.Second: "1m10s", 90 * time.Minute: "1h30m",
		47*time.Hour + 3*time.Second: "47h0m", 50 * time.Hour: "2 days",
	} {
		require.Equal(t, want, span(d))
	}
}

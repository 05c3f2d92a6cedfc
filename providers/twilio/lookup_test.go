package twilio_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/providers/twilio"
)

var began = time.Date(2026, 11, 20, 10, 0, 0, 700_000_000, time.UTC)

func question() fanfare.Question {
	return fanfare.Question{Call: callID, BeganAt: began, EndedAt: began.Add(10 * time.Second), Address: theirs, Text: text}
}

// message is one of a list.
func message(sid, body string, made time.Time) map[string]any {
	return map[string]any{
		"sid": sid, "body": body, "date_created": made.Format(time.RFC1123Z), "to": theirs, "from": ours,
		"status": "queued", "date_sent": nil, "direction": "outbound-api", "error_code": nil, "num_segments": "1",
	}
}

func list(next any, messages ...map[string]any) string {
	body, err := json.Marshal(map[string]any{"messages": messages, "page": 0, "page_size": 1000, "next_page_uri": next, "uri": "/x"})
	if err != nil {
		panic(err)
	}
	return string(body)
}

func answer(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		taken(r)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func TestLookUpAsksByRecipient(t *testing.T) {
	t.Parallel()
	for from, want := range map[string]url.Values{
		ours:    {"To": {theirs}, "From": {ours}, "PageSize": {"1000"}},
		"MG00f": {"To": {theirs}, "PageSize": {"1000"}}, // any of its numbers
	} {
		c := config(listen(t, func(w http.ResponseWriter, r *http.Request) {
			user, password, _ := r.BasicAuth()
			if r.Method != http.MethodGet || r.URL.Path != "/2010-04-01/Accounts/"+account+"/Messages.json" || user != account || password != token {
				t.Errorf("asked %s %s", r.Method, r.URL)
			}
			if got := r.URL.Query(); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("asked %v", got)
			}
			answer(200, list(nil, message(sid, text, began.Add(time.Second))))(w, r)
		}))
		c.From = from
		sighting, err := sender(t, c).LookUp(t.Context(), question())
		require.NoError(t, err)
		require.Equal(t, fanfare.Sighting{Messages: []string{sid}, Evidence: "Twilio lists with this recipient, text and time: " + sid}, sighting)
	}
}

// Twilio shows whole seconds, by its own clock.
func TestLookUpKeepsWhatMayBeTheCalls(t *testing.T) {
	t.Parallel()
	ended := question().EndedAt
	s := provider(t, answer(200, list(nil,
		message("SMlate", text, ended.Add(2*time.Minute+time.Second)),
		message("SM7", text, ended.Add(2*time.Minute-time.Second)),
		message("SM6", text, ended),
		message("SMother", text+" ", began),
		message("SMcut", text[:20], began),
		message("SM"+theirs, text, began),
		message("", text, began),
		message("SM2", text, began.Truncate(time.Second)),
		message("SM1", text, began.Add(-time.Second)),
		message("SMearly", text, began.Add(-2*time.Minute-time.Second)),
		message("SMold", text, began.Add(-24*time.Hour)),
	)))
	sighting, err := s.LookUp(t.Context(), question())
	require.NoError(t, err)
	require.False(t, sighting.Seen, "whose they are is not known here")
	require.Equal(t, []string{"SM7", "SM6", "SM2", "SM1"}, sighting.Messages)
	impersonal(t, sighting.Evidence)

	anything := question()
	anything.Text = ""
	sighting, err = s.LookUp(t.Context(), anything)
	require.NoError(t, err)
	require.Equal(t, []string{"SM7", "SM6", "SMother", "SMcut", "SM2", "SM1"}, sighting.Messages, "whatever they say")
}

func TestLookUpShowsNothing(t *testing.T) {
	t.Parallel()
	for _, empty := range []string{list(nil), `{"messages":null}`, `{}`, list("", message(sid, "x", began))} {
		sighting, err := provider(t, answer(200, empty)).LookUp(t.Context(), question())
		require.NoError(t, err)
		require.Equal(t, fanfare.Sighting{}, sighting)
	}
}

// One page is enough, unless all of it is newer than the call.
func TestLookUpOfSomebodyWhoGetsMany(t *testing.T) {
	t.Parallel()
	const next = "/2010-04-01/Accounts/" + account + "/Messages.json?Page=1&PageToken=PASM"
	newer := message("SM2", "x", began.Add(time.Hour))
	sighting, err := provider(t, answer(200, list(next, newer, message(sid, text, began), message("SM0", "x", began.Add(-time.Hour))))).LookUp(t.Context(), question())
	require.NoError(t, err)
	require.Equal(t, []string{sid}, sighting.Messages)
	sighting, err = provider(t, answer(200, list(next, newer, message(sid, text, began)))).LookUp(t.Context(), question())
	require.ErrorContains(t, err, "more than 1000 messages")
	require.NotErrorIs(t, err, fanfare.ErrNoLookUp)
	require.Equal(t, fanfare.Sighting{}, sighting)
}

func TestLookUpErrors(t *testing.T) {
	t.Parallel()
	undated := message(sid, text, began)
	undated["date_created"] = "2026-11-20"
	for name, tc := range map[string]struct {
		search  http.HandlerFunc
		lasting bool
	}{
		"not understood":   {answer(400, refusal(400, 20001)), false},
		"token":            {answer(401, refusal(401, 20003)), false}, // somebody changes it just now
		"to be paid for":   {answer(402, ""), false},
		"not allowed":      {answer(403, refusal(403, 20003)), true},
		"not there":        {answer(404, htmlPage), true},
		"moved":            {answer(301, list(nil)), false},
		"request time-out": {answer(408, ""), false},
		"throttled":        {answer(429, refusal(429, 20429)), false},
		"failed":           {answer(500, ""), false},
		"not available":    {answer(503, htmlPage), false},
		"hung up":          {func(http.ResponseWriter, *http.Request) { silence() }, false},
		"not JSON":         {answer(200, htmlPage), false},
		"cut":              {answer(200, list(nil, message(sid, text, began))[:60]), false},
		"created":          {answer(201, list(nil, message(sid, text, began))), false},
		"without a time":   {answer(200, list(nil, undated)), false},
	} {
		sighting, err := provider(t, tc.search).LookUp(t.Context(), question())
		require.Error(t, err, name)
		require.Equal(t, fanfare.Sighting{}, sighting, name)
		require.ErrorContains(t, err, string(callID), name)
		impersonal(t, strings.ReplaceAll(err.Error(), string(callID), ""))
		if tc.lasting {
			require.ErrorIs(t, err, fanfare.ErrNoLookUp, name)
		} else {
			require.NotErrorIs(t, err, fanfare.ErrNoLookUp, name)
		}
	}
}

func TestLookUpNotReached(t *testing.T) {
	t.Parallel()
	s := sender(t, config("http://"+closedPort(t)))
	_, err := s.LookUp(t.Context(), question())
	require.Error(t, err)
	require.NotErrorIs(t, err, fanfare.ErrNoLookUp)
	impersonal(t, err.Error())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = s.LookUp(ctx, question())
	require.ErrorIs(t, err, context.Canceled)
	impersonal(t, err.Error())
}

func TestLookUpNeedsARecipient(t *testing.T) {
	t.Parallel()
	s := provider(t, func(http.ResponseWriter, *http.Request) { t.Error("must not be asked") })
	q := question()
	q.Address = ""
	_, err := s.LookUp(t.Context(), q)
	require.ErrorIs(t, err, fanfare.ErrInvalid)
	require.ErrorIs(t, err, fanfare.ErrNoLookUp, "nobody can ever ask, so that nobody waits for an answer")
	impersonal(t, err.Error())
}

var _ interface {
	LookUp(ctx context.Context, q fanfare.Question) (fanfare.Sighting, error)
} = (*twilio.Sender)(nil)

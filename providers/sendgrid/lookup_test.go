package sendgrid_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/providers/sendgrid"
)

const messageID = "Xj5LmNkWSOqRbdvOpR34BA.recvd-85abf8d92c-3qfgp-2-7890E356-43C.1"

var asked = fanfare.Question{Call: callID, BeganAt: time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)}

// logs are Email Logs that answer a search and a message with what is given.
func logs(t *testing.T, search, message func(w http.ResponseWriter, r *http.Request)) *sendgrid.Sender {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v3/logs", search)
	mux.HandleFunc("GET /v3/logs/{id}", message)
	return provider(t, mux.ServeHTTP)
}

func answer(status int, body string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// found is a search that shows one message, with all that the description of the
// API requires of it.
const found = `{"messages":[{"from_email":"news@blog.example","sg_message_id":"` + messageID + `","subject":"x",
	"to_email":"reader-1@readers.example","status":"processed","sg_message_id_created_at":"2026-11-20T09:00:01Z"}]}`

func TestLookUpAsksByCategory(t *testing.T) {
	t.Parallel()
	s := logs(t, func(w http.ResponseWriter, r *http.Request) {
		var asked map[string]any
		if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
			silence()
		}
		want := map[string]any{
			"query": `categories IN ('` + string(callID) + `')`,
			"limit": 1.0,
		}
		if r.Header.Get("Authorization") != "Bearer SG.the-key" || !cmp.Equal(asked, want) {
			t.Errorf("asked %v", asked)
		}
		_, _ = io.WriteString(w, found)
	}, func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("id") != messageID {
			t.Errorf("asked for message %s", r.PathValue("id"))
		}
		_, _ = io.WriteString(w, `{"sg_message_id":"`+messageID+`","to_email":"reader-1@readers.example","custom_args":{"call":"`+string(callID)+`","delivery":"x"}}`)
	})
	sighting, err := s.LookUp(t.Context(), asked)
	require.NoError(t, err)
	require.Equal(t, fanfare.Sighting{Seen: true, Evidence: "SendGrid's Email Logs show message Xj5LmNkWSOqRbdvOpR34BA of this call"}, sighting)
}

func TestLookUpNeedsOurCallID(t *testing.T) {
	t.Parallel()
	for message, want := range map[string]bool{
		`{"custom_args":{"call":"` + string(callID) + `"}}`:                       true,
		`{"category":["news","` + string(callID) + `"]}`:                          true,
		`{"category":["` + string(callID) + `-2"],"custom_args":{"call":"no"}}`:   false,
		`{"custom_args":{"delivery":"` + string(callID) + `"}}`:                   false,
		`{"subject":"` + string(callID) + `","category":null,"custom_args":null}`: false,
		`{}`: false,
	} {
		s := logs(t, answer(200, found), answer(200, message))
		sighting, err := s.LookUp(t.Context(), asked)
		require.NoError(t, err)
		require.Equal(t, want, sighting.Seen, message)
		require.Equal(t, want, sighting.Evidence != "", message)
	}
}

func TestLookUpShowsNothing(t *testing.T) {
	t.Parallel()
	for _, empty := range []string{`{"messages":[]}`, `{"messages":null}`, `{}`} {
		s := logs(t, answer(200, empty), answer(500, ""))
		sighting, err := s.LookUp(t.Context(), asked)
		require.NoError(t, err)
		require.Equal(t, fanfare.Sighting{}, sighting)
	}
}

// Only SendGrid's own word that there are no logs ends the looking: it lets the
// policy send again. Everything else is asked again.
func TestLookUpErrors(t *testing.T) {
	t.Parallel()
	hangUp := func(http.ResponseWriter, *http.Request) { silence() }
	for name, tc := range map[string]struct {
		search, message func(http.ResponseWriter, *http.Request)
		lasting         bool
	}{
		"query not understood":   {answer(400, refusal("query", "invalid query")), nil, false},
		"key":                    {answer(401, ""), nil, false},
		"to be paid for":         {answer(402, ""), nil, true},
		"not for this key":       {answer(403, refusal("", "access forbidden")), nil, true},
		"not there":              {answer(404, htmlPage), nil, true},
		"not for this method":    {answer(405, ""), nil, false},
		"moved":                  {answer(301, ""), nil, false},
		"request time-out":       {answer(408, ""), nil, false},
		"throttled":              {answer(429, ""), nil, false},
		"failed":                 {answer(500, ""), nil, false},
		"not available":          {answer(503, htmlPage), nil, false},
		"hung up":                {hangUp, nil, false},
		"not JSON":               {answer(200, htmlPage), nil, false},
		"accepted, not answered": {answer(202, found), nil, false},
		"message not readable":   {answer(200, found), answer(404, ""), false},
		"message throttled":      {answer(200, found), answer(429, ""), false},
		"message hung up":        {answer(200, found), hangUp, false},
		"message not JSON":       {answer(200, found), answer(200, "x"), false},
		"message forbidden":      {answer(200, found), answer(403, ""), false},
	} {
		if tc.message == nil {
			tc.message = answer(500, "")
		}
		sighting, err := logs(t, tc.search, tc.message).LookUp(t.Context(), asked)
		require.Error(t, err, name)
		require.Equal(t, fanfare.Sighting{}, sighting, name)
		require.ErrorContains(t, err, string(callID), name)
		require.NotContains(t, err.Error(), "@", name)
		if tc.lasting {
			require.ErrorIs(t, err, fanfare.ErrNoLookUp, name)
		} else {
			require.NotErrorIs(t, err, fanfare.ErrNoLookUp, name)
		}
	}
}

func TestLookUpNotReached(t *testing.T) {
	t.Parallel()
	_, err := sender(t, "http://"+closedPort(t)).LookUp(t.Context(), asked)
	require.Error(t, err)
	require.NotErrorIs(t, err, fanfare.ErrNoLookUp)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = sender(t, "http://"+closedPort(t)).LookUp(ctx, asked)
	require.ErrorIs(t, err, context.Canceled)
}

func TestLookUpTakesOnlyNames(t *testing.T) {
	t.Parallel()
	s := logs(t, func(http.ResponseWriter, *http.Request) { t.Error("must not be asked") }, answer(500, ""))
	for _, odd := range []fanfare.CallID{"", "x') OR to_email = ('y", "x y", fanfare.CallID(strings.Repeat("x", 201))} {
		_, err := s.LookUp(t.Context(), fanfare.Question{Call: odd})
		require.ErrorIs(t, err, fanfare.ErrInvalid)
	}
}

// What the other end says instead of HTTP may be what the logs hold.
func TestLookUpRepeatsNothingOfAnAnswerThatIsNone(t *testing.T) {
	t.Parallel()
	garbage := func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			silence()
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "to reader-1@readers.example: Hello reader-1\r\n\r\n")
	}
	for name, s := range map[string]*sendgrid.Sender{
		"search": logs(t, garbage, answer(500, "")), "message": logs(t, answer(200, found), garbage),
	} {
		_, err := s.LookUp(t.Context(), asked)
		require.Error(t, err, name)
		require.NotErrorIs(t, err, fanfare.ErrNoLookUp, name)
		require.NotContains(t, err.Error(), "reader-1", name)
	}
}

package twilio_test

import (
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare/providers/conformance"
	"github.com/fanfare-dev/fanfare/providers/twilio"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	conformance.Run(t, conformance.Subject{
		New: func(tb testing.TB, at conformance.Place) conformance.Sender {
			tb.Helper()
			s, err := twilio.New(config(at.URL()), at.Client)
			require.NoError(tb, err)
			return s
		},
		Provider: conformance.HTTP{Read: messages, Answer: answers},
		Call:     calls,
		Codes: map[conformance.Situation]string{
			conformance.Accepted: "201", conformance.Rejected: "21211", conformance.TooLarge: "21617",
			conformance.Throttled: "20429", conformance.Unavailable: "20503", conformance.AccountFault: "20003",
		},
		Secrets: []string{token},
		Golden:  "testdata/request.txt",
	})
}

// messages reads a request as Twilio's specification has it.
func messages(r *http.Request, body []byte) ([]conformance.Message, error) {
	user, password, _ := r.BasicAuth()
	if r.Method+" "+r.URL.Path != "POST /2010-04-01/Accounts/"+account+"/Messages.json" || user != account || password != token || r.Header.Get("Content-Type") != "application/x-www-form-urlencoded" {
		return nil, errors.New("not Messages")
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, err
	}
	for name, values := range form {
		if len(values) != 1 || values[0] == "" {
			return nil, errors.New(name + " is not there once")
		}
	}
	if form.Has("From") == form.Has("MessagingServiceSid") || !form.Has("To") || !form.Has("Body") {
		return nil, errors.New("not a message from one sender to one recipient")
	}
	return []conformance.Message{{To: form.Get("To"), Text: form.Get("Body")}}, nil
}

func answers(cue conformance.Cue) conformance.Answer {
	header := map[string]string{"Content-Type": "application/json"}
	if cue.Wait > 0 {
		header["Retry-After"] = strconv.Itoa(int(cue.Wait.Seconds()))
	}
	answer := func(status int, body string) conformance.Answer {
		return conformance.Answer{Status: status, Header: header, Body: body}
	}
	switch cue.Situation {
	case conformance.Accepted:
		return answer(http.StatusCreated, created("SM"+cue.ID))
	case conformance.Garbled:
		return answer(http.StatusCreated, `{"status":"queued"}`)
	case conformance.Rejected:
		return answer(http.StatusBadRequest, refusal(400, 21211, cue.Gossip))
	case conformance.TooLarge:
		return answer(http.StatusBadRequest, refusal(400, 21617, cue.Gossip))
	case conformance.Throttled:
		return answer(http.StatusTooManyRequests, refusal(429, 20429, cue.Gossip))
	case conformance.Unavailable:
		return answer(http.StatusServiceUnavailable, refusal(503, 20503, cue.Gossip))
	case conformance.Failed:
		return answer(http.StatusInternalServerError, refusal(500, 20500, cue.Gossip))
	case conformance.AccountFault:
		return answer(http.StatusUnauthorized, refusal(401, 20003, cue.Gossip))
	}
	return conformance.Answer{}
}

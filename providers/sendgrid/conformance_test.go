package sendgrid_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare/providers/conformance"
	"github.com/fanfare-dev/fanfare/providers/sendgrid"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	conformance.Run(t, conformance.Subject{
		New: func(tb testing.TB, at conformance.Place) conformance.Sender {
			tb.Helper()
			s, err := sendgrid.New(sendgrid.Config{APIKey: "SG.the-key", BaseURL: at.URL(), From: "The Slow Coast <news@blog.example>"}, at.Client)
			require.NoError(tb, err)
			return s
		},
		Provider: conformance.HTTP{Read: messages, Answer: answers},
		Call:     call,
		Codes: map[conformance.Situation]string{
			conformance.Accepted: "202", conformance.Rejected: "400", conformance.OneBad: "400", conformance.TooLarge: "413",
			conformance.Throttled: "429", conformance.Unavailable: "503", conformance.AccountFault: "401",
		},
		Lacks:   map[conformance.Situation]string{conformance.Garbled: "an acceptance has no body, and its status is clear"},
		Secrets: []string{"the-key"},
		Golden:  "testdata/request.txt",
	})
}

// messages reads a request as SendGrid's specification has it.
func messages(r *http.Request, body []byte) ([]conformance.Message, error) {
	var request struct {
		Personalizations []struct {
			To []struct {
				Email string `json:"email"`
			} `json:"to"`
		} `json:"personalizations"`
		Content []struct {
			Value string `json:"value"`
		} `json:"content"`
	}
	if r.Method+" "+r.URL.Path != "POST /v3/mail/send" || r.Header.Get("Authorization") != "Bearer SG.the-key" || r.Header.Get("Content-Type") != "application/json" {
		return nil, errors.New("not mail/send")
	}
	if err := json.Unmarshal(body, &request); err != nil {
		return nil, err
	}
	var all []conformance.Message
	for i, p := range request.Personalizations {
		if len(p.To) != 1 {
			return nil, fmt.Errorf("personalization %d shows its recipients to each other", i)
		}
		all = append(all, conformance.Message{To: p.To[0].Email, Text: request.Content[0].Value})
	}
	return all, nil
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
		return conformance.Answer{Status: http.StatusAccepted, Header: map[string]string{"X-Message-Id": cue.ID}}
	case conformance.Rejected:
		return answer(http.StatusBadRequest, refusal("personalizations.0.to.0.email", cue.Gossip))
	case conformance.OneBad:
		if cue.Bad < 0 {
			return answer(http.StatusBadRequest, refusal("", cue.Gossip))
		}
		return answer(http.StatusBadRequest, refusal(fmt.Sprintf("personalizations.%d.to.0.email", cue.Bad), cue.Gossip))
	case conformance.TooLarge:
		return answer(http.StatusRequestEntityTooLarge, htmlPage+cue.Gossip)
	case conformance.Throttled:
		return answer(http.StatusTooManyRequests, refusal("", cue.Gossip))
	case conformance.Unavailable:
		return answer(http.StatusServiceUnavailable, refusal("", cue.Gossip))
	case conformance.Failed:
		return answer(http.StatusInternalServerError, refusal("", cue.Gossip))
	case conformance.AccountFault:
		return answer(http.StatusUnauthorized, refusal("", cue.Gossip))
	}
	return conformance.Answer{}
}

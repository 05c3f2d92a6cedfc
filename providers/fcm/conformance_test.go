package fcm_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/providers/conformance"
	"github.com/fanfare-dev/fanfare/providers/fcm"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	conformance.Run(t, conformance.Subject{
		New: func(tb testing.TB, at conformance.Place) conformance.Sender {
			tb.Helper()
			key := keyFile(tb, tokenServer(tb, grant))
			s, err := fcm.New(tb.Context(), fcm.Config{ProjectID: project, BaseURL: at.URL(), CredentialsFile: key}, at.Client)
			require.NoError(tb, err)
			return s
		},
		Provider: conformance.HTTP{Read: messages, Answer: answers},
		Call: func(n int) fanfare.Call {
			c := call()
			c.Recipients = nil
			for i := range n {
				c.Recipients = append(c.Recipients, fanfare.Recipient{
					Number: fanfare.SubscriberNumber(i + 1), Devices: []fanfare.Device{{Token: token(2 * i), Platform: "android"}, {Token: token(2*i + 1), Platform: "ios"}},
				})
			}
			return c
		},
		Oversize: func(c fanfare.Call) fanfare.Call {
			c.Message.Text = strings.Repeat(c.Message.Text+" ", 4096/len(c.Message.Text)+1)
			return c
		},
		Codes: map[conformance.Situation]string{
			conformance.Accepted: "200", conformance.Rejected: "UNREGISTERED", conformance.TooLarge: "payload_too_large",
			conformance.Throttled: "QUOTA_EXCEEDED", conformance.Unavailable: "UNAVAILABLE", conformance.AccountFault: "401",
		},
		Waits:   map[conformance.Situation]time.Duration{conformance.Throttled: time.Minute},
		Secrets: []string{accessToken},
		Golden:  "testdata/request.txt",
	})
}

// messages reads a request as FCM's reference has it.
func messages(r *http.Request, body []byte) ([]conformance.Message, error) {
	var request struct {
		Message struct {
			Token        string `json:"token"`
			Notification struct {
				Title string `json:"title"`
				Body  string `json:"body"`
			} `json:"notification"`
			Android struct {
				TTL string `json:"ttl"`
			} `json:"android"`
		} `json:"message"`
	}
	if r.Method+" "+r.URL.Path != "POST /v1/projects/"+project+"/messages:send" || r.Header.Get("Authorization") != "Bearer "+accessToken || r.Header.Get("Content-Type") != "application/json" {
		return nil, errors.New("not messages:send")
	}
	if err := json.Unmarshal(body, &request); err != nil {
		return nil, err
	}
	m := request.Message
	seconds, err := strconv.Atoi(strings.TrimSuffix(m.Android.TTL, "s"))
	if m.Token == "" || m.Notification.Title == "" || err != nil || seconds < 0 || seconds > 2419200 {
		return nil, fmt.Errorf("not a message: %s", body)
	}
	return []conformance.Message{{To: m.Token, Text: m.Notification.Body}}, nil
}

func answers(cue conformance.Cue) conformance.Answer {
	header := map[string]string{"Content-Type": "application/json; charset=UTF-8"}
	if cue.Wait > 0 {
		header["Retry-After"] = strconv.Itoa(int(cue.Wait.Seconds()))
	}
	refuse := func(status int, state, code string) conformance.Answer {
		return conformance.Answer{Status: status, Header: header, Body: refusal(status, state, code, cue.Gossip)}
	}
	switch cue.Situation {
	case conformance.Accepted:
		return conformance.Answer{Status: http.StatusOK, Header: header, Body: taken(cue.ID)}
	case conformance.Garbled:
		return conformance.Answer{Status: http.StatusOK, Header: header, Body: `{"multicast_id": 216, "success": 1}`}
	case conformance.Rejected:
		return refuse(http.StatusNotFound, "NOT_FOUND", "UNREGISTERED")
	case conformance.TooLarge:
		return refuse(http.StatusBadRequest, "INVALID_ARGUMENT", "INVALID_ARGUMENT")
	case conformance.Throttled:
		return refuse(http.StatusTooManyRequests, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED")
	case conformance.Unavailable:
		return refuse(http.StatusServiceUnavailable, "UNAVAILABLE", "UNAVAILABLE")
	case conformance.Failed:
		return refuse(http.StatusInternalServerError, "INTERNAL", "INTERNAL")
	case conformance.AccountFault:
		return refuse(http.StatusUnauthorized, "UNAUTHENTICATED", "")
	}
	return conformance.Answer{}
}

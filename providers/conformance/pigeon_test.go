package conformance_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/providers/conformance"
)

// A whole provider, made up, as docs/adding-a-provider.md shows it: Pigeon Post takes
// up to five messages in one request.

const maxRecipients = 5

// pigeon sends through Pigeon Post.
type pigeon struct {
	client *http.Client
	// request makes the request of a body. The key lives in the closure, where not
	// even %+v of a pigeon finds it.
	request func(ctx context.Context, body []byte) (*http.Request, error)
}

func newPigeon(base string, key fanfare.Secret, hc *http.Client) *pigeon {
	own := *hc
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &pigeon{client: &own, request: func(ctx context.Context, body []byte) (*http.Request, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/flights", bytes.NewReader(body))
		if err == nil {
			r.Header.Set("Authorization", "Bearer "+string(key))
			r.Header.Set("Content-Type", "application/json")
		}
		return r, err
	}}
}

func (p *pigeon) Name() string { return "pigeon" }

func (p *pigeon) MaxRecipients() int { return maxRecipients }

// Send makes one call, once, and says what it came to.
func (p *pigeon) Send(ctx context.Context, call fanfare.Call) fanfare.Reply {
	if len(call.Recipients) > maxRecipients {
		return fanfare.Reply{Split: true, Outcome: fanfare.Outcome{Kind: fanfare.OutcomeReleased, Detail: "more recipients than one request may have"}}
	}
	request, err := p.request(ctx, encode(call))
	if err != nil {
		return fanfare.Reply{Outcome: fanfare.Unanswered(fanfare.LeaseFrom(ctx), "Pigeon Post", err)}
	}
	answer, err := p.client.Do(request)
	if err != nil {
		return fanfare.Reply{Outcome: fanfare.Unanswered(fanfare.LeaseFrom(ctx), "Pigeon Post", err)}
	}
	defer answer.Body.Close()
	body, unread := io.ReadAll(answer.Body)
	return judge(answer, body, unread, len(call.Recipients))
}

// flight is a message as Pigeon Post takes it.
type flight struct {
	To   string `json:"to"`
	Text string `json:"text"`
	Ref  string `json:"ref"`
}

func encode(call fanfare.Call) []byte {
	var flights []flight
	for _, to := range call.Recipients {
		ref := fanfare.DeliveryID{Publication: call.Publication, Channel: call.Channel, Number: to.Number}
		flights = append(flights, flight{To: to.Address, Text: call.Message.Subject + "\n" + call.Message.Text, Ref: ref.String()})
	}
	body, _ := json.Marshal(flights) // strings always marshal
	return body
}

// judge says what an answer means. Of what Pigeon Post writes in it only codes and
// places are kept: its sentences repeat what it was sent.
func judge(answer *http.Response, body []byte, unread error, recipients int) fanfare.Reply {
	out := fanfare.Outcome{Code: strconv.Itoa(answer.StatusCode)}
	say := func(kind fanfare.OutcomeKind, detail string) fanfare.Reply {
		out.Kind, out.Detail = kind, detail
		return fanfare.Reply{Outcome: out}
	}
	var told struct {
		ID  string `json:"id"`
		Bad *int   `json:"bad"`
	}
	if err := json.Unmarshal(body, &told); unread == nil && err != nil {
		unread = err
	}
	switch status := answer.StatusCode; {
	case status == http.StatusCreated && (unread != nil || told.ID == ""):
		return say(fanfare.OutcomeAmbiguous, "the answer says accepted and cannot be read")
	case status == http.StatusCreated:
		reply := say(fanfare.OutcomeAccepted, "")
		reply.ProviderID = told.ID
		return reply
	case status/100 == 3 || status == http.StatusUnauthorized:
		out.Account = true
		return say(fanfare.OutcomeUnavailable, "Pigeon Post does not know us: check PIGEON_BASE_URL and PIGEON_KEY")
	case status == http.StatusTooManyRequests:
		out.RetryAfter = seconds(answer.Header)
		return say(fanfare.OutcomeThrottled, "Pigeon Post asks to send more slowly")
	case status == http.StatusServiceUnavailable:
		out.RetryAfter = seconds(answer.Header)
		return say(fanfare.OutcomeUnavailable, "Pigeon Post is closed")
	case status >= 500:
		return say(fanfare.OutcomeAmbiguous, "Pigeon Post failed, and does not say whether it took the request")
	case told.Bad != nil && 0 <= *told.Bad && *told.Bad < recipients:
		reply := say(fanfare.OutcomeReleased, "Pigeon Post refuses the request because of one recipient")
		reply.Named = map[int]fanfare.Outcome{*told.Bad: {Kind: fanfare.OutcomeRejected, Code: out.Code, Detail: "Pigeon Post does not fly there"}}
		return reply
	case recipients > 1:
		reply := say(fanfare.OutcomeReleased, "Pigeon Post refuses the request and does not say because of whom")
		reply.Split = true
		return reply
	default:
		return say(fanfare.OutcomeRejected, "Pigeon Post refuses the request")
	}
}

func seconds(header http.Header) time.Duration {
	n, _ := strconv.Atoi(header.Get("Retry-After"))
	return time.Duration(n) * time.Second
}

// What follows stands in the provider's conformance_test.go.

func subject() conformance.Subject {
	return conformance.Subject{
		New: func(_ testing.TB, at conformance.Place) conformance.Sender {
			return newPigeon(at.URL(), "the-key", at.Client)
		},
		Provider: conformance.HTTP{Read: flights, Answer: answers},
		Call:     call,
		Codes: map[conformance.Situation]string{
			conformance.Accepted: "201", conformance.Rejected: "422", conformance.OneBad: "422", conformance.TooLarge: "413",
			conformance.Throttled: "429", conformance.Unavailable: "503", conformance.AccountFault: "401",
		},
		Secrets: []string{"the-key"},
		Golden:  "testdata/request.txt",
	}
}

func TestPigeonConforms(t *testing.T) {
	t.Parallel()
	conformance.Run(t, subject())
}

func call(n int) fanfare.Call {
	c := fanfare.Call{
		ID: "0198c5a0-9a51-7cc3-98c4-1c0c0c0739aa", Publication: "0198c5a0-7d1e-7cc3-98c4-dc0c0c07398f", Channel: fanfare.SMS,
		Message: fanfare.Message{Subject: "Why the tide tables were wrong", Text: "Nobody had noticed for eighty years that they were wrong."},
	}
	for i := range n {
		c.Recipients = append(c.Recipients, fanfare.Recipient{Number: fanfare.SubscriberNumber(i + 1), Address: fmt.Sprintf("loft-%d.harbour-street", i)})
	}
	return c
}

// flights reads a request as strictly as Pigeon Post does.
func flights(r *http.Request, body []byte) ([]conformance.Message, error) {
	if r.Method+" "+r.URL.Path != "POST /flights" || r.Header.Get("Authorization") != "Bearer the-key" {
		return nil, errors.New("not a request for flights")
	}
	var asked []flight
	if err := json.Unmarshal(body, &asked); err != nil {
		return nil, err
	}
	var messages []conformance.Message
	for _, f := range asked {
		messages = append(messages, conformance.Message{To: f.To, Text: f.Text})
	}
	return messages, nil
}

// answers is what Pigeon Post says.
func answers(cue conformance.Cue) conformance.Answer {
	refuse := func(status int) conformance.Answer {
		answer := conformance.Answer{Status: status, Header: map[string]string{}, Body: `{"error":"` + cue.Gossip + `"}`}
		if cue.Wait > 0 {
			answer.Header["Retry-After"] = strconv.Itoa(int(cue.Wait.Seconds()))
		}
		return answer
	}
	switch cue.Situation {
	case conformance.Accepted:
		return conformance.Answer{Status: http.StatusCreated, Body: `{"id":"` + cue.ID + `"}`}
	case conformance.Garbled:
		return conformance.Answer{Status: http.StatusCreated, Body: `{"thanks":true}`}
	case conformance.OneBad:
		if cue.Bad >= 0 {
			return conformance.Answer{Status: http.StatusUnprocessableEntity, Body: fmt.Sprintf(`{"bad":%d,"error":"%s"}`, cue.Bad, cue.Gossip)}
		}
		return refuse(http.StatusUnprocessableEntity)
	case conformance.Rejected:
		return refuse(http.StatusUnprocessableEntity)
	case conformance.TooLarge:
		return refuse(http.StatusRequestEntityTooLarge)
	case conformance.Throttled:
		return refuse(http.StatusTooManyRequests)
	case conformance.Unavailable:
		return refuse(http.StatusServiceUnavailable)
	case conformance.Failed:
		return refuse(http.StatusInternalServerError)
	case conformance.AccountFault:
		return refuse(http.StatusUnauthorized)
	}
	return conformance.Answer{}
}

package sendgrid

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/sendgrid/rest"

	"github.com/fanfare-dev/fanfare"
)

// LookUp asks SendGrid's Email Logs whether they show a message of the call. Its
// time is not needed: its id is in no other call's category, and a bound could only
// hide a message from a clock that is wrong.
//
// SendGrid accepts or refuses a request as a whole, so one message that shows
// proves that all of the call's recipients were accepted. The search is by the
// call's category; the message found must then carry the call's id itself. That
// nothing shows proves nothing: logs lag.
//
// The error matches fanfare.ErrNoLookUp when this account, key or server offers
// no Email Logs. Any other error means that the question was not answered, and
// is worth asking again.
func (s *Sender) LookUp(ctx context.Context, about fanfare.Question) (fanfare.Sighting, error) {
	call := about.Call
	// A name has no quotes that could end the text in the query.
	if !fanfare.ValidName(string(call)) {
		return fanfare.Sighting{}, fmt.Errorf("look up a call at %s: its id is not a name: %w", s.name, fanfare.ErrInvalid)
	}
	id, err := s.searchLogs(ctx, call)
	if err != nil {
		return fanfare.Sighting{}, fmt.Errorf("look up call %s at %s: %w", call, s.name, err)
	}
	if id == "" {
		return fanfare.Sighting{}, nil
	}
	ours, err := s.carries(ctx, id, call)
	if err != nil {
		// Not wrapped: the search has shown a message, so there is a look-up.
		return fanfare.Sighting{}, fmt.Errorf("look up call %s at %s: read message: %v", call, s.name, err) //nolint:errorlint // see above
	}
	if !ours {
		return fanfare.Sighting{}, nil
	}
	// The part before the first dot is the X-Message-Id of the request.
	prefix, _, _ := strings.Cut(id, ".")
	return fanfare.Sighting{Seen: true, Evidence: "SendGrid's Email Logs show message " + scrub(prefix, fanfare.Call{}) + " of this call"}, nil
}

// searchLogs gives the id of a message with the call's category; "" if none shows.
func (s *Sender) searchLogs(ctx context.Context, call fanfare.CallID) (string, error) {
	body, err := marshal(struct {
		Query string `json:"query"`
		Limit int    `json:"limit"`
	}{Query: fmt.Sprintf("categories IN ('%s')", call), Limit: 1})
	if err != nil {
		return "", err
	}
	request := s.request(rest.Post, "/v3/logs")
	request.Body = body
	var found struct {
		Messages []struct {
			ID string `json:"sg_message_id"`
		} `json:"messages"`
	}
	if err := s.ask(ctx, request, &found); err != nil {
		return "", err
	}
	if len(found.Messages) == 0 {
		return "", nil
	}
	return found.Messages[0].ID, nil
}

// carries says whether a message in the logs carries the call's id.
func (s *Sender) carries(ctx context.Context, id string, call fanfare.CallID) (bool, error) {
	var message struct {
		Category   []string          `json:"category"`
		CustomArgs map[string]string `json:"custom_args"`
	}
	err := s.ask(ctx, s.request(rest.Get, "/v3/logs/"+url.PathEscape(id)), &message)
	var status statusError
	if errors.As(err, &status) && status == http.StatusNotFound {
		// The search has just shown it: the logs lag behind themselves.
		return false, errors.New("found and not yet readable")
	}
	return message.CustomArgs[argCall] == string(call) || slices.Contains(message.Category, string(call)), err
}

// statusError is an answer other than 200. Those by which SendGrid says that this
// account has no Email Logs match fanfare.ErrNoLookUp. No other does, however
// lasting it looks: a question that was refused for its form or its key must not
// pass for one that cannot be asked, because then recipients are sent to again.
type statusError int

func (e statusError) Error() string { return fmt.Sprintf("status %d", int(e)) }

func (e statusError) Is(target error) bool {
	switch e {
	case http.StatusPaymentRequired, http.StatusForbidden, http.StatusNotFound:
		return target == fanfare.ErrNoLookUp
	}
	return false
}

// unreached is why there was no answer. Its words are ours: net/http's repeat what the
// other end said.
type unreached struct{ err error }

func (e unreached) Error() string { return "it was not reached, or did not answer" }

func (e unreached) Unwrap() error { return e.err }

// ask sends a question and reads the answer into out.
func (s *Sender) ask(ctx context.Context, request rest.Request, out any) error {
	answer, err := s.client.SendWithContext(ctx, request)
	if err != nil {
		return unreached{err}
	}
	if answer.StatusCode != http.StatusOK {
		return statusError(answer.StatusCode)
	}
	if err := json.Unmarshal([]byte(answer.Body), out); err != nil {
		return errors.New("the answer is not what Email Logs answer")
	}
	return nil
}

package twilio

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	api "github.com/twilio/twilio-go/rest/api/v2010"

	"github.com/fanfare-dev/fanfare"
)

const (
	// pageSize is the most that Twilio puts on a page. One is enough: these are the
	// messages to one recipient, the newest first.
	pageSize = 1000
	// apart is how far outside of a call its message may have been made by Twilio's
	// clock: no clock of a server that is looked after is further from another.
	apart = 2 * time.Minute
)

// LookUp gives the messages that may be the call's: those that Twilio lists with its
// recipient, its time and its text; any text where the question has none. Twilio keeps no id of ours, so that Seen stays
// false, and who asks has to see which of them belongs to no other call. That nothing
// shows proves nothing: lists lag.
//
// The search is not narrowed by the day on which messages were sent, Twilio's only
// filter of time: one that waits in its queue has none yet.
//
// The error matches fanfare.ErrNoLookUp when this account or server lets nobody
// list, and when there is no number to ask about. Any other error means that the question was not answered, and is worth
// asking again.
func (s *Sender) LookUp(ctx context.Context, q fanfare.Question) (fanfare.Sighting, error) {
	if q.Address == "" {
		return fanfare.Sighting{}, fmt.Errorf("look up call %s at %s: it needs the recipient, who has no number any more: %w: %w", q.Call, s.name, fanfare.ErrNoLookUp, fanfare.ErrInvalid)
	}
	page, err := s.list(ctx, q.Address)
	if err != nil {
		return fanfare.Sighting{}, fmt.Errorf("look up call %s at %s: %w", q.Call, s.name, err)
	}
	from, until := q.BeganAt.Add(-apart), q.EndedAt.Add(apart)
	var found []string
	oldest := until
	for _, m := range page.Messages {
		made, err := time.Parse(time.RFC1123Z, value(m.DateCreated))
		if err != nil {
			return fanfare.Sighting{}, fmt.Errorf("look up call %s at %s: a message has no time", q.Call, s.name)
		}
		if made.Before(oldest) {
			oldest = made
		}
		if sid := value(m.Sid); (q.Text == "" || value(m.Body) == q.Text) && !made.Before(from) && !made.After(until) && messageSID.MatchString(sid) {
			found = append(found, sid)
		}
	}
	if value(page.NextPageUri) != "" && !oldest.Before(from) {
		return fanfare.Sighting{}, fmt.Errorf("look up call %s at %s: the recipient got more than %d messages since", q.Call, s.name, pageSize)
	}
	if len(found) == 0 {
		return fanfare.Sighting{}, nil
	}
	return fanfare.Sighting{Messages: found, Evidence: "Twilio lists with this recipient, text and time: " + strings.Join(found, ", ")}, nil
}

// list gives the newest messages to a number.
func (s *Sender) list(ctx context.Context, to string) (*api.ListMessageResponse, error) {
	params := (&api.ListMessageParams{}).SetTo(to).SetPageSize(pageSize)
	if !s.service {
		params.SetFrom(s.from)
	}
	w, sdk := s.wire(ctx)
	page, err := sdk.PageMessage(params, "", "")
	switch {
	case w.status == 0 && w.err != nil:
		return nil, unreached{w.err}
	case w.status == 0:
		return nil, errors.New("the question could not be put")
	case w.status != http.StatusOK:
		return nil, statusError(w.status)
	case w.err != nil || err != nil:
		return nil, errors.New("the answer is not a list of messages")
	}
	return page, nil
}

// unreached is why there was no answer. Its words are ours: net/http's repeat what the
// other end said.
type unreached struct{ err error }

func (e unreached) Error() string { return "it was not reached, or did not answer" }

func (e unreached) Unwrap() error { return e.err }

// value is what the SDK points to.
func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// statusError is an answer other than 200. Those by which Twilio says that this
// account may not list messages match fanfare.ErrNoLookUp. A token that is not taken is
// none of them: while somebody changes it, nothing is decided.
type statusError int

func (e statusError) Error() string { return fmt.Sprintf("status %d", int(e)) }

func (e statusError) Is(target error) bool {
	switch e {
	case http.StatusForbidden, http.StatusNotFound:
		return target == fanfare.ErrNoLookUp
	}
	return false
}

package twilio

import (
	"context"
	"net/url"
	"time"

	api "github.com/twilio/twilio-go/rest/api/v2010"

	"github.com/fanfare-dev/fanfare"
)

const (
	// retries is how Twilio repeats a report that we did not take: three times, when it
	// could not connect, or waited too long, or was answered with a 5xx, all within the
	// 15 seconds that it gives at most. Without it there is one retry, and only of
	// connecting. Being a fragment, it is neither sent nor signed.
	retries = "#rc=3&rp=ct,rt,5xx&tt=15000"
	// maxValidity is as long as Twilio keeps a message in its queue.
	maxValidity = 36000 * time.Second

	// The query of the address that Twilio reports to.
	argDelivery = "delivery"
	argCall     = "call"
)

// Send makes one call, once, and says what it came to. ctx carries the lease of
// the call (fanfare.WithLease) and ends with it.
func (s *Sender) Send(ctx context.Context, call fanfare.Call) fanfare.Reply {
	if n := len(call.Recipients); n != maxRecipients {
		return fanfare.Reply{Split: n > maxRecipients, Outcome: fanfare.Outcome{Kind: fanfare.OutcomeReleased, Detail: "Twilio takes one recipient in one request"}}
	}
	seconds, ok := validity(call.Expires, time.Now())
	if !ok {
		return fanfare.Reply{Outcome: fanfare.Outcome{Kind: fanfare.OutcomeReleased, Detail: "the message expired before it was sent"}}
	}
	w, sdk := s.wire(ctx)
	message, err := sdk.CreateMessage(s.params(call).SetValidityPeriod(seconds))
	if w.status == 0 {
		if w.err != nil {
			err = w.err // without method and URL
		}
		return fanfare.Reply{Outcome: fanfare.Unanswered(fanfare.LeaseFrom(ctx), "Twilio", err)}
	}
	return s.judge(answer{wire: w, message: message, err: err}, call.Recipients[0])
}

// params is the request of a call, without its time.
func (s *Sender) params(call fanfare.Call) *api.CreateMessageParams {
	to := call.Recipients[0]
	delivery := fanfare.DeliveryID{Publication: call.Publication, Channel: call.Channel, Number: to.Number}
	p := (&api.CreateMessageParams{}).SetTo(to.Address).SetBody(call.Message.Text).SetStatusCallback(
		s.callback + "?" + argDelivery + "=" + url.QueryEscape(delivery.String()) + "&" + argCall + "=" + url.QueryEscape(string(call.ID)) + retries)
	if s.service {
		return p.SetMessagingServiceSid(s.from)
	}
	return p.SetFrom(s.from)
}

// validity is for how many whole seconds Twilio may keep a message; not ok when that
// is not even one. A message without an end may stay as long as Twilio keeps any.
func validity(expires, now time.Time) (seconds int, ok bool) {
	left := maxValidity
	if !expires.IsZero() {
		left = min(left, expires.Sub(now))
	}
	return int(left / time.Second), left >= time.Second
}

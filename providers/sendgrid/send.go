package sendgrid

import (
	"context"

	"github.com/sendgrid/rest"

	"github.com/fanfare-dev/fanfare"
)

// Send makes one call, once, and says what it came to. ctx carries the lease of
// the call (fanfare.WithLease) and ends with it.
func (s *Sender) Send(ctx context.Context, call fanfare.Call) fanfare.Reply {
	if len(call.Recipients) > maxRecipients {
		return fanfare.Reply{Split: true, Outcome: fanfare.Outcome{Kind: fanfare.OutcomeReleased, Detail: "more recipients than SendGrid takes in one request"}}
	}
	body, err := s.encode(call)
	if err != nil {
		// Nothing was asked of anybody, and no other recipient would fare better.
		return fanfare.Reply{Outcome: fanfare.Outcome{Kind: fanfare.OutcomeUnavailable, Detail: err.Error()}}
	}
	request := s.request(rest.Post, "/v3/mail/send")
	request.Body = body
	answer, err := s.client.SendWithContext(ctx, request)
	if answer == nil {
		return fanfare.Reply{Outcome: fanfare.Unanswered(fanfare.LeaseFrom(ctx), "SendGrid", err)}
	}
	return s.judge(answer, err, call)
}

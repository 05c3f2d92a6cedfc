package sendgrid

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/url"

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
		return fanfare.Reply{Outcome: unanswered(fanfare.LeaseFrom(ctx), err)}
	}
	return s.judge(answer, err, call)
}

// unanswered judges a call that got no answer by how far it came. Without a lease
// nobody noted that, and the worst is assumed.
func unanswered(lease *fanfare.Lease, err error) fanfare.Outcome {
	why := reason(err)
	switch {
	case lease == nil || lease.Written():
		return fanfare.Outcome{Kind: fanfare.OutcomeAmbiguous, Detail: "the request was written and no answer came: " + why}
	case errors.Is(err, fanfare.ErrTooLate), errors.Is(err, context.Canceled):
		return fanfare.Outcome{Kind: fanfare.OutcomeReleased, Detail: "the request was not written whole: " + why}
	default:
		return fanfare.Outcome{Kind: fanfare.OutcomeUnavailable, Detail: "SendGrid was not reached: " + why}
	}
}

// reason puts an error in words. Those of net/http are left out: they repeat what the
// other end said, and that can be what it was sent.
func reason(err error) string {
	var outer *url.Error
	if errors.As(err, &outer) {
		err = outer.Err // without method and URL
	}
	var network *net.OpError
	var distrust *tls.CertificateVerificationError
	switch {
	case errors.Is(err, fanfare.ErrTooLate), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err.Error()
	case errors.As(err, &network):
		return network.Err.Error() // without addresses and ports
	case errors.As(err, &distrust):
		return "its certificate is not trusted"
	case errors.Is(err, io.EOF):
		return "it closed the connection"
	default:
		return "an error in the conversation"
	}
}

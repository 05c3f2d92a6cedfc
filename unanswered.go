package fanfare

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/url"
)

// Unanswered judges a request that went through a GatedTransport and got no answer, by
// how far it came. lease is that of the request; without one nobody noted how far, and
// the worst is assumed. provider is its name in sentences for people.
func Unanswered(lease *Lease, provider string, err error) Outcome {
	switch {
	case lease == nil || lease.Written():
		return Outcome{Kind: OutcomeAmbiguous, Detail: "the request was written and no answer came: " + broken(err)}
	case errors.Is(err, ErrTooLate), errors.Is(err, context.Canceled):
		return Outcome{Kind: OutcomeReleased, Detail: "the request was not written whole: " + broken(err)}
	default:
		return Outcome{Kind: OutcomeUnavailable, Detail: provider + " was not reached: " + broken(err)}
	}
}

// broken puts an error of the network in words. Those of net/http are left out: they
// repeat what the other end said, and that can be what it was sent.
func broken(err error) string {
	var outer *url.Error
	if errors.As(err, &outer) {
		err = outer.Err // without method and URL
	}
	var network *net.OpError
	var distrust *tls.CertificateVerificationError
	switch {
	case errors.Is(err, ErrTooLate), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
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

package fanfare

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestUnanswered(t *testing.T) {
	t.Parallel()
	written, unwritten := testLease(), testLease()
	written.wrote.Store(true)
	late := testLease()
	lapse(late)
	dialled := &net.OpError{Op: "dial", Net: "tcp", Addr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 443}, Err: syscall.ECONNREFUSED}
	echo := errors.New(`net/http: malformed MIME header: missing colon: "\"reader@readers.example\""`)
	for name, tc := range map[string]struct {
		lease *Lease
		err   error
		want  Outcome
	}{
		"refused":           {unwritten, dialled, Outcome{Kind: OutcomeUnavailable, Detail: "Pigeon Post was not reached: connection refused"}},
		"not trusted":       {unwritten, &tls.CertificateVerificationError{Err: echo}, Outcome{Kind: OutcomeUnavailable, Detail: "Pigeon Post was not reached: its certificate is not trusted"}},
		"timed out":         {unwritten, context.DeadlineExceeded, Outcome{Kind: OutcomeUnavailable, Detail: "Pigeon Post was not reached: context deadline exceeded"}},
		"cancelled":         {unwritten, context.Canceled, Outcome{Kind: OutcomeReleased, Detail: "the request was not written whole: context canceled"}},
		"too late":          {late, late.MayBegin(), Outcome{Kind: OutcomeReleased, Detail: "the request was not written whole: call call-1: must begin within 0s: too late to begin the call"}},
		"echoed":            {unwritten, echo, Outcome{Kind: OutcomeUnavailable, Detail: "Pigeon Post was not reached: an error in the conversation"}},
		"echoed, written":   {written, echo, Outcome{Kind: OutcomeAmbiguous, Detail: "the request was written and no answer came: an error in the conversation"}},
		"closed, written":   {written, io.EOF, Outcome{Kind: OutcomeAmbiguous, Detail: "the request was written and no answer came: it closed the connection"}},
		"too late, written": {written, fmt.Errorf("x: %w", ErrTooLate), Outcome{Kind: OutcomeAmbiguous, Detail: "the request was written and no answer came: x: too late to begin the call"}},
		"no lease":          {nil, dialled, Outcome{Kind: OutcomeAmbiguous, Detail: "the request was written and no answer came: connection refused"}},
	} {
		require.Equal(t, tc.want, Unanswered(tc.lease, "Pigeon Post", tc.err), name)
		require.Equal(t, tc.want, Unanswered(tc.lease, "Pigeon Post", &url.Error{Op: "Post", URL: "https://provider.example/34612345678", Err: tc.err}), name)
	}
}

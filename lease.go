package fanfare

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// Lease is the right to make one call, won by a claim. It carries the two
// times that the claim wrote to the ledger, counted from a clock reading that
// the worker took before it claimed: the worker's deadlines therefore never lie
// after the ledger's, however the two clocks differ.
type Lease struct {
	Call  CallID
	start time.Time // taken before the claim; wall and monotonic
	begin time.Duration
	until time.Duration
	wrote atomic.Bool
}

// NewLease makes the lease of a call. start is time.Now() read before the claim
// was asked for; begin and until are the claim's spans for beginning and ending.
func NewLease(call CallID, start time.Time, begin, until time.Duration) *Lease {
	return &Lease{Call: call, start: start, begin: begin, until: until}
}

// MayBegin returns ErrTooLate once the call must no longer begin. Both the wall
// clock and the monotonic clock must agree: one stands still while a machine
// sleeps, the other can be set back.
func (l *Lease) MayBegin() error { return l.within(l.begin, "begin") }

// mayContinue returns ErrTooLate once the ledger no longer counts on the call.
func (l *Lease) mayContinue() error { return l.within(l.until, "end") }

func (l *Lease) within(span time.Duration, what string) error {
	now := time.Now()
	monotonic := now.Sub(l.start)
	wall := now.Round(0).Sub(l.start.Round(0))
	if monotonic >= span || wall >= span || wall < -time.Second {
		return fmt.Errorf("call %s: must %s within %s: %w", l.Call, what, span, ErrTooLate)
	}
	return nil
}

// Deadline is when the call must have ended, by the worker's clock.
func (l *Lease) Deadline() time.Time { return l.start.Add(l.until) }

// Written reports whether the whole request was handed to the network. Until
// it was, the provider cannot have accepted it.
func (l *Lease) Written() bool { return l.wrote.Load() }

type leaseKey struct{}

// WithLease puts the lease where GatedTransport finds it.
func WithLease(ctx context.Context, l *Lease) context.Context {
	return context.WithValue(ctx, leaseKey{}, l)
}

// LeaseFrom returns the lease in ctx, or nil.
func LeaseFrom(ctx context.Context) *Lease {
	l, _ := ctx.Value(leaseKey{}).(*Lease)
	return l
}

// GatedTransport checks the lease in a request's context at the last moment
// before its body goes to the network, and notes when the body was written
// whole. net/http asks for the body's first bytes before it flushes the headers
// of a small header block, and no provider acts on a request whose body is
// missing; so a lease that has run out means that no call was made.
// Requests without a lease (look-ups) and without a body pass untouched.
type GatedTransport struct {
	Base http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t GatedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	lease := LeaseFrom(r.Context())
	if lease == nil || r.Body == nil {
		return t.Base.RoundTrip(r)
	}
	gated := r.Clone(r.Context())
	gated.Body = &gatedBody{body: r.Body, lease: lease, left: r.ContentLength}
	if r.GetBody != nil {
		// The transport may send again what it could not write on a connection
		// that turned out to be closed: that must pass the gate too.
		gated.GetBody = func() (io.ReadCloser, error) {
			body, err := r.GetBody()
			if err != nil {
				return nil, err
			}
			return &gatedBody{body: body, lease: lease, left: r.ContentLength}, nil
		}
	}
	return t.Base.RoundTrip(gated)
}

type gatedBody struct {
	body  io.ReadCloser
	lease *Lease
	begun bool
	left  int64
}

func (b *gatedBody) Read(p []byte) (int, error) {
	check := b.lease.mayContinue
	if !b.begun {
		check = b.lease.MayBegin
	}
	if err := check(); err != nil {
		return 0, err
	}
	b.begun = true
	n, err := b.body.Read(p)
	b.left -= int64(n)
	// Set before the last bytes leave: what cannot be told apart counts as written.
	if b.left <= 0 || err != nil {
		b.lease.wrote.Store(true)
	}
	return n, err
}

func (b *gatedBody) Close() error { return b.body.Close() }

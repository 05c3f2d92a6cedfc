package fanfare

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
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
	whole *Lease // what this is a part of; nil for the call's own
}

// NewLease makes the lease of a call. start is time.Now() read before the claim
// was asked for; begin and until are the claim's spans for beginning and ending.
func NewLease(call CallID, start time.Time, begin, until time.Duration) *Lease {
	return &Lease{Call: call, start: start, begin: begin, until: until}
}

// Part makes the lease of one request of a call that takes several: it has the times
// of the call's, and notes only for itself whether its request was written.
func (l *Lease) Part() *Lease {
	return &Lease{Call: l.Call, start: l.start, begin: l.begin, until: l.until, whole: l}
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

// Written reports whether the whole request, or that of any part, was handed to
// the network. Until it was, the provider cannot have accepted it.
func (l *Lease) Written() bool { return l.wrote.Load() }

func (l *Lease) noteWritten() {
	for ; l != nil; l = l.whole {
		l.wrote.Store(true)
	}
}

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

// GatedTransport checks the lease in a request's context three times: before it
// asks for a connection, when it has one, which may be long after, and at the
// last moment before the body goes to the network. It notes when the body was
// handed over whole.
//
// A lease that has run out by the second check leaves no byte on the network.
// Between it and the third lies no wait, but a machine can stall there: net/http
// flushes the headers before it asks for this body, so they may go out alone. The
// connection is then closed (HTTP/1) or the stream reset (HTTP/2), and no
// provider acts on a request whose body is missing.
//
// net/http sends a request again by itself where the provider cannot have looked at it:
// on a connection that turned out to be closed, or that is about to be. Over HTTP/2 it also
// does, without end, where the provider had the request whole and reset it as against the
// protocol, and does not say which of the two it is: maxWhole ends that.
//
// Requests without a lease (look-ups) and without a body pass untouched. Base
// must not speak HTTP/2 without TLS: a refused connection is closed, and one that
// others share must be known as such.
type GatedTransport struct {
	Base http.RoundTripper
}

// maxWhole is how often one request may be handed over whole over HTTP/2.
const maxWhole = 2

var errReset = errors.New("the provider resets the request whenever it is sent")

// RoundTrip implements http.RoundTripper. A request that was refused or cut by
// its lease ends with ErrTooLate.
func (t GatedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	lease := LeaseFrom(r.Context())
	if lease == nil || r.Body == nil || r.Body == http.NoBody {
		return t.Base.RoundTrip(r)
	}
	if err := lease.MayBegin(); err != nil {
		_ = r.Body.Close() // unread; the contract asks for it
		return nil, err
	}
	// Not cancelled on success: the answer is still to be read. It is freed with
	// the context of the call.
	ctx, cancel := context.WithCancelCause(r.Context())
	g := &gate{lease: lease, length: r.ContentLength, refuse: cancel}
	gated := r.Clone(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: g.connected}))
	gated.Body = g.body(r.Body)
	if r.GetBody != nil {
		// The transport may send again what it could not write on a connection
		// that turned out to be closed: that must pass the gate too.
		gated.GetBody = func() (io.ReadCloser, error) {
			if g.shared.Load() && g.whole.Load() >= maxWhole {
				return nil, errReset
			}
			body, err := r.GetBody()
			if err != nil {
				return nil, err
			}
			return g.body(body), nil
		}
	}
	answer, err := t.Base.RoundTrip(gated)
	if cause := context.Cause(ctx); errors.Is(cause, ErrTooLate) {
		// Some servers answer a request that was cut as if it had been whole.
		if answer != nil {
			_ = answer.Body.Close()
		}
		return nil, cause
	}
	if err != nil {
		cancel(err)
	}
	return answer, err
}

// gate watches one request from its connection to its last byte.
type gate struct {
	lease  *Lease
	length int64
	refuse context.CancelCauseFunc
	shared atomic.Bool  // the connection is of HTTP/2
	whole  atomic.Int32 // how often the body was handed over
}

func (g *gate) connected(got httptrace.GotConnInfo) {
	conn, encrypted := got.Conn.(*tls.Conn)
	g.shared.Store(encrypted && conn.ConnectionState().NegotiatedProtocol == "h2")
	err := g.lease.MayBegin()
	if err == nil {
		return
	}
	g.refuse(err)
	// HTTP/2 looks at the context before it writes headers. HTTP/1 does not, but
	// its connection carries this request only.
	if !g.shared.Load() {
		_ = got.Conn.Close()
	}
}

func (g *gate) body(body io.ReadCloser) io.ReadCloser {
	return &gatedBody{gate: g, body: body, left: g.length}
}

type gatedBody struct {
	*gate
	body  io.ReadCloser
	begun bool
	ended bool
	left  int64 // below zero from the start if the length is not known
}

func (b *gatedBody) Read(p []byte) (int, error) {
	check := b.lease.mayContinue
	if !b.begun {
		check = b.lease.MayBegin
	}
	if err := check(); err != nil {
		b.refuse(err)
		return 0, err
	}
	b.begun = true
	n, err := b.body.Read(p)
	b.left -= int64(n)
	// Set before the last bytes leave: what cannot be told apart counts as
	// written. That includes the first bytes of a body of unknown length.
	if b.left <= 0 && !b.ended {
		b.ended = true
		b.whole.Add(1)
		b.lease.noteWritten()
	}
	return n, err
}

func (b *gatedBody) Close() error { return b.body.Close() }

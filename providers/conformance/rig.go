package conformance

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare"
)

const (
	// span is a lease that no test outlives.
	span = 5 * time.Minute
	// patience is how long what must come may take on a busy machine.
	patience = 10 * time.Second
	// asked is the time that a provider asks to wait.
	asked = 7 * time.Second
)

// rig is one sender before its provider.
type rig struct {
	testing.TB

	subject Subject
	stage   *Stage
	wire    *wire
	sender  Sender
}

// set up a sender before a provider in a situation.
func (s Subject) set(tb testing.TB, situation Situation) *rig {
	tb.Helper()
	if !s.http2 {
		return s.setUp(tb, situation, nil, nil)
	}
	known := certified()
	known.NextProtos = []string{"h2"}
	return s.setUp(tb, situation, known, &tls.Config{RootCAs: roots(tb, known), MinVersion: tls.VersionTLS12})
}

// setUp lets the provider speak TLS if it is encrypted; a sender that is to trust it
// needs a configuration too.
func (s Subject) setUp(tb testing.TB, situation Situation, encrypted, trust *tls.Config) *rig {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(tb, err)
	r := &rig{TB: tb, subject: s, stage: &Stage{situation: situation, over: make(chan struct{})}, wire: &wire{Listener: listener, open: map[*countedConn]bool{}}}
	if s.http2 {
		r.stage.major = 2
	}
	listener = r.wire
	if encrypted != nil {
		listener = tls.NewListener(r.wire, encrypted)
	}
	s.Provider.Play(tb, listener, r.stage)
	tb.Cleanup(func() { // before the provider's own
		close(r.stage.over)
		_ = listener.Close()
		for _, conn := range r.wire.left() { // those that the sender keeps for later
			_ = conn.Close()
		}
	})
	r.sender = s.New(tb, place(tb, r.wire.Addr().String(), encrypted != nil, trust))
	return r
}

func place(tb testing.TB, address string, encrypted bool, trust *tls.Config) Place {
	tb.Helper()
	base := &http.Transport{TLSClientConfig: trust, ForceAttemptHTTP2: true}
	tb.Cleanup(base.CloseIdleConnections)
	return Place{Address: address, TLS: encrypted, Client: &http.Client{Transport: fanfare.GatedTransport{Base: base}}}
}

// certified is TLS with a certificate for 127.0.0.1, which nobody knows.
func certified() *tls.Config {
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	return &tls.Config{Certificates: server.TLS.Certificates, MinVersion: tls.VersionTLS12}
}

// roots are for whoever is to trust it.
func roots(tb testing.TB, encrypted *tls.Config) *x509.CertPool {
	tb.Helper()
	certificate, err := x509.ParseCertificate(encrypted.Certificates[0].Certificate[0])
	require.NoError(tb, err)
	pool := x509.NewCertPool()
	pool.AddCert(certificate)
	return pool
}

// leased is the context that a worker gives to a call.
func leased(tb testing.TB, call fanfare.Call) context.Context {
	tb.Helper()
	lease := fanfare.NewLease(call.ID, time.Now(), span, span)
	ctx, cancel := context.WithDeadline(fanfare.WithLease(tb.Context(), lease), lease.Deadline())
	tb.Cleanup(cancel)
	return ctx
}

// send makes a call and inspects what comes of it.
func (r *rig) send(call fanfare.Call) fanfare.Reply {
	r.Helper()
	return r.sendIn(leased(r, call), call)
}

func (r *rig) sendIn(ctx context.Context, call fanfare.Call) fanfare.Reply {
	r.Helper()
	r.stage.set(func(s *Stage) { s.gossip = gossip(call) })
	reply := r.sender.Send(ctx, call)
	require.Empty(r, r.stage.complaints())
	r.subject.inspect(r, call, reply)
	return reply
}

// began asserts how many requests the provider has seen begin.
func (r *rig) began(want int) {
	r.Helper()
	begun, _ := r.stage.requests()
	require.Equal(r, want, begun, "requests at the provider")
}

// reached counts the messages that the provider took for each address.
func (r *rig) reached() map[string]int {
	count := map[string]int{}
	_, taken := r.stage.requests()
	for _, t := range taken {
		for _, m := range t.Messages {
			count[m.To]++
		}
	}
	return count
}

// once asserts that each of the recipients was reached once, and nobody else.
func (r *rig) once(recipients ...fanfare.Recipient) {
	r.Helper()
	want := map[string]int{}
	for _, to := range recipients {
		for _, address := range addresses(to) {
			want[address] = 1
		}
	}
	require.Equal(r, want, r.reached(), "messages for each address")
}

// closed asserts that no connection is left to do harm on.
func (r *rig) closed() {
	r.Helper()
	require.Eventually(r, func() bool { return len(r.wire.left()) == 0 }, patience, time.Millisecond, "a connection outlived its call")
}

// addresses are where a recipient's message goes.
func addresses(to fanfare.Recipient) []string {
	if to.Devices == nil {
		return []string{to.Address}
	}
	var tokens []string
	for _, d := range to.Devices {
		tokens = append(tokens, d.Token)
	}
	return tokens
}

// requests is how many a call takes: one, or one for each device of a push.
func requests(call fanfare.Call) int {
	if len(call.Recipients) > 0 && call.Recipients[0].Devices == nil {
		return 1
	}
	n := 0
	for _, to := range call.Recipients {
		n += len(to.Devices)
	}
	return n
}

// of is the outcome of one recipient.
func of(reply fanfare.Reply, place int) fanfare.Outcome {
	if own, ok := reply.Named[place]; ok {
		return own
	}
	return reply.Outcome
}

// deliver does with a call what a worker does, and returns the outcome of each
// recipient by number: whoever was released takes part in a new call, and halves
// are tried apart. What is not accepted in the end is not tried again.
func (r *rig) deliver(call fanfare.Call) map[fanfare.SubscriberNumber]fanfare.Outcome {
	r.Helper()
	ends := map[fanfare.SubscriberNumber]fanfare.Outcome{}
	// A tree of halves has twice as many nodes as leaves.
	calls := 2 * len(call.Recipients)
	for waiting := [][]fanfare.Recipient{call.Recipients}; len(waiting) > 0; calls-- {
		require.Positive(r, calls, "the calls do not come to an end")
		next := call
		next.ID = fanfare.CallID(fmt.Sprintf("%s%04x", call.ID[:len(call.ID)-4], calls))
		next.Recipients, waiting = waiting[0], waiting[1:]
		reply := r.send(next)
		if middle := len(next.Recipients) / 2; reply.Split {
			waiting = append(waiting, next.Recipients[:middle], next.Recipients[middle:])
			continue
		}
		var again []fanfare.Recipient
		for i, to := range next.Recipients {
			if end := of(reply, i); end.Kind == fanfare.OutcomeReleased {
				again = append(again, to)
			} else {
				ends[to.Number] = end
			}
		}
		if len(again) > 0 {
			waiting = append(waiting, again)
		}
	}
	return ends
}

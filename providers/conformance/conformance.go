// Package conformance holds every provider's sender to the same promises.
//
// It owns the situations that a call can come into, and what a sender must make of
// each: the kind of its outcome, what is on the wire, who is reached how often, and
// that nothing personal is told. It knows no provider: a Subject says how its own is
// called and a Provider plays it. It is for tests, and no other package imports it.
//
// It promises that a sender which passes keeps activities.Sender's contract at a
// provider that behaves like its stand-in. What only one provider does (its codes,
// its settings, its encryption) is for the tests beside it.
package conformance

import (
	"context"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare"
)

// Sender is what the suite is about: activities.Sender.
type Sender interface {
	Name() string
	MaxRecipients() int
	Send(ctx context.Context, call fanfare.Call) fanfare.Reply
}

// Subject is a provider's sender, with what the suite must know of it.
type Subject struct {
	// New makes a sender that looks for its provider at a place and nowhere else. It
	// is to sign in with made-up Secrets.
	New func(tb testing.TB, at Place) Sender
	// Provider is the other end.
	Provider Provider
	// Call makes a valid call of n recipients, none of whom share an address. Its Text
	// holds a line of more than 40 letters.
	Call func(n int) fanfare.Call
	// Oversize makes a call's message larger than the provider takes; nil where that
	// is more than a test wants to hold, and the provider's word is enough.
	Oversize func(fanfare.Call) fanfare.Call
	// Codes are Outcome.Code in each situation that Provider is asked to play.
	Codes map[Situation]string
	// Waits are Outcome.RetryAfter in Throttled and Unavailable where the provider does
	// not say for how long; none is for the caller to decide.
	Waits map[Situation]time.Duration
	// Lacks are situations that this provider cannot bring about, each with the reason.
	Lacks map[Situation]string
	// Secrets are what New's sender signs in with.
	Secrets []string
	// Golden is the file that holds the request of Call(2), or Call(1) where that is
	// all a call may have, as the provider gets it.
	Golden string

	http2 bool // a trial's own
}

// Place is where a provider listens, or does not.
type Place struct {
	Address string // host and port
	// TLS is true where the first byte has to be encrypted.
	TLS bool
	// Client is gated, for senders that speak HTTP. Those that do not have to hold
	// the lease in the context themselves.
	Client *http.Client
}

// URL is the place of a provider that speaks HTTP.
func (p Place) URL() string {
	if p.TLS {
		return "https://" + p.Address
	}
	return "http://" + p.Address
}

// Situation is something that happens to a call at its provider.
type Situation string

// The situations that a Provider plays. An HTTP needs to answer the first eight
// only, and does the others with those answers.
const (
	// Accepted: all is well.
	Accepted Situation = "accepted"
	// Rejected: the recipient is refused for good.
	Rejected Situation = "rejected"
	// Throttled: too many requests; after Cue.Wait they are welcome again.
	Throttled Situation = "throttled"
	// Unavailable: for a reason that is nobody's fault it was certainly not accepted;
	// after Cue.Wait it may be.
	Unavailable Situation = "unavailable"
	// Failed: the provider fails, and may have accepted before.
	Failed Situation = "failed"
	// OneBad: the call is refused because of the recipient at Cue.Bad.
	OneBad Situation = "one bad"
	// TooLarge: the request is refused for its size.
	TooLarge Situation = "too large"
	// AccountFault: the account, the key or the sender is refused.
	AccountFault Situation = "account fault"

	// Garbled: it says "accepted" in a form that nobody knows. An HTTP answers this too.
	Garbled Situation = "garbled"
	// Cut: it accepts, and closes the connection without a word.
	Cut Situation = "cut"
	// Silent: it accepts, and says nothing until the other end closes.
	Silent Situation = "silent"
	// BrokenOff: it says "accepted" and closes in the middle of saying so.
	BrokenOff Situation = "broken off"

	// These are of HTTP alone.

	// RefusalBrokenOff is Throttled, closed in the middle of the body.
	RefusalBrokenOff Situation = "refusal broken off"
	// RefusalForeign is Throttled with the page of a proxy instead of the body.
	RefusalForeign Situation = "refusal of a proxy"
	// Foreign: what answers does not speak HTTP, and repeats what it heard.
	Foreign Situation = "foreign"
	// Redirected: it names another address of its own to go to.
	Redirected Situation = "redirected"
)

// Cue is what a stand-in is to do about a request.
type Cue struct {
	Situation Situation
	// ID is what the provider calls the message that it accepts; 32 hexadecimal
	// digits, another one for each request. A reply's ProviderID must end in it.
	ID string
	// Wait is the time to ask for; zero for not mentioning any.
	Wait time.Duration
	// Bad is the place in the request of the recipient to name; below zero the
	// provider does not say whose fault it is.
	Bad int
	// Gossip repeats what was sent, in one line without quotes: every refusal has to
	// hold it where the provider would put a sentence. None of it may come out.
	Gossip string
}

// Message is one message in a request.
type Message struct {
	To   string // the address, number or token as it was sent
	Text string // whatever of the request is content of this message
}

// Taken is a request that a stand-in has whole.
type Taken struct {
	ID       string // of its cue
	Messages []Message
	// Request is how it looks, with what differs from one time to the next left out.
	Request string
}

// Provider plays a provider. HTTP is one for those that speak it.
type Provider interface {
	// Play answers whoever connects to listener as stage says, until the test ends.
	Play(tb testing.TB, listener net.Listener, stage *Stage)
}

// Run holds a sender to everything there is.
func Run(t *testing.T, s Subject) {
	t.Helper()
	for _, trial := range s.trials(t) {
		t.Run(trial.name, func(t *testing.T) {
			t.Parallel()
			trial.run(t, s)
		})
	}
}

// trial is one thing that a sender is held to, where its provider can bring it about.
type trial struct {
	name  string
	needs Situation
	run   func(testing.TB, Subject)
}

var (
	everyones = []trial{
		{"accepted", Accepted, accepted},
		{"golden request", Accepted, golden},
		{"secrets are not printed", Accepted, keepsSecrets},
		{"the only one refused for good", Rejected, rejected},
		{"throttled", Throttled, throttled},
		{"unavailable", Unavailable, unavailable},
		{"account fault", AccountFault, accountFault},
		{"connection refused", Accepted, connectionRefused},
		{"host unknown", Accepted, hostUnknown},
		{"certificate not trusted", Accepted, notTrusted},
		{"failed", Failed, inDoubt(Failed)},
		{"garbled", Garbled, inDoubt(Garbled)},
		{"acceptance broken off", BrokenOff, inDoubt(BrokenOff)},
		{"cut after the request", Cut, inDoubt(Cut)},
		{"cut on a kept connection", Cut, cutOnKept},
		{"timed out after the request", Silent, timedOut},
		{"cancelled after the request", Silent, cancelledAfter},
		{"cancelled before the request", Accepted, cancelledBefore},
		{"lease too late", Accepted, tooLate},
		{"too large", TooLarge, tooLarge},
		{"more recipients than a call may have", Accepted, tooMany},
		{"many at once", Accepted, manyAtOnce},
	}
	batchSenders = []trial{ // calls of several recipients
		{"one bad among many, named", OneBad, oneBadNamed},
		{"one bad among many, not named", OneBad, oneBadUnnamed},
		{"too large together", TooLarge, tooLargeTogether},
	}
	overHTTP = []trial{
		{"throttled for a time", Throttled, throttledFor},
		{"unavailable for a time", Unavailable, unavailableFor},
		{"refusal broken off", RefusalBrokenOff, refusalIn(RefusalBrokenOff)},
		{"refusal of a proxy", RefusalForeign, refusalIn(RefusalForeign)},
		{"answered in another protocol", Foreign, inDoubt(Foreign)},
		{"redirect not followed", Redirected, redirected},
		{"connections are used again", Accepted, usedAgain},
		{"HTTP/2: throttled", Throttled, over2(throttled)},
		{"HTTP/2: cut after the request", Cut, over2(inDoubt(Cut))},
		{"HTTP/2: cut on a kept connection", Cut, over2(cutOnKept)},
		{"HTTP/2: acceptance broken off", BrokenOff, over2(inDoubt(BrokenOff))},
		{"HTTP/2: timed out after the request", Silent, over2(timedOut)},
		{"HTTP/2: lease too late", Accepted, over2(tooLate)},
		{"HTTP/2: many at once", Accepted, over2(manyAtOnce)},
	}
)

// trials are those that a subject can come into.
func (s Subject) trials(tb testing.TB) []trial {
	tb.Helper()
	all := slices.Clone(everyones)
	if s.maxRecipients(tb) > 1 {
		all = append(all, batchSenders...)
	}
	if _, ok := s.Provider.(HTTP); ok {
		all = append(all, overHTTP...)
	}
	return slices.DeleteFunc(all, func(t trial) bool { return s.Lacks[t.needs] != "" })
}

// maxRecipients looks a subject over and asks a sender that is never used.
func (s Subject) maxRecipients(tb testing.TB) int {
	tb.Helper()
	require.NotEmpty(tb, part(s.Call(1).Message.Text), "no line of the message is long enough to be repeated in part")
	return s.New(tb, place(tb, "127.0.0.1:1", false, nil)).MaxRecipients()
}

package conformance

import (
	"context"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare"
)

// all is as many recipients as a trial about several needs, or as a call may have.
func (r *rig) all() int { return min(r.sender.MaxRecipients(), 8) }

func accepted(tb testing.TB, s Subject) {
	tb.Helper()
	r := s.set(tb, Accepted)
	require.Regexp(tb, `^[a-z][a-z0-9-]*$`, r.sender.Name())
	call := s.Call(r.all())
	reply := r.send(call)
	require.Equal(tb, fanfare.OutcomeAccepted, reply.Outcome.Kind, reply.Outcome.Detail)
	require.Equal(tb, s.Codes[Accepted], reply.Outcome.Code)
	require.Empty(tb, reply.Named)
	require.Empty(tb, reply.Suppress)
	r.began(requests(call))
	r.once(call.Recipients...)
	r.knows(reply)
}

// knows asserts that a reply carries the ids that the provider gave.
func (r *rig) knows(reply fanfare.Reply) {
	r.Helper()
	ids := reply.ProviderID
	for i := range reply.Devices {
		ids += " " + reply.Devices[i].ProviderID
	}
	_, taken := r.stage.requests()
	require.True(r, strings.HasSuffix(reply.ProviderID, taken[0].ID) || len(reply.Devices) > 0, "the provider called it %s, the reply %s", taken[0].ID, ids)
	for _, t := range taken {
		require.Contains(r, ids, t.ID)
	}
}

func golden(tb testing.TB, s Subject) {
	tb.Helper()
	r := s.set(tb, Accepted)
	r.send(s.Call(min(r.sender.MaxRecipients(), 2)))
	_, taken := r.stage.requests()
	require.NotEmpty(tb, taken)
	// A push's requests come in any order.
	Golden(tb, s.Golden, slices.MinFunc(taken, func(a, b Taken) int { return strings.Compare(a.Request, b.Request) }).Request)
}

func keepsSecrets(tb testing.TB, s Subject) {
	tb.Helper()
	r := s.set(tb, Accepted)
	printed := fmt.Sprintf("%v %+v %#v", r.sender, r.sender, r.sender)
	require.NotEmpty(tb, s.Secrets)
	for _, secret := range s.Secrets {
		require.NotContains(tb, printed, secret, "a sender that is printed shows a secret")
	}
}

// refusal sends to one recipient and returns what became of them.
func refusal(tb testing.TB, s Subject, situation Situation) fanfare.Reply {
	tb.Helper()
	r := s.set(tb, situation)
	call := s.Call(1)
	reply := r.send(call)
	r.began(requests(call))
	require.Empty(tb, r.reached())
	require.False(tb, reply.Split)
	return reply
}

func rejected(tb testing.TB, s Subject) {
	tb.Helper()
	reply := refusal(tb, s, Rejected)
	require.Equal(tb, fanfare.OutcomeRejected, of(reply, 0).Kind, of(reply, 0).Detail)
	require.Equal(tb, s.Codes[Rejected], of(reply, 0).Code)
}

func throttled(tb testing.TB, s Subject) {
	tb.Helper()
	reply := refusal(tb, s, Throttled)
	require.Equal(tb, fanfare.OutcomeThrottled, of(reply, 0).Kind, of(reply, 0).Detail)
	require.Equal(tb, s.Codes[Throttled], of(reply, 0).Code)
	require.Equal(tb, s.Waits[Throttled], of(reply, 0).RetryAfter)
}

func unavailable(tb testing.TB, s Subject) {
	tb.Helper()
	reply := refusal(tb, s, Unavailable)
	require.Equal(tb, fanfare.OutcomeUnavailable, reply.Outcome.Kind, reply.Outcome.Detail)
	require.Equal(tb, s.Codes[Unavailable], reply.Outcome.Code)
	require.Equal(tb, s.Waits[Unavailable], reply.Outcome.RetryAfter)
	require.False(tb, reply.Outcome.Account)
	require.Empty(tb, reply.Named)
}

func throttledFor(tb testing.TB, s Subject) {
	tb.Helper()
	waits(tb, s, Throttled, fanfare.OutcomeThrottled)
}

func unavailableFor(tb testing.TB, s Subject) {
	tb.Helper()
	waits(tb, s, Unavailable, fanfare.OutcomeUnavailable)
}

func waits(tb testing.TB, s Subject, situation Situation, want fanfare.OutcomeKind) {
	tb.Helper()
	r := s.set(tb, situation)
	r.stage.set(func(stage *Stage) { stage.wait = asked })
	reply := r.send(s.Call(r.all()))
	require.Equal(tb, want, of(reply, 0).Kind, of(reply, 0).Detail)
	require.Equal(tb, asked, of(reply, 0).RetryAfter)
}

// refusalIn is a refusal that does not come in the form it should: the status says
// enough.
func refusalIn(situation Situation) func(testing.TB, Subject) {
	return func(tb testing.TB, s Subject) {
		tb.Helper()
		reply := refusal(tb, s, situation)
		require.Equal(tb, fanfare.OutcomeThrottled, of(reply, 0).Kind, of(reply, 0).Detail)
		require.NotEmpty(tb, of(reply, 0).Code)
	}
}

var settingName = regexp.MustCompile(`\b[A-Z]+(_[A-Z0-9]+)+\b`)

func accountFault(tb testing.TB, s Subject) {
	tb.Helper()
	r := s.set(tb, AccountFault)
	reply := r.send(s.Call(r.all()))
	require.Equal(tb, fanfare.OutcomeUnavailable, reply.Outcome.Kind, reply.Outcome.Detail)
	require.Equal(tb, s.Codes[AccountFault], reply.Outcome.Code)
	require.True(tb, reply.Outcome.Account)
	require.Regexp(tb, settingName, reply.Outcome.Detail, "whoever has to see to it wants to know where")
	require.Empty(tb, reply.Named)
	require.False(tb, reply.Split, "halves would fare no better")
	require.Empty(tb, r.reached())
}

func redirected(tb testing.TB, s Subject) {
	tb.Helper()
	reply := refusal(tb, s, Redirected)
	require.Equal(tb, fanfare.OutcomeUnavailable, reply.Outcome.Kind, reply.Outcome.Detail)
	require.True(tb, reply.Outcome.Account)
	require.Regexp(tb, settingName, reply.Outcome.Detail)
}

// unreachable sends to a place where no provider is.
func unreachable(tb testing.TB, s Subject, at Place) {
	tb.Helper()
	call := s.Call(1)
	reply := s.New(tb, at).Send(leased(tb, call), call)
	s.inspect(tb, call, reply)
	require.Equal(tb, fanfare.OutcomeUnavailable, reply.Outcome.Kind, reply.Outcome.Detail)
	require.Empty(tb, reply.Named)
	require.False(tb, reply.Outcome.Account, "it may be there again in a moment")
}

func connectionRefused(tb testing.TB, s Subject) {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(tb, err)
	require.NoError(tb, listener.Close())
	unreachable(tb, s, place(tb, listener.Addr().String(), false, nil))
}

func hostUnknown(tb testing.TB, s Subject) {
	tb.Helper()
	unreachable(tb, s, place(tb, "provider.invalid:9", false, nil)) // RFC 2606: never there
}

func notTrusted(tb testing.TB, s Subject) {
	tb.Helper()
	r := s.setUp(tb, Accepted, certified(), nil)
	reply := r.send(s.Call(1))
	require.Equal(tb, fanfare.OutcomeUnavailable, reply.Outcome.Kind, reply.Outcome.Detail)
	r.began(0)
}

// inDoubt is an end of a call behind which it may have been accepted.
func inDoubt(situation Situation) func(testing.TB, Subject) {
	return func(tb testing.TB, s Subject) {
		tb.Helper()
		r := s.set(tb, situation)
		call := s.Call(r.all())
		r.doubts(r.send(call))
		r.began(requests(call))
	}
}

func (r *rig) doubts(reply fanfare.Reply) {
	r.Helper()
	require.Equal(r, fanfare.OutcomeAmbiguous, reply.Outcome.Kind, reply.Outcome.Detail)
	require.Empty(r, reply.Named)
}

// cutOnKept is where a client is tempted to send again: the connection may have been
// dead before.
func cutOnKept(tb testing.TB, s Subject) {
	tb.Helper()
	r := s.set(tb, Accepted)
	call := s.Call(1)
	require.Equal(tb, fanfare.OutcomeAccepted, r.send(call).Outcome.Kind)
	r.stage.set(func(stage *Stage) { stage.situation = Cut })
	r.doubts(r.send(call))
	r.began(2 * requests(call))
}

func timedOut(tb testing.TB, s Subject) {
	tb.Helper()
	r := s.set(tb, Silent)
	call := s.Call(r.all())
	over := make(chan struct{})
	r.interrupted(expiring{leased(tb, call), over}, call, func() { close(over) })
}

// expiring is a context whose time is over at a word: no clock could tell when the
// provider has a request.
type expiring struct {
	context.Context //nolint:containedctx // this is one

	over <-chan struct{}
}

func (e expiring) Done() <-chan struct{} { return e.over }

func (e expiring) Err() error {
	select {
	case <-e.over:
		return context.DeadlineExceeded
	default:
		return nil
	}
}

func cancelledAfter(tb testing.TB, s Subject) {
	tb.Helper()
	r := s.set(tb, Silent)
	call := s.Call(r.all())
	ctx, cancel := context.WithCancel(leased(tb, call))
	defer cancel()
	r.interrupted(ctx, call, cancel)
}

// interrupted makes a call that ends after the provider has it.
func (r *rig) interrupted(ctx context.Context, call fanfare.Call, end func()) {
	r.Helper()
	replies := make(chan fanfare.Reply, 1)
	go func() { replies <- r.sender.Send(ctx, call) }()
	require.Eventually(r, func() bool { _, taken := r.stage.requests(); return len(taken) == requests(call) }, patience, time.Millisecond, "the request did not come")
	end()
	var reply fanfare.Reply
	select {
	case reply = <-replies:
	case <-time.After(patience):
		require.FailNow(r, "the call does not end with its context")
	}
	r.subject.inspect(r, call, reply)
	r.doubts(reply)
	r.began(requests(call))
	if !r.subject.http2 { // whose connections are shared
		r.closed()
	}
}

func cancelledBefore(tb testing.TB, s Subject) {
	tb.Helper()
	r := s.set(tb, Accepted)
	call := s.Call(r.all())
	ctx, cancel := context.WithCancel(leased(tb, call))
	cancel()
	r.untouched(r.sendIn(ctx, call))
}

func tooLate(tb testing.TB, s Subject) {
	tb.Helper()
	r := s.set(tb, Accepted)
	call := s.Call(r.all())
	lease := fanfare.NewLease(call.ID, time.Now().Add(-time.Minute), time.Second, span)
	r.untouched(r.sendIn(fanfare.WithLease(tb.Context(), lease), call))
}

// untouched asserts that a call did not begin.
func (r *rig) untouched(reply fanfare.Reply) {
	r.Helper()
	require.Equal(r, fanfare.OutcomeReleased, reply.Outcome.Kind, reply.Outcome.Detail)
	require.Empty(r, reply.Named)
	require.Zero(r, r.wire.bytes.Load(), "bytes on the wire")
}

// tooLarge is for everyone: the message does not fit, however few it goes to.
func tooLarge(tb testing.TB, s Subject) {
	tb.Helper()
	r := s.set(tb, TooLarge)
	call := s.Call(r.all())
	if s.Oversize != nil {
		call = s.Oversize(call)
	}
	r.stage.set(func(stage *Stage) { stage.least = len(call.Message.Text) })
	for number, end := range r.deliver(call) {
		require.Equal(tb, fanfare.OutcomeRejected, end.Kind, "recipient %d: %s", number, end.Detail)
		require.Equal(tb, s.Codes[TooLarge], end.Code)
	}
	require.Empty(tb, r.reached(), "a piece of it was sent")
}

// tooLargeTogether is a message that fits as long as it goes to few.
func tooLargeTogether(tb testing.TB, s Subject) {
	tb.Helper()
	r := s.set(tb, TooLarge)
	r.stage.set(func(stage *Stage) { stage.most = 3 })
	call := s.Call(r.all())
	for number, end := range r.deliver(call) {
		require.Equal(tb, fanfare.OutcomeAccepted, end.Kind, "recipient %d: %s", number, end.Detail)
	}
	r.once(call.Recipients...)
}

func tooMany(tb testing.TB, s Subject) {
	tb.Helper()
	r := s.set(tb, Accepted)
	reply := r.send(s.Call(r.sender.MaxRecipients() + 1))
	require.True(tb, reply.Split)
	r.untouched(reply)
}

func oneBadNamed(tb testing.TB, s Subject) {
	tb.Helper()
	oneBad(tb, s, true)
}

func oneBadUnnamed(tb testing.TB, s Subject) {
	tb.Helper()
	oneBad(tb, s, false)
}

// oneBad must not fail its neighbours, nor reach them twice.
func oneBad(tb testing.TB, s Subject, named bool) {
	tb.Helper()
	r := s.set(tb, OneBad)
	call := s.Call(r.all())
	bad := r.all() - 2
	r.stage.set(func(stage *Stage) { stage.bad, stage.named = call.Recipients[bad].Address, named })
	ends := r.deliver(call)
	neighbours := slices.Delete(slices.Clone(call.Recipients), bad, bad+1)
	require.Equal(tb, fanfare.OutcomeRejected, ends[call.Recipients[bad].Number].Kind)
	require.Equal(tb, s.Codes[OneBad], ends[call.Recipients[bad].Number].Code)
	for _, to := range neighbours {
		require.Equal(tb, fanfare.OutcomeAccepted, ends[to.Number].Kind, ends[to.Number].Detail)
	}
	r.once(neighbours...)
	if named {
		r.began(2) // the one refused, and the one without who was named
	}
}

var marked = regexp.MustCompile(`only-for-\d+-`)

// manyAtOnce makes calls that have nothing in common but the sender.
func manyAtOnce(tb testing.TB, s Subject) {
	tb.Helper()
	const calls = 64
	r := s.set(tb, Accepted)
	each := min(r.sender.MaxRecipients(), 3)
	everyone := s.Call(calls * each)
	require.Len(tb, everyone.Recipients, calls*each)
	replies := make([]fanfare.Reply, calls)
	mine := map[string]string{} // by address
	var sending sync.WaitGroup
	for i := range calls {
		call := everyone
		call.ID = fanfare.CallID(fmt.Sprintf("%s%04x", call.ID[:len(call.ID)-4], i))
		call.Recipients = everyone.Recipients[i*each : (i+1)*each]
		mark := fmt.Sprintf("only-for-%d-", i)
		call.Message.Text = mark + "\n" + call.Message.Text
		for _, to := range call.Recipients {
			for _, address := range addresses(to) {
				mine[address] = mark
			}
		}
		sending.Go(func() { replies[i] = r.sender.Send(leased(tb, call), call) })
	}
	sending.Wait()
	ids := map[string]bool{}
	for i := range replies {
		require.Equal(tb, fanfare.OutcomeAccepted, replies[i].Outcome.Kind, replies[i].Outcome.Detail)
		require.NotContains(tb, ids, replies[i].ProviderID, "two calls have one id")
		ids[replies[i].ProviderID] = true
	}
	r.once(everyone.Recipients...)
	_, taken := r.stage.requests()
	for _, t := range taken {
		for _, m := range t.Messages {
			require.Equal(tb, []string{mine[m.To]}, marked.FindAllString(m.Text, -1), "a message has come to the wrong one")
		}
	}
	require.Empty(tb, r.stage.complaints())
}

// over2 is a trial over HTTP/2, which tells in other ways that a request was cut, and
// whose client has reasons of its own to send again.
func over2(run func(testing.TB, Subject)) func(testing.TB, Subject) {
	return func(tb testing.TB, s Subject) {
		tb.Helper()
		s.http2 = true
		run(tb, s)
	}
}

// usedAgain sees that every answer is read to its end: a connection that is left in
// the middle of one is lost, and a new one costs a handshake.
func usedAgain(tb testing.TB, s Subject) {
	tb.Helper()
	r := s.set(tb, Accepted)
	for _, situation := range []Situation{Accepted, Rejected, Throttled, Unavailable, Failed, AccountFault, Accepted} {
		if s.Lacks[situation] == "" {
			r.stage.set(func(stage *Stage) { stage.situation = situation })
			r.send(s.Call(1))
		}
	}
	require.LessOrEqual(tb, r.wire.made.Load(), int64(requests(s.Call(1))), "connections made")
}

package activities

import (
	"context"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	fanfare "github.com/fanfare-dev/fanfare"
)

// carryOutAll makes calls at the same time.
func (r *run) carryOutAll(ctx context.Context, all []*leased) {
	var calls sync.WaitGroup
	for _, each := range all[1:] {
		calls.Go(func() { r.carryOut(ctx, each) })
	}
	r.carryOut(ctx, all[0])
	calls.Wait()
}

// carryOut makes the call and settles it. A call that its provider refused as a
// whole goes to the next provider, and one that was refused for somebody the
// provider did not name is tried by halves: each is a new call that passes the
// gate again. A call that may have been accepted goes nowhere.
func (r *run) carryOut(ctx context.Context, l *leased) {
	reply := r.call(ctx, l)
	l.by.permit.Done(reply.Outcome)
	if reply.Outcome.Kind == fanfare.OutcomeAccepted {
		r.took.Store(true)
	}
	next := r.failOver(ctx, l, reply)
	r.halt(0, "", r.settle(l, r.result(l, reply, next != nil)))
	switch {
	case next != nil && r.over(): // settling may have taken long
		next.unused()
	case next != nil:
		r.carryOutBy(ctx, l.Recipients, next)
	case reply.Split && len(l.Recipients) > 1:
		middle := len(l.Recipients) / 2
		r.carryOutHalf(ctx, l.Recipients[:middle])
		r.carryOutHalf(ctx, l.Recipients[middle:])
	}
}

// failOver returns the provider to try next, or nil. Only what was certainly not
// accepted, and is not the recipients' fault, may be tried elsewhere.
func (r *run) failOver(ctx context.Context, l *leased, reply fanfare.Reply) *route {
	refused := reply.Outcome.Kind == fanfare.OutcomeUnavailable || reply.Outcome.Kind == fanfare.OutcomeThrottled
	if !refused || len(r.Senders) == 1 || r.over() {
		return nil
	}
	next, _, _, err := r.choose(ctx, append(slices.Clone(l.by.tried), l.by.Name()))
	r.halt(0, "", err)
	return next
}

func (r *run) carryOutHalf(ctx context.Context, half []fanfare.Claimed) {
	if r.over() {
		return
	}
	by, wait, why, err := r.choose(ctx, nil)
	if err != nil || by == nil {
		r.halt(wait, why, err)
		return
	}
	r.carryOutBy(ctx, half, by)
}

// carryOutBy claims again what this run keeps from everyone else for a moment. Others of
// the batch who are among them and due come along, in their own locales.
func (r *run) carryOutBy(ctx context.Context, recipients []fanfare.Claimed, by *route) {
	within := fanfare.Range{First: recipients[0].Number, Last: recipients[len(recipients)-1].Number, DueIn: splitHold}
	won, err := r.claimFor(ctx, by, 1, func(by []*route, wanted fanfare.Wanted) ([]*leased, error) {
		won, _, err := r.claimDue(ctx, by, wanted, within)
		return won, err
	})
	if len(won) == 0 {
		r.halt(0, "", err)
		return
	}
	r.carryOutAll(ctx, won)
}

func (r *run) call(ctx context.Context, l *leased) (reply fanfare.Reply) {
	call := fanfare.Call{
		ID: l.ID, Publication: r.in.Ref.Publication, Channel: r.in.Ref.Channel, Message: r.messages[l.Locale], Expires: r.about.ExpiresAt,
		Recipients: make([]fanfare.Recipient, len(l.Recipients)),
	}
	for i, c := range l.Recipients {
		to := fanfare.Recipient{Number: c.Number, Address: c.Address, Devices: c.Devices}
		if call.Channel == fanfare.Email { // where links have their place
			to.Unsubscribe, to.Preferences = r.Links.unsubscribe(r.about.TopicID, c.Number), r.Links.preferences(r.about.TopicID, c.Number)
		}
		call.Recipients[i] = to
	}
	if err := l.lease.MayBegin(); err != nil {
		return fanfare.Reply{Outcome: fanfare.Outcome{Kind: fanfare.OutcomeReleased, Detail: "the claim took too long"}}
	}
	ctx, cancel := context.WithDeadline(fanfare.WithLease(ctx, l.lease), l.lease.Deadline())
	defer cancel()
	// A panic would end all that this worker has under way. Its words may quote the message.
	defer func() {
		if recover() != nil {
			r.Log.Error("sender panicked, its call is in doubt", "call", l.ID, "provider", l.by.Name(), "stack", string(debug.Stack()))
			reply = fanfare.Reply{Outcome: fanfare.Outcome{Kind: fanfare.OutcomeAmbiguous, Detail: "the sender panicked"}}
		}
	}()
	return l.by.Send(ctx, call)
}

// splitHold keeps the recipients of a refused call from being claimed by
// others before they are tried by halves, or by another provider.
const splitHold = 5 * time.Second

// result translates a reply for the ledger. Where no other provider takes the call it
// remembers to leave one alone that is away or asks for time.
func (r *run) result(l *leased, reply fanfare.Reply, failsOver bool) fanfare.Result {
	result := fanfare.Result{Outcome: reply.Outcome, ProviderID: reply.ProviderID, Devices: reply.Devices, Suppress: reply.Suppress}
	for i, outcome := range reply.Named {
		if result.Named == nil {
			result.Named = make(map[fanfare.SubscriberNumber]fanfare.Outcome, len(reply.Named))
		}
		result.Named[l.Recipients[i].Number] = outcome
	}
	switch {
	case failsOver:
		// Also when it was throttled: nobody loses an attempt who is sent to by another.
		result.Outcome.Kind, result.Outcome.RetryAfter = fanfare.OutcomeUnavailable, splitHold
	case reply.Split:
		result.Outcome.RetryAfter = splitHold
	case reply.Outcome.Kind == fanfare.OutcomeThrottled, reply.Outcome.Kind == fanfare.OutcomeUnavailable:
		if result.Outcome.RetryAfter == 0 {
			result.Outcome.RetryAfter = max(reply.Wait, r.Backoff[min(r.in.Failures, len(r.Backoff)-1)])
		}
		// Of many calls with one message each a few may fail; when it is more, the
		// breaker knows. It knows nothing of a throttle without a time.
		if reply.Outcome.Kind == fanfare.OutcomeThrottled || len(r.Senders) == 1 && !r.single() {
			r.halt(result.Outcome.RetryAfter, string(reply.Outcome.Kind)+": "+reply.Outcome.Detail, nil)
		}
	case reply.Outcome.Kind == fanfare.OutcomeReleased && len(reply.Named) == 0:
		// Too late to begin: the ledger, or connecting, takes longer than a claim
		// may wait. To claim again at once would only add to it.
		r.halt(r.Backoff[min(r.in.Failures, len(r.Backoff)-1)], "released: "+reply.Outcome.Detail, nil)
	}
	return result
}

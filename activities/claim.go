package activities

import (
	"context"
	"slices"
	"time"

	fanfare "github.com/fanfare-dev/fanfare"
)

// single is true when all providers take one message to a call.
func (r *run) single() bool {
	return !slices.ContainsFunc(r.Senders, func(s Sender) bool { return s.MaxRecipients() > 1 })
}

// places divides calls among places: one for each message of providers that take one
// at a time, one for the calls in all locales otherwise.
func (r *run) places(won []*leased) [][]*leased {
	if len(won) == 0 {
		return nil
	}
	if !r.single() {
		return [][]*leased{won}
	}
	return slices.Collect(slices.Chunk(won, 1))
}

// mayClaim waits for a free place and returns how many it took: all that are free where
// each recipient needs one, but then waits for a quarter of them, or each recipient would
// cost a claim. It returns 0 when no call is to be begun any more: the worker
// stops, the provider is to be left alone, the ledger is away.
func (r *run) mayClaim(places chan struct{}) (taken int) {
	enough, most := 1, 1
	if r.single() {
		enough, most = max(1, cap(places)/4), cap(places)
	}
	// Looked at behind each wait for a place: much may have happened in it.
	for !r.over() {
		if taken == most || taken >= enough && len(places) == cap(places) {
			return taken
		}
		select {
		case <-r.stopping:
		case places <- struct{}{}: // waits only while too few are free: nobody else takes any
			taken++
		}
	}
	return 0
}

// over reports whether no other call is to be begun by this run.
func (r *run) over() bool {
	select {
	case <-r.stopping:
		r.halt(0, "the worker is stopping", nil)
	case <-r.cancelled:
		r.halt(0, "the activity was cancelled", nil)
	default:
	}
	return r.halted()
}

// route is a provider that may be called, for one call.
type route struct {
	Sender
	permit fanfare.Permit
	// tried are the providers that refused this call before.
	tried []string
}

// unused gives the permit back.
func (t *route) unused() { t.permit.Done(fanfare.Outcome{Kind: fanfare.OutcomeReleased}) }

// more returns as many routes as this one, with a permit each, up to n in all. Nobody
// knows what becomes of a probe, so it stays alone.
func (r *run) more(ctx context.Context, first *route, n int) ([]*route, error) {
	routes := []*route{first}
	for len(routes) < n && !first.permit.Probe {
		permit, err := r.Breaker.Permit(ctx, first.Name())
		if err != nil {
			return routes, err
		}
		if !permit.Allowed {
			break
		}
		routes = append(routes, &route{Sender: first.Sender, permit: permit, tried: first.tried})
		if permit.Probe {
			break
		}
	}
	return routes, nil
}

// choose returns the first provider that may be called, of those not tried; nil
// when none may. wait is then the shortest time until one may, and why says so.
func (r *run) choose(ctx context.Context, tried []string) (chosen *route, wait time.Duration, why string, err error) {
	for _, sender := range r.Senders {
		if slices.Contains(tried, sender.Name()) {
			continue
		}
		permit, err := r.Breaker.Permit(ctx, sender.Name())
		if err != nil {
			return nil, 0, "", err
		}
		if permit.Allowed {
			return &route{Sender: sender, permit: permit, tried: tried}, 0, "", nil
		}
		if why == "" || permit.Wait < wait {
			wait, why = permit.Wait, permit.Why
		}
	}
	return nil, wait, why, nil
}

// leased is a claimed call with the lease that was counted from before the claim,
// and the way it goes.
type leased struct {
	fanfare.ClaimedCall
	lease *fanfare.Lease
	by    *route
}

// everyone waits for no one: the whole batch, nothing early.
var everyone = fanfare.Range{First: 0, Last: 1<<63 - 1}

// claimNext claims for so many places. It returns nobody when there is nobody to
// send to at the moment, or no provider that may be called.
func (r *run) claimNext(ctx context.Context, places int) ([]*leased, error) {
	first, wait, why, err := r.choose(ctx, nil)
	if err != nil {
		return nil, err
	}
	if first == nil {
		r.halt(wait, why, nil)
		return nil, nil
	}
	return r.claimFor(ctx, first, places, func(by []*route, wanted fanfare.Wanted) ([]*leased, error) { return r.claimBy(ctx, by, wanted) })
}

// claimFor gets permits for all calls that a claim may win, claims, and gives those back
// that it did not need.
func (r *run) claimFor(ctx context.Context, first *route, places int, claim func([]*route, fanfare.Wanted) ([]*leased, error)) ([]*leased, error) {
	needed := max(1, len(r.locales))
	if first.MaxRecipients() == 1 {
		needed = places
	}
	by, err := r.more(ctx, first, needed)
	var won []*leased
	if err == nil {
		won, err = claim(by, r.wanted(by, needed))
	}
	for _, each := range by[len(won):] {
		each.unused()
	}
	return won, err
}

// wanted is what to claim for calls by these routes, when needed would be enough for
// any number of recipients.
func (r *run) wanted(by []*route, needed int) fanfare.Wanted {
	w := fanfare.Wanted{Provider: by[0].Name(), Limit: by[0].MaxRecipients(), Locales: r.locales}
	switch {
	case w.Limit == 1:
		w.Single, w.Limit = true, len(by)
	case len(by) < needed || by[0].permit.Probe:
		w.Limit = 1
	}
	return w
}

// claimDue claims those within whose wait is over.
func (r *run) claimDue(ctx context.Context, by []*route, wanted fanfare.Wanted, within fanfare.Range) (won []*leased, more bool, err error) {
	return r.lease(by, func() (fanfare.Claim, error) { return r.Claimer.ClaimDue(ctx, r.in.Ref, wanted, within) })
}

// lookForDueEvery is how long a run that found nobody due goes on with those never claimed
// before it looks again: as long as the shortest wait. Looking costs half as much as
// claiming.
const lookForDueEvery = time.Second

// claimBy claims those whose wait is over, and when there are none, those never claimed.
func (r *run) claimBy(ctx context.Context, by []*route, wanted fanfare.Wanted) (won []*leased, err error) {
	more, looked := true, time.Since(r.nobodyDue) >= lookForDueEvery
	if looked {
		won, more, err = r.claimDue(ctx, by, wanted, everyone)
	}
	if looked && err == nil && len(won) == 0 {
		r.nobodyDue = time.Now()
	}
	for err == nil && len(won) == 0 && more && !r.over() {
		won, more, err = r.lease(by, func() (fanfare.Claim, error) {
			return r.Claimer.ClaimNew(ctx, r.in.Ref, wanted)
		})
	}
	if !looked && err == nil && len(won) == 0 && !r.over() {
		won, _, err = r.claimDue(ctx, by, wanted, everyone)
	}
	return won, err
}

// lease reads the clock before it claims: see fanfare.Lease.
func (r *run) lease(by []*route, claim func() (fanfare.Claim, error)) (won []*leased, more bool, err error) {
	start := time.Now()
	c, err := claim()
	if err != nil {
		return nil, false, err
	}
	won = make([]*leased, len(c.Calls))
	for i, each := range by[:len(c.Calls)] {
		won[i] = &leased{ClaimedCall: c.Calls[i], lease: fanfare.NewLease(c.Calls[i].ID, start, c.BeginWithin, c.CallWithin), by: each}
	}
	return won, c.More, nil
}

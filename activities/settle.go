package activities

import (
	"context"
	"errors"
	"time"

	fanfare "github.com/fanfare-dev/fanfare"
)

const (
	// settleFor is how long a known result is kept for a ledger that is away. It is
	// never too late to write it: what was put in doubt meanwhile is settled by it.
	// A little less than a doubt lasts by default; behind that others have decided.
	settleFor = 9 * time.Minute
	// settleTry bounds one try, so that one that hangs does not end them all.
	settleTry = 10 * time.Second
)

// settling is a result on its way into the ledger.
type settling struct {
	*leased
	result fanfare.Result
	done   chan error
}

// settle writes what became of a call, together with what became of others
// meanwhile. It tries until it succeeds or nobody needs the result any more.
func (r *run) settle(l *leased, result fanfare.Result) error {
	s := &settling{leased: l, result: result, done: make(chan error, 1)}
	r.results <- s
	return <-s.done
}

// settleTogether writes results as they come, all that wait at once: calls with one
// message each end by the dozen, and a crash between a call's end and its settling is doubt.
func (r *run) settleTogether(ctx context.Context) {
	for first := range r.results {
		waiting := []*settling{first}
		for more := true; more && len(waiting) < cap(r.results); {
			select {
			case next, open := <-r.results:
				if more = open; open {
					waiting = append(waiting, next)
				}
			default:
				more = false
			}
		}
		r.settleAll(ctx, waiting, false)
	}
}

// settleAll always tries once. A result that PostgreSQL does not take must keep no other
// from it, neither beside it nor behind it: it goes on trying aside.
func (r *run) settleAll(ctx context.Context, all []*settling, aside bool) {
	giveUp := all[0].lease.Deadline().Add(settleFor)
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		err := r.trySettle(ctx, all)
		switch {
		case err == nil || time.Now().After(giveUp):
			for _, each := range all {
				each.done <- err
			}
			return
		case aside || errors.Is(err, fanfare.ErrUnavailable):
		case len(all) > 1:
			for _, each := range all {
				r.settleAll(ctx, []*settling{each}, false)
			}
			return
		default:
			go r.settleAll(ctx, all, true)
			return
		}
		r.Log.Warn("settle failed, trying again", "calls", len(all), "first", all[0].ID, "batch", r.in.Ref.WorkflowID(), "error", err)
		<-time.After(pause)
	}
}

func (r *run) trySettle(ctx context.Context, all []*settling) error {
	settled := make([]fanfare.Settlement, len(all))
	for i, each := range all {
		settled[i] = fanfare.Settlement{Call: each.ID, Result: each.result}
		if each.result.Outcome.Kind == fanfare.OutcomeAccepted && time.Now().After(each.lease.Deadline()) {
			// Others may have decided about the call by now, and claimed its recipients
			// anew: its own answer is proof for them.
			settled[i].Result.Evidence = "the call's own answer, which came late"
		}
	}
	ctx, cancel := context.WithTimeout(ctx, settleTry)
	defer cancel()
	return r.Settler.SettleAll(ctx, r.in.Ref, settled)
}

package activities

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"go.temporal.io/sdk/activity"

	fanfare "github.com/fanfare-dev/fanfare"
)

// Doubter keeps the calls that are in doubt.
type Doubter interface {
	Doubts(ctx context.Context, id fanfare.PublicationID, channel fanfare.Channel, limit int) (due []fanfare.Doubt, next *time.Duration, err error)
	LookAgain(ctx context.Context, d fanfare.Doubt, after time.Duration, extend bool, note string) error
	ApplyPolicy(ctx context.Context, d fanfare.Doubt) error
}

// Prover writes what evidence says of a call, and knows which of a provider's
// messages are evidence of another.
type Prover interface {
	Settle(ctx context.Context, ref fanfare.BatchRef, call fanfare.CallID, r fanfare.Result) error
	Unattached(ctx context.Context, messages []string) ([]string, error)
}

// LookUp asks a provider whether it shows a call. An error means that it could
// not say; fanfare.ErrNoLookUp that this account never can.
type LookUp interface {
	LookUp(ctx context.Context, about fanfare.Question) (fanfare.Sighting, error)
}

// Reconciling settles calls in doubt by evidence, and without evidence by
// policy. It writes only the ledger.
type Reconciling struct {
	Doubter  Doubter
	Prover   Prover
	Planner  Planner
	Renderer Renderer
	// LookUps are all providers that ever made calls, by name; NoLookUp for those
	// that cannot be asked. One that is missing is not known here: nothing is decided then.
	LookUps map[string]LookUp
	Log     *slog.Logger
}

// NoLookUp is a provider that offers no look-up.
type NoLookUp struct{}

// LookUp always says that it cannot.
func (NoLookUp) LookUp(context.Context, fanfare.Question) (fanfare.Sighting, error) {
	return fanfare.Sighting{}, fanfare.ErrNoLookUp
}

const (
	// looksAtMost and looksWithin bound one run of Reconcile, so that it ends within its
	// time-out, and looksAtOnce what a provider is asked at the same time: where a call is one
	// message, a worker that is gone leaves some hundred in doubt.
	looksAtMost = 200
	looksWithin = time.Minute
	looksAtOnce = 8
	lookFirst   = 500 * time.Millisecond
	lookAtMost  = 30 * time.Second
	lookTimeout = 10 * time.Second
)

// ReconcileInput names whose doubts to settle.
type ReconcileInput struct {
	Publication fanfare.PublicationID `json:"publication"`
	Channel     fanfare.Channel       `json:"channel"`
}

// ReconcileResult is what one run came to.
type ReconcileResult struct {
	// Settled are the batches that have fewer doubts now.
	Settled []fanfare.BatchRef `json:"settled,omitempty"`
	// Next is the time until the next look-up; nil when nothing is in doubt.
	Next *time.Duration `json:"next,omitempty"`
}

// Reconcile looks up every doubtful call whose time has come.
func (r *Reconciling) Reconcile(ctx context.Context, in ReconcileInput) (ReconcileResult, error) {
	stop := heartbeat(ctx)
	defer stop()
	due, _, err := r.Doubter.Doubts(ctx, in.Publication, in.Channel, looksAtMost)
	if err != nil {
		return ReconcileResult{}, err
	}
	settled, err := r.reconcileAll(ctx, due)
	if err != nil {
		return ReconcileResult{}, err
	}
	result := ReconcileResult{Settled: settled}
	_, result.Next, err = r.Doubter.Doubts(ctx, in.Publication, in.Channel, 0)
	return result, err
}

// reconcileAll looks up some calls at a time. It returns the batches that have fewer
// doubts now, or the first thing that could not be written. What there is no time for, or
// nobody to hear of, stays due.
func (r *Reconciling) reconcileAll(ctx context.Context, due []fanfare.Doubt) ([]fanfare.BatchRef, error) {
	var mu sync.Mutex
	var settled []fanfare.BatchRef
	var failed error
	began, stopping := time.Now(), activity.GetWorkerStopChannel(ctx)
	over := func() bool {
		mu.Lock()
		defer mu.Unlock()
		select {
		case <-stopping:
			return true
		case <-ctx.Done():
			return true
		default:
			return failed != nil || time.Since(began) >= looksWithin
		}
	}
	var looking sync.WaitGroup
	places := make(chan struct{}, looksAtOnce)
	for _, d := range due {
		places <- struct{}{}
		if over() {
			break
		}
		looking.Go(func() {
			defer func() { <-places }()
			done, err := r.reconcile(ctx, d)
			mu.Lock()
			defer mu.Unlock()
			if done && !slices.Contains(settled, d.Ref) {
				settled = append(settled, d.Ref)
			}
			failed = cmp.Or(failed, err)
		})
	}
	looking.Wait()
	return settled, failed
}

// reconcile looks one call up. Only presence is evidence: a look-up that shows
// nothing is repeated until the deadline, and the deadline moves while the look-up fails
// or does not show what it should, as long as anybody could still be sent to.
func (r *Reconciling) reconcile(ctx context.Context, d fanfare.Doubt) (settled bool, err error) {
	sighting, err := r.lookUpCall(ctx, d)
	switch {
	case err == nil && sighting.Seen:
		return r.found(ctx, d, sighting)
	case d.Overdue && d.Final:
		return true, r.Doubter.ApplyPolicy(ctx, d)
	case errors.Is(err, fanfare.ErrNoLookUp):
		switch {
		case !d.Overdue:
			return false, r.Doubter.LookAgain(ctx, d, r.pause(d), false, "the provider offers no look-up; waiting for its events")
		case d.Unheard:
			return false, r.Doubter.LookAgain(ctx, d, r.pause(d), true, fmt.Sprintf("the provider's events do not tell of accepted call %s yet", d.Witness))
		}
		return true, r.Doubter.ApplyPolicy(ctx, d)
	case err != nil:
		r.Log.Warn("look-up failed", "call", d.Call, "provider", d.Provider, "error", err)
		return false, r.Doubter.LookAgain(ctx, d, r.pause(d), d.Overdue, "the look-up failed")
	case !d.Overdue:
		return false, r.Doubter.LookAgain(ctx, d, r.pause(d), false, "not shown yet")
	}
	return r.decideWithout(ctx, d)
}

// decideWithout applies the policy, once the look-up has shown another accepted
// call that it cannot show without being up to date or at least at work.
func (r *Reconciling) decideWithout(ctx context.Context, d fanfare.Doubt) (bool, error) {
	if d.Witness != "" {
		shown, err := r.lookUpWitness(ctx, d)
		if err != nil || !shown {
			return false, r.Doubter.LookAgain(ctx, d, r.pause(d), true, fmt.Sprintf("the look-up does not show accepted call %s yet", d.Witness))
		}
		// Once more: the look-up may have come up to date between the two questions.
		sighting, err := r.lookUpCall(ctx, d)
		if err != nil {
			return false, r.Doubter.LookAgain(ctx, d, r.pause(d), true, "the look-up failed")
		}
		if sighting.Seen {
			return r.found(ctx, d, sighting)
		}
	}
	return true, r.Doubter.ApplyPolicy(ctx, d)
}

func (r *Reconciling) found(ctx context.Context, d fanfare.Doubt, sighting fanfare.Sighting) (bool, error) {
	result := fanfare.Result{Outcome: fanfare.Outcome{Kind: fanfare.OutcomeAccepted, Detail: "found by look-up"}, Evidence: sighting.Evidence}
	if len(sighting.Messages) == 1 {
		result.ProviderID = sighting.Messages[0]
	}
	err := r.Prover.Settle(ctx, d.Ref, d.Call, result)
	return err == nil, err
}

// lookUpCall looks up the call in doubt. Where the provider keeps no id of ours it
// is seen when exactly one message that may be it belongs to no other call.
func (r *Reconciling) lookUpCall(ctx context.Context, d fanfare.Doubt) (fanfare.Sighting, error) {
	about := fanfare.Question{Call: d.Call, BeganAt: d.BeganAt, EndedAt: d.EndedAt, Address: d.Address}
	if d.Address != "" {
		a, err := r.Planner.Announcement(ctx, d.Ref.Publication)
		if err != nil {
			return fanfare.Sighting{}, err
		}
		message, err := r.Renderer.Render(d.Ref.Channel, a, a.Template.LocaleFor(d.Ref.Channel, d.Locale))
		if err != nil {
			return fanfare.Sighting{}, err
		}
		about.Text = message.Text
	}
	sighting, err := r.lookUp(ctx, d, about)
	if err != nil || sighting.Seen || len(sighting.Messages) == 0 {
		return sighting, err
	}
	free, err := r.Prover.Unattached(ctx, sighting.Messages)
	if err != nil || len(free) != 1 {
		return fanfare.Sighting{}, err
	}
	return fanfare.Sighting{Seen: true, Messages: free, Evidence: fmt.Sprintf("%s shows message %s, which is of no other call", d.Provider, free[0])}, nil
}

// lookUpWitness reports whether the provider shows the accepted call that it should
// show before absence of the other means anything.
func (r *Reconciling) lookUpWitness(ctx context.Context, d fanfare.Doubt) (bool, error) {
	about := d.WitnessAbout
	about.Call = d.Witness
	sighting, err := r.lookUp(ctx, d, about)
	return sighting.Seen || slices.Contains(sighting.Messages, d.WitnessMessage), err
}

func (r *Reconciling) lookUp(ctx context.Context, d fanfare.Doubt, about fanfare.Question) (_ fanfare.Sighting, err error) {
	provider, ok := r.LookUps[d.Provider]
	if !ok {
		return fanfare.Sighting{}, fmt.Errorf("look up call %s: this worker has no account at %s", about.Call, d.Provider)
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	// A panic would end all that this worker has under way. Its words may quote the message.
	defer func() {
		if recover() != nil {
			err = fmt.Errorf("look up call %s at %s: it panicked: %s", about.Call, d.Provider, debug.Stack())
		}
	}()
	return provider.LookUp(ctx, about)
}

// pause doubles with every look-up.
func (r *Reconciling) pause(d fanfare.Doubt) time.Duration {
	return min(lookFirst<<min(d.Looks, 10), lookAtMost)
}

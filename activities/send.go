package activities

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"go.temporal.io/sdk/activity"

	fanfare "github.com/fanfare-dev/fanfare"
)

// Sender is one provider of one channel. It turns every answer, error and
// silence into a Reply, and never calls when the lease in ctx has run out.
type Sender interface {
	Name() string
	MaxRecipients() int
	Send(ctx context.Context, call fanfare.Call) fanfare.Reply
}

// Breaker says whether a provider may be called now. Whoever is allowed tells
// the permit what the call came to, once.
type Breaker interface {
	Permit(ctx context.Context, provider string) (fanfare.Permit, error)
}

// Renderer makes the message of a publication.
type Renderer interface {
	Render(topicName string, content fanfare.Content) (fanfare.Message, error)
}

// Claimer hands out leases on recipients.
type Claimer interface {
	ClaimNew(ctx context.Context, ref fanfare.BatchRef, provider string, limit int) (fanfare.Claim, error)
	ClaimDue(ctx context.Context, ref fanfare.BatchRef, provider string, limit int, within fanfare.Range) (fanfare.Claim, error)
}

// Settler writes what became of calls.
type Settler interface {
	Settle(ctx context.Context, ref fanfare.BatchRef, call fanfare.CallID, r fanfare.Result) (fanfare.BatchTally, error)
	DoubtLapsed(ctx context.Context, ref fanfare.BatchRef) (fanfare.BatchTally, error)
}

// Reporter names what did not go well in a batch.
type Reporter interface {
	BatchProblems(ctx context.Context, ref fanfare.BatchRef, limit int) (fanfare.BatchProblems, error)
}

// namedProblems is how many deliveries a batch's result names: their ids fill
// about 6 KB, far below Temporal's limits for a result.
const namedProblems = 100

// Sending are the activities that send the batches of one channel.
type Sending struct {
	Planner  Planner
	Tallier  Tallier
	Claimer  Claimer
	Settler  Settler
	Closer   Closer
	Reporter Reporter
	// Senders are the channel's providers, the preferred one first.
	Senders  []Sender
	Breaker  Breaker
	Renderer Renderer
	Links    Links
	// CallsInFlight is how many calls of one batch are under way at once.
	CallsInFlight int
	// Backoff are the waits after calls that were certainly not accepted; the
	// last is repeated.
	Backoff []time.Duration
	Log     *slog.Logger
}

// Links makes the links that stand in messages.
type Links struct {
	PublicURL string // without a slash at its end
	Secret    fanfare.Secret
}

func (l Links) unsubscribe(topic fanfare.TopicID, number fanfare.SubscriberNumber) string {
	return l.PublicURL + "/unsubscribe/" + fanfare.UnsubscribeLink{Topic: topic, Number: number}.Token(l.Secret)
}

// SendInput names the batch to send. Failures counts the runs in a row after
// which the provider was not to be reached.
type SendInput struct {
	Ref      fanfare.BatchRef `json:"ref"`
	Failures int              `json:"failures"`
}

// SendResult is where the batch stands after a run.
type SendResult struct {
	Tally fanfare.BatchTally `json:"tally"`
	// Wait is how long to leave the provider alone; zero when it answered.
	Wait time.Duration `json:"wait,omitempty"`
	// Why says in a sentence why the run stopped before the end; empty otherwise.
	Why string `json:"why,omitempty"`
}

// Send claims, sends and settles, chunk by chunk, until nobody in the batch can
// be sent to at the moment. It begins with lapsed calls of workers that are gone, goes on with
// those whose wait is over, then with those never claimed.
func (s *Sending) Send(ctx context.Context, in SendInput) (SendResult, error) {
	stop := heartbeat(ctx)
	defer stop()
	if _, err := s.Settler.DoubtLapsed(ctx, in.Ref); err != nil {
		return SendResult{}, err
	}
	run := &run{Sending: s, in: in}
	if err := run.sendAll(ctx); err != nil {
		return SendResult{}, err
	}
	tally, err := s.Tallier.Tally(ctx, in.Ref)
	if err != nil {
		return SendResult{}, err
	}
	if tally.Publication == fanfare.Cancelled || tally.Publication == fanfare.Expired {
		if err := closeBatch(ctx, s.Closer, in.Ref); err != nil {
			return SendResult{}, err
		}
		if tally, err = s.Tallier.Tally(ctx, in.Ref); err != nil {
			return SendResult{}, err
		}
	}
	return SendResult{Tally: tally, Wait: run.wait, Why: run.why}, nil
}

// run is one pass of one worker over a batch.
type run struct {
	*Sending
	in      SendInput
	topic   fanfare.TopicID
	message fanfare.Message

	stopping  <-chan struct{} // closed when the worker stops
	cancelled <-chan struct{} // closed when the activity is cancelled

	mu   sync.Mutex
	wait time.Duration // the provider asked for it, or is away
	why  string
	err  error // the ledger could not be written
}

func (r *run) prepare(ctx context.Context) error {
	a, err := r.Planner.Announcement(ctx, r.in.Ref.Publication)
	if err != nil {
		return err
	}
	r.topic = a.TopicID
	r.message, err = r.Renderer.Render(a.TopicName, a.Content)
	return err
}

// sendAll keeps CallsInFlight calls under way. A recipient is claimed only when
// there is a free place to make the call at once.
func (r *run) sendAll(ctx context.Context) error {
	if err := r.prepare(ctx); err != nil {
		return err
	}
	r.stopping, r.cancelled = activity.GetWorkerStopChannel(ctx), ctx.Done()
	places := make(chan struct{}, r.CallsInFlight)
	var calls sync.WaitGroup
	defer calls.Wait()
	for flying := false; r.mayClaim(ctx, places); {
		leased, err := r.claimNext(ctx)
		switch {
		case err != nil:
			return err
		case leased == nil && !flying:
			return nil
		case leased == nil:
			// Calls under way may yet give recipients back.
			<-places
			calls.Wait()
			flying = false
			continue
		}
		flying = true
		calls.Go(func() {
			defer func() { <-places }()
			// A call under way must be neither cut nor left unsettled because
			// the activity was cancelled.
			r.carryOut(context.WithoutCancel(ctx), leased)
		})
	}
	calls.Wait()
	return r.err
}

// mayClaim waits for a free place. It returns false when no call is to be begun
// any more: the worker stops, the provider is to be left alone, the ledger is away.
func (r *run) mayClaim(ctx context.Context, places chan<- struct{}) bool {
	select {
	case <-r.stopping:
	case places <- struct{}{}:
	}
	// Looked at behind the wait for a place: much may have happened in it.
	return !r.over() && ctx.Err() == nil
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

// limit is how many recipients the call may have: nobody knows what becomes of a
// probe, so it takes one.
func (t *route) limit() int {
	if t.permit.Probe {
		return 1
	}
	return t.MaxRecipients()
}

// unused gives the permit back.
func (t *route) unused() { t.permit.Done(fanfare.Outcome{Kind: fanfare.OutcomeReleased}) }

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

// leased is a claim with the lease that was counted from before it, and the way
// it goes.
type leased struct {
	fanfare.Claim
	lease *fanfare.Lease
	by    *route
}

// everyone waits for no one: the whole batch, nothing early.
var everyone = fanfare.Range{First: 0, Last: 1<<63 - 1}

// claimNext returns nil when there is nobody to send to at the moment, or no
// provider that may be called.
func (r *run) claimNext(ctx context.Context) (*leased, error) {
	by, wait, why, err := r.choose(ctx, nil)
	if err != nil {
		return nil, err
	}
	if by == nil {
		r.halt(wait, why, nil)
		return nil, nil
	}
	won, err := r.claimBy(ctx, by)
	if won == nil {
		by.unused()
	}
	return won, err
}

func (r *run) claimBy(ctx context.Context, by *route) (*leased, error) {
	won, err := r.claimDue(ctx, by, everyone)
	if won != nil || err != nil {
		return won, err
	}
	for {
		won, err := r.lease(by, func() (fanfare.Claim, error) {
			return r.Claimer.ClaimNew(ctx, r.in.Ref, by.Name(), by.limit())
		})
		if err != nil {
			return nil, err
		}
		if len(won.Recipients) > 0 {
			return won, nil
		}
		// A claim may pass over a chunk in which nobody is to be sent to.
		if t := won.Tally; t.AllClaimed || t.Publication != fanfare.Running || t.Expired {
			return nil, nil
		}
	}
}

// claimDue returns nil when nobody within is due.
func (r *run) claimDue(ctx context.Context, by *route, within fanfare.Range) (*leased, error) {
	won, err := r.lease(by, func() (fanfare.Claim, error) {
		return r.Claimer.ClaimDue(ctx, r.in.Ref, by.Name(), by.limit(), within)
	})
	if err != nil || len(won.Recipients) == 0 {
		return nil, err
	}
	return won, nil
}

// lease reads the clock before it claims: see fanfare.Lease.
func (r *run) lease(by *route, claim func() (fanfare.Claim, error)) (*leased, error) {
	start := time.Now()
	won, err := claim()
	if err != nil {
		return nil, err
	}
	return &leased{Claim: won, lease: fanfare.NewLease(won.Call, start, won.BeginWithin, won.CallWithin), by: by}, nil
}

// carryOut makes the call and settles it. A call that its provider refused as a
// whole goes to the next provider, and one that was refused for somebody the
// provider did not name is tried by halves: each is a new call that passes the
// gate again. A call that may have been accepted goes nowhere.
func (r *run) carryOut(ctx context.Context, l *leased) {
	reply := r.call(ctx, l)
	l.by.permit.Done(reply.Outcome)
	next, err := r.failOver(ctx, l, reply)
	if err == nil {
		err = r.settle(ctx, l, r.result(l, reply, next != nil))
	}
	switch {
	case err != nil:
		r.halt(0, "", err)
		if next != nil {
			next.unused()
		}
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
func (r *run) failOver(ctx context.Context, l *leased, reply fanfare.Reply) (*route, error) {
	refused := reply.Outcome.Kind == fanfare.OutcomeUnavailable || reply.Outcome.Kind == fanfare.OutcomeThrottled
	if !refused || len(r.Senders) == 1 || r.over() {
		return nil, nil
	}
	next, _, _, err := r.choose(ctx, append(slices.Clone(l.by.tried), l.by.Name()))
	return next, err
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

// carryOutBy claims again what this run keeps from everyone else for a moment.
func (r *run) carryOutBy(ctx context.Context, recipients []fanfare.Claimed, by *route) {
	within := fanfare.Range{First: recipients[0].Number, Last: recipients[len(recipients)-1].Number, DueIn: splitHold}
	won, err := r.claimDue(ctx, by, within)
	if won == nil {
		by.unused()
		r.halt(0, "", err)
		return
	}
	r.carryOut(ctx, won)
}

func (r *run) call(ctx context.Context, l *leased) fanfare.Reply {
	call := fanfare.Call{ID: l.Call, Publication: r.in.Ref.Publication, Channel: r.in.Ref.Channel, Message: r.message}
	call.Recipients = make([]fanfare.Recipient, len(l.Recipients))
	for i, c := range l.Recipients {
		call.Recipients[i] = fanfare.Recipient{Number: c.Number, Address: c.Address, Unsubscribe: r.Links.unsubscribe(r.topic, c.Number)}
	}
	if err := l.lease.MayBegin(); err != nil {
		return fanfare.Reply{Outcome: fanfare.Outcome{Kind: fanfare.OutcomeReleased, Detail: "the claim took too long"}}
	}
	ctx, cancel := context.WithDeadline(fanfare.WithLease(ctx, l.lease), l.lease.Deadline())
	defer cancel()
	return l.by.Send(ctx, call)
}

const (
	// splitHold keeps the recipients of a refused call from being claimed by
	// others before they are tried by halves, or by another provider.
	splitHold = 5 * time.Second
	// settleFor is how long a known result is kept for a ledger that is away. It is
	// never too late to write it: what was put in doubt meanwhile is settled by it.
	// A little less than a doubt lasts by default; behind that others have decided.
	settleFor = 9 * time.Minute
	// settleTry bounds one try, so that one that hangs does not end them all.
	settleTry = 10 * time.Second
)

// result translates a reply for the ledger. Where there is no other provider it
// remembers to leave one alone that is away or asks for time.
func (r *run) result(l *leased, reply fanfare.Reply, failsOver bool) fanfare.Result {
	result := fanfare.Result{Outcome: reply.Outcome, ProviderID: reply.ProviderID}
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
			result.Outcome.RetryAfter = r.Backoff[min(r.in.Failures, len(r.Backoff)-1)]
		}
		if len(r.Senders) == 1 {
			r.halt(result.Outcome.RetryAfter, string(reply.Outcome.Kind)+": "+reply.Outcome.Detail, nil)
		}
	case reply.Outcome.Kind == fanfare.OutcomeReleased && len(reply.Named) == 0:
		// Too late to begin: the ledger, or connecting, takes longer than a claim
		// may wait. To claim again at once would only add to it.
		r.halt(r.Backoff[min(r.in.Failures, len(r.Backoff)-1)], "released: "+reply.Outcome.Detail, nil)
	}
	return result
}

// settle tries until it succeeds or nobody needs the result any more. It always
// tries once.
func (r *run) settle(ctx context.Context, l *leased, result fanfare.Result) error {
	giveUp := l.lease.Deadline().Add(settleFor)
	if time.Now().After(l.lease.Deadline()) && result.Outcome.Kind == fanfare.OutcomeAccepted {
		// Others may have decided about the call by now, and claimed its recipients
		// anew: its own answer is proof for them.
		result.Evidence = "the call's own answer, which came late"
	}
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		err := r.trySettle(ctx, l, result)
		if err == nil {
			return nil
		}
		if time.Now().After(giveUp) {
			return err
		}
		r.Log.Warn("settle failed, trying again", "call", l.Call, "batch", r.in.Ref.WorkflowID(), "error", err)
		<-time.After(pause)
	}
}

func (r *run) trySettle(ctx context.Context, l *leased, result fanfare.Result) error {
	ctx, cancel := context.WithTimeout(ctx, settleTry)
	defer cancel()
	_, err := r.Settler.Settle(ctx, r.in.Ref, l.Call, result)
	return err
}

func (r *run) halted() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.wait > 0 || r.why != "" || r.err != nil
}

func (r *run) halt(wait time.Duration, why string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wait = max(r.wait, wait)
	if r.why == "" {
		r.why = why
	}
	if r.err == nil {
		r.err = err
	}
}

// Problems names what did not go well in a batch.
func (s *Sending) Problems(ctx context.Context, ref fanfare.BatchRef) (fanfare.BatchProblems, error) {
	defer heartbeat(ctx)()
	return s.Reporter.BatchProblems(ctx, ref, namedProblems)
}

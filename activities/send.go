package activities

import (
	"context"
	"log/slog"
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
	Sender   Sender
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
// which the provider was not to be reached. With Hold nobody is claimed: the provider is
// to be left alone, and the ledger looked at.
type SendInput struct {
	Ref      fanfare.BatchRef `json:"ref"`
	Failures int              `json:"failures"`
	Hold     bool             `json:"hold,omitempty"`
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
	if !in.Hold {
		if err := run.sendAll(ctx); err != nil {
			return SendResult{}, err
		}
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
	stopping := activity.GetWorkerStopChannel(ctx)
	select {
	case <-stopping:
	case places <- struct{}{}:
	}
	// Looked at behind the wait for a place: much may have happened in it.
	select {
	case <-stopping:
		r.halt(0, "the worker is stopping", nil)
	default:
	}
	return !r.halted() && ctx.Err() == nil
}

// leased is a claim with the lease that was counted from before it.
type leased struct {
	fanfare.Claim
	lease *fanfare.Lease
}

// everyone waits for no one: the whole batch, nothing early.
var everyone = fanfare.Range{First: 0, Last: 1<<63 - 1}

// claimNext returns nil when there is nobody to send to at the moment.
func (r *run) claimNext(ctx context.Context) (*leased, error) {
	won, err := r.claimDue(ctx, everyone)
	if won != nil || err != nil {
		return won, err
	}
	for {
		won, err := r.lease(func() (fanfare.Claim, error) {
			return r.Claimer.ClaimNew(ctx, r.in.Ref, r.Sender.Name(), r.Sender.MaxRecipients())
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
func (r *run) claimDue(ctx context.Context, within fanfare.Range) (*leased, error) {
	won, err := r.lease(func() (fanfare.Claim, error) {
		return r.Claimer.ClaimDue(ctx, r.in.Ref, r.Sender.Name(), r.Sender.MaxRecipients(), within)
	})
	if err != nil || len(won.Recipients) == 0 {
		return nil, err
	}
	return won, nil
}

// lease reads the clock before it claims: see fanfare.Lease.
func (r *run) lease(claim func() (fanfare.Claim, error)) (*leased, error) {
	start := time.Now()
	won, err := claim()
	if err != nil {
		return nil, err
	}
	return &leased{Claim: won, lease: fanfare.NewLease(won.Call, start, won.BeginWithin, won.CallWithin)}, nil
}

// carryOut makes the call, settles it, and tries the halves of a call that was
// refused for somebody the provider did not name.
func (r *run) carryOut(ctx context.Context, l *leased) {
	reply := r.call(ctx, l)
	result := r.result(l, reply)
	if err := r.settle(ctx, l, result); err != nil {
		r.halt(0, "", err)
		return
	}
	if reply.Split && len(l.Recipients) > 1 {
		middle := len(l.Recipients) / 2
		r.carryOutHalf(ctx, l.Recipients[:middle])
		r.carryOutHalf(ctx, l.Recipients[middle:])
	}
}

func (r *run) carryOutHalf(ctx context.Context, half []fanfare.Claimed) {
	if r.halted() {
		return
	}
	won, err := r.claimDue(ctx, fanfare.Range{First: half[0].Number, Last: half[len(half)-1].Number, DueIn: splitHold})
	if err != nil {
		r.halt(0, "", err)
		return
	}
	if won != nil {
		r.carryOut(ctx, won)
	}
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
	return r.Sender.Send(ctx, call)
}

const (
	// splitHold keeps the halves of a refused call from being claimed as a
	// whole again before they are tried apart.
	splitHold = 5 * time.Second
	// settleFor is how long settling is tried: as long as the call might still
	// be settled by nobody else.
	settleFor = 15 * time.Second
)

// result translates a reply for the ledger and remembers to leave a provider
// alone that is away or asks for time.
func (r *run) result(l *leased, reply fanfare.Reply) fanfare.Result {
	result := fanfare.Result{Outcome: reply.Outcome, ProviderID: reply.ProviderID}
	for i, outcome := range reply.Named {
		if result.Named == nil {
			result.Named = make(map[fanfare.SubscriberNumber]fanfare.Outcome, len(reply.Named))
		}
		result.Named[l.Recipients[i].Number] = outcome
	}
	switch {
	case reply.Split:
		result.Outcome.RetryAfter = splitHold
	case reply.Outcome.Kind == fanfare.OutcomeThrottled, reply.Outcome.Kind == fanfare.OutcomeUnavailable:
		if result.Outcome.RetryAfter == 0 {
			result.Outcome.RetryAfter = r.Backoff[min(r.in.Failures, len(r.Backoff)-1)]
		}
		r.halt(result.Outcome.RetryAfter, string(reply.Outcome.Kind)+": "+reply.Outcome.Detail, nil)
	}
	return result
}

// settle tries until it succeeds or the ledger has given the call up.
func (r *run) settle(ctx context.Context, l *leased, result fanfare.Result) error {
	ctx, cancel := context.WithDeadline(ctx, l.lease.Deadline().Add(settleFor))
	defer cancel()
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		_, err := r.Settler.Settle(ctx, r.in.Ref, l.Call, result)
		if err == nil {
			return nil
		}
		r.Log.Warn("settle failed, trying again", "call", l.Call, "batch", r.in.Ref.WorkflowID(), "error", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
	}
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
	return s.Reporter.BatchProblems(ctx, ref, namedProblems)
}

package activities

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
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

// Renderer makes the message of a publication on a channel, in one of its
// template's locales; "" without a template.
type Renderer interface {
	Render(channel fanfare.Channel, a fanfare.Announcement, locale string) (fanfare.Message, error)
}

// Claimer hands out leases on recipients.
type Claimer interface {
	ClaimNew(ctx context.Context, ref fanfare.BatchRef, wanted fanfare.Wanted) (fanfare.Claim, error)
	ClaimDue(ctx context.Context, ref fanfare.BatchRef, wanted fanfare.Wanted, within fanfare.Range) (fanfare.Claim, error)
}

// Settler writes what became of calls.
type Settler interface {
	SettleAll(ctx context.Context, ref fanfare.BatchRef, settled []fanfare.Settlement) error
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
	// CallsInFlight is how many calls of one batch are under way at once; those that
	// take different locales of one message count as one.
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

func (l Links) preferences(topic fanfare.TopicID, number fanfare.SubscriberNumber) string {
	return l.PublicURL + "/preferences/" + fanfare.PreferencesLink{Topic: topic, Number: number}.Token(l.Secret)
}

// SendInput names the batch to send. Failures counts the runs in a row that found
// the provider away.
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
	// Took is true when a provider accepted a call: it is there, whatever else it said.
	Took bool `json:"took,omitempty"`
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
	tally, err := tallyOrClose(ctx, s.Tallier, s.Closer, in.Ref)
	return SendResult{Tally: tally, Wait: run.wait, Why: run.why, Took: run.took.Load()}, err
}

// tallyOrClose tells where a batch stands, and closes it first when nobody in it is sent to
// any more.
func tallyOrClose(ctx context.Context, tallier Tallier, closer Closer, ref fanfare.BatchRef) (fanfare.BatchTally, error) {
	tally, err := tallier.Tally(ctx, ref)
	if err != nil || tally.Publication != fanfare.Cancelled && tally.Publication != fanfare.Expired {
		return tally, err
	}
	if err := closeBatch(ctx, closer, ref); err != nil {
		return fanfare.BatchTally{}, err
	}
	return tallier.Tally(ctx, ref)
}

// run is one pass of one worker over a batch.
type run struct {
	*Sending
	in       SendInput
	about    fanfare.Announcement
	locales  []string
	messages map[string]fanfare.Message // by locale
	results  chan *settling

	nobodyDue time.Time // when it last looked in vain for those whose wait is over

	stopping  <-chan struct{} // closed when the worker stops
	cancelled <-chan struct{} // closed when the activity is cancelled

	took atomic.Bool // a provider accepted a call
	mu   sync.Mutex
	wait time.Duration // the provider asked for it, or is away
	why  string
	err  error // the ledger could not be written
}

func (r *run) prepare(ctx context.Context) (err error) {
	if r.about, err = r.Planner.Announcement(ctx, r.in.Ref.Publication); err != nil {
		return err
	}
	r.locales, r.messages, err = renderAll(r.Renderer, r.in.Ref.Channel, r.about)
	return err
}

// renderAll makes the message of a publication in all locales that it has on the
// channel; under "" where it is the same for everyone.
func renderAll(renderer Renderer, channel fanfare.Channel, about fanfare.Announcement) (locales []string, messages map[string]fanfare.Message, err error) {
	locales = about.Template.Locales(channel)
	names := locales
	if len(names) == 0 {
		names = []string{""}
	}
	messages = make(map[string]fanfare.Message, len(names))
	for _, locale := range names {
		if messages[locale], err = renderer.Render(channel, about, locale); err != nil {
			return nil, nil, err
		}
	}
	return locales, messages, nil
}

// sendAll keeps CallsInFlight calls under way. A recipient is claimed only when
// there is a free place to make the call at once.
func (r *run) sendAll(ctx context.Context) error {
	if err := r.prepare(ctx); err != nil {
		return err
	}
	r.stopping, r.cancelled = activity.GetWorkerStopChannel(ctx), ctx.Done()
	r.results = make(chan *settling, r.CallsInFlight)
	settled := make(chan struct{})
	// Neither a claim nor a call under way may be cut, or left unsettled, because the
	// activity was cancelled: its recipients would be in doubt.
	ctx = context.WithoutCancel(ctx)
	go func() {
		defer close(settled)
		r.settleTogether(ctx)
	}()
	err := r.claimAll(ctx)
	close(r.results)
	<-settled
	if err != nil {
		return err
	}
	return r.err
}

// claimAll claims until nobody can be sent to, and returns when no call is under way.
func (r *run) claimAll(ctx context.Context) error {
	places := make(chan struct{}, r.CallsInFlight)
	var calls sync.WaitGroup
	defer calls.Wait()
	for flying := false; ; {
		free := r.mayClaim(places)
		if free == 0 {
			return nil
		}
		won, err := r.claimNext(ctx, free)
		groups := r.places(won)
		for range free - len(groups) {
			<-places
		}
		switch {
		case err != nil:
			return err
		case len(won) == 0 && !flying:
			return nil
		case len(won) == 0:
			// Calls under way may yet give recipients back.
			calls.Wait()
		}
		flying = len(won) > 0
		for _, group := range groups {
			calls.Go(func() {
				defer func() { <-places }()
				r.carryOutAll(ctx, group)
			})
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
	defer heartbeat(ctx)()
	return s.Reporter.BatchProblems(ctx, ref, namedProblems)
}

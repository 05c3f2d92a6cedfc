package activities_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/activities"
)

const publicationID fanfare.PublicationID = "01890000-0000-7000-8000-000000000001"

var theBatch = fanfare.BatchRef{Publication: publicationID, Channel: fanfare.Email, N: 1}

const (
	beginWithin = time.Second
	callWithin  = 15 * time.Second
)

// batchBook plays the ledger for one batch of recipients 1 to size.
type batchBook struct {
	mu         sync.Mutex
	state      fanfare.PublicationState
	size       int
	skip       func(fanfare.SubscriberNumber) bool // not to be sent to
	recipients map[fanfare.SubscriberNumber]*recipient
	claimed    int // everyone up to this number has been claimed
	calls      map[fanfare.CallID][]fanfare.SubscriberNumber
	settled    []settled
	done       []string // what was asked of the ledger, in order

	slowClaims  []time.Duration // how long the first claims take
	claimErr    error
	settleErr   func(attempt int) error
	settles     int
	lastSettled time.Time
	closes      int
	closeSteps  int // how many CloseBatch calls it takes
}

type recipient struct {
	state fanfare.State
	call  fanfare.CallID
	due   time.Time
}

type settled struct {
	call   fanfare.CallID
	size   int
	result fanfare.Result
}

func newBatchBook(size int) *batchBook {
	return &batchBook{
		state: fanfare.Running, size: size, recipients: map[fanfare.SubscriberNumber]*recipient{},
		calls: map[fanfare.CallID][]fanfare.SubscriberNumber{}, skip: func(fanfare.SubscriberNumber) bool { return false },
	}
}

func address(n fanfare.SubscriberNumber) string { return fmt.Sprintf("reader-%d@mail.example", n) }

func (b *batchBook) Announcement(context.Context, fanfare.PublicationID) (fanfare.Announcement, error) {
	return fanfare.Announcement{
		Publication: publicationID, TopicID: 42, Topic: "writer-1", TopicName: "Writer One", Key: "article-1", Class: fanfare.Bulk,
		Channels: []fanfare.Channel{fanfare.Email}, Content: fanfare.Content{Title: "A title"}, Audience: int64(b.size),
	}, nil
}

func (b *batchBook) Plan(context.Context, fanfare.PublicationID, int, int) (int, bool, error) {
	return 0, false, errors.New("a batch plans nothing")
}

func (b *batchBook) OpenBatches(context.Context, fanfare.PublicationID, fanfare.Channel, int, int) ([]fanfare.Batch, error) {
	return nil, errors.New("a batch asks for no batches")
}

func (b *batchBook) ClaimNew(ctx context.Context, ref fanfare.BatchRef, wanted fanfare.Wanted) (fanfare.Claim, error) {
	return b.claim(ctx, "new", wanted, func() []fanfare.SubscriberNumber {
		var won []fanfare.SubscriberNumber
		for taken := 0; taken < wanted.Limit && b.claimed < b.size; taken++ {
			b.claimed++
			n := fanfare.SubscriberNumber(b.claimed)
			b.recipients[n] = &recipient{state: fanfare.Skipped}
			if !b.skip(n) {
				won = append(won, n)
			}
		}
		return won
	})
}

func (b *batchBook) ClaimDue(ctx context.Context, ref fanfare.BatchRef, wanted fanfare.Wanted, within fanfare.Range) (fanfare.Claim, error) {
	return b.claim(ctx, "due", wanted, func() []fanfare.SubscriberNumber {
		var won []fanfare.SubscriberNumber
		for n := fanfare.SubscriberNumber(1); int(n) <= b.claimed && len(won) < wanted.Limit; n++ {
			r := b.recipients[n]
			if r.state == fanfare.Pending && n >= within.First && n <= within.Last && !r.due.After(time.Now().Add(within.DueIn)) {
				won = append(won, n)
			}
		}
		return won
	})
}

func (b *batchBook) claim(ctx context.Context, kind string, wanted fanfare.Wanted, choose func() []fanfare.SubscriberNumber) (fanfare.Claim, error) {
	if err := ctx.Err(); err != nil {
		return fanfare.Claim{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done = append(b.done, "claim "+kind)
	if b.claimErr != nil {
		return fanfare.Claim{}, b.claimErr
	}
	claim := fanfare.Claim{BeginWithin: beginWithin, CallWithin: callWithin}
	if b.state == fanfare.Running {
		for _, n := range choose() {
			b.add(&claim, wanted, n)
		}
	}
	claim.More = b.more()
	if len(claim.Calls) > 0 && len(b.slowClaims) > 0 {
		<-time.After(b.slowClaims[0]) // virtual time
		b.slowClaims = b.slowClaims[1:]
	}
	return claim, nil
}

func (b *batchBook) more() bool { return b.state == fanfare.Running && b.claimed < b.size }

// add claims a recipient: in a call of their own, or in that of their locale, which
// goes round among those wanted.
func (b *batchBook) add(claim *fanfare.Claim, wanted fanfare.Wanted, n fanfare.SubscriberNumber) {
	locale := ""
	if len(wanted.Locales) > 0 {
		locale = wanted.Locales[int(n)%len(wanted.Locales)]
	}
	at := slices.IndexFunc(claim.Calls, func(c fanfare.ClaimedCall) bool { return c.Locale == locale && !wanted.Single })
	if at < 0 {
		at = len(claim.Calls)
		claim.Calls = append(claim.Calls, fanfare.ClaimedCall{ID: fanfare.CallID(fmt.Sprintf("call-%d", len(b.calls)+1)), Locale: locale})
	}
	call := &claim.Calls[at]
	*b.recipients[n] = recipient{state: fanfare.Sending, call: call.ID}
	b.calls[call.ID] = append(b.calls[call.ID], n)
	call.Recipients = append(call.Recipients, fanfare.Claimed{Number: n, Address: address(n)})
}

func (b *batchBook) SettleAll(ctx context.Context, ref fanfare.BatchRef, all []fanfare.Settlement) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settles++
	if err := ctx.Err(); err != nil {
		return err
	}
	if b.settleErr != nil {
		if err := b.settleErr(b.settles); err != nil {
			return err
		}
	}
	for _, each := range all {
		b.settle(each.Call, each.Result)
	}
	b.lastSettled = time.Now()
	return nil
}

func (b *batchBook) settle(call fanfare.CallID, r fanfare.Result) {
	b.settled = append(b.settled, settled{call: call, size: len(b.calls[call]), result: r})
	for _, n := range b.calls[call] {
		held := b.recipients[n]
		if held.call != call || held.state != fanfare.Sending {
			continue
		}
		kind := r.Outcome.Kind
		if named, ok := r.Named[n]; ok {
			kind = named.Kind
		}
		*held = recipient{state: map[fanfare.OutcomeKind]fanfare.State{
			fanfare.OutcomeAccepted: fanfare.Sent, fanfare.OutcomeRejected: fanfare.Failed, fanfare.OutcomeAmbiguous: fanfare.InDoubt,
			fanfare.OutcomeThrottled: fanfare.Pending, fanfare.OutcomeUnavailable: fanfare.Pending, fanfare.OutcomeReleased: fanfare.Pending,
		}[kind], due: time.Now().Add(r.Outcome.RetryAfter)}
	}
}

func (b *batchBook) DoubtLapsed(context.Context, fanfare.BatchRef) (fanfare.BatchTally, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done = append(b.done, "doubt lapsed")
	return b.tally(), nil
}

func (b *batchBook) Tally(context.Context, fanfare.BatchRef) (fanfare.BatchTally, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done = append(b.done, "tally")
	return b.tally(), nil
}

func (b *batchBook) tally() fanfare.BatchTally {
	t := fanfare.BatchTally{Publication: b.state, AllClaimed: b.claimed == b.size, Totals: fanfare.Totals{Intended: int64(b.size)}}
	t.Totals.Pending = int64(b.size - b.claimed)
	for _, r := range b.recipients {
		switch r.state {
		case fanfare.Pending:
			t.Totals.Pending++
		case fanfare.Sending:
			t.Totals.Sending++
		case fanfare.Sent:
			t.Totals.Sent++
		case fanfare.Failed:
			t.Totals.Failed++
		case fanfare.Skipped:
			t.Totals.Skipped++
		case fanfare.InDoubt:
			t.Totals.InDoubt++
		}
	}
	return t
}

func (b *batchBook) CloseBatch(context.Context, fanfare.BatchRef, int) (bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closes++
	if b.closes < b.closeSteps {
		return false, nil
	}
	for ; b.claimed < b.size; b.claimed++ {
		b.recipients[fanfare.SubscriberNumber(b.claimed+1)] = &recipient{state: fanfare.Skipped}
	}
	return true, nil
}

func (b *batchBook) BatchProblems(_ context.Context, _ fanfare.BatchRef, limit int) (fanfare.BatchProblems, error) {
	return fanfare.BatchProblems{Reasons: map[string]int64{"limit": int64(limit)}}, nil
}

func (b *batchBook) asked() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.done)
}

// provider plays a sender that takes a while and answers what reply says.
type provider struct {
	size  int // the most recipients of a call
	takes time.Duration
	reply func(call fanfare.Call) fanfare.Reply
	// during is called while a call is under way.
	during func(ctx context.Context, n int)

	mu     sync.Mutex
	calls  []fanfare.Call
	flying int
	most   int
}

var accepted = fanfare.Reply{Outcome: fanfare.Outcome{Kind: fanfare.OutcomeAccepted, Code: "202"}, ProviderID: "m-1"}

func (*provider) Name() string         { return "sandbox" }
func (p *provider) MaxRecipients() int { return p.size }

func (p *provider) Send(ctx context.Context, call fanfare.Call) fanfare.Reply {
	p.mu.Lock()
	p.calls = append(p.calls, call)
	n := len(p.calls)
	p.flying++
	p.most = max(p.most, p.flying)
	p.mu.Unlock()
	if p.during != nil {
		p.during(ctx, n)
	}
	<-time.After(p.takes)
	p.mu.Lock()
	p.flying--
	p.mu.Unlock()
	if p.reply == nil {
		return accepted
	}
	return p.reply(call)
}

func (p *provider) numbers() []fanfare.SubscriberNumber {
	var all []fanfare.SubscriberNumber
	for _, call := range p.calls {
		for _, r := range call.Recipients {
			all = append(all, r.Number)
		}
	}
	return all
}

// doors plays the breaker: providers are open to calls unless they are named.
type doors struct {
	mu     sync.Mutex
	shut   map[string]fanfare.Permit
	probe  bool
	given  int
	taken  []fanfare.OutcomeKind // what the permits were told
	denied int
}

func (d *doors) Permit(_ context.Context, provider string) (fanfare.Permit, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if shut, ok := d.shut[provider]; ok {
		d.denied++
		return shut, nil
	}
	d.given++
	return fanfare.Permit{Allowed: true, Probe: d.probe, Done: func(o fanfare.Outcome) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.taken = append(d.taken, o.Kind)
	}}, nil
}

type renderer struct{ err error }

func (r renderer) Render(_ fanfare.Channel, a fanfare.Announcement, locale string) (fanfare.Message, error) {
	return fanfare.Message{Subject: a.TopicName + ": " + a.Content.Title + locale}, r.err
}

// text renders what is only text.
type text struct{}

func (text) Render(_ fanfare.Channel, a fanfare.Announcement, locale string) (fanfare.Message, error) {
	return fanfare.Message{Text: a.TopicName + ": " + a.Content.Title + locale}, nil
}

// desk runs activities as a worker would, and keeps what they log.
type desk struct {
	*activities.Sending
	t    *testing.T
	book *batchBook
	logs *bytes.Buffer
	log  *slog.Logger
	stop chan struct{}
	// cancel ends the activity's context.
	cancel context.CancelFunc
	env    *testsuite.TestActivityEnvironment
}

func newDesk(t *testing.T, book *batchBook, p *provider) *desk {
	t.Helper()
	d := bareDesk(t)
	d.book = book
	if p.size == 0 {
		p.size = 1000
	}
	if p.takes == 0 {
		p.takes = 100 * time.Millisecond
	}
	d.Sending = &activities.Sending{
		Planner: book, Tallier: book, Claimer: book, Settler: book, Closer: book, Reporter: book, Senders: []activities.Sender{p}, Breaker: &doors{}, Renderer: renderer{},
		Links:         activities.Links{PublicURL: "https://fanfare.example", Secret: "secret"},
		CallsInFlight: 4, Backoff: []time.Duration{time.Second, 3 * time.Second, 10 * time.Second}, Log: d.log,
	}
	d.env.RegisterActivity(d.Sending)
	return d
}

// bareDesk is a desk without activities.
func bareDesk(t *testing.T) *desk {
	t.Helper()
	d := &desk{t: t, logs: new(bytes.Buffer), stop: make(chan struct{})}
	d.log = slog.New(slog.NewTextHandler(d.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(log.NewStructuredLogger(d.log))
	d.env = suite.NewTestActivityEnvironment()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	d.cancel = cancel
	d.env.SetWorkerOptions(worker.Options{BackgroundActivityContext: ctx})
	d.env.SetWorkerStopChannel(d.stop)
	d.env.SetTestTimeout(time.Hour) // of virtual time
	return d
}

// send runs the activity. Whatever came of it, nothing personal was logged or
// returned.
func (d *desk) send(in activities.SendInput) (activities.SendResult, error) {
	d.t.Helper()
	in.Ref = theBatch
	var result activities.SendResult
	value, err := d.env.ExecuteActivity(d.Sending.Send, in)
	if err == nil {
		require.NoError(d.t, value.Get(&result))
	} else {
		require.NotContains(d.t, err.Error(), "@")
	}
	require.NotContains(d.t, d.logs.String(), "@")
	require.NotContains(d.t, d.logs.String(), "A title")
	return result, err
}

// beats passes on the heartbeats that reach Temporal.
func (d *desk) beats(to chan<- struct{}) {
	d.env.SetOnActivityHeartbeatListener(func(*activity.Info, converter.EncodedValues) { to <- struct{}{} })
}

package workflows

import (
	"fmt"
	"slices"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/activities"
)

// The signals and the query of the workflows.
const (
	SignalWake    = "wake"     // the ledger has news: look at it
	signalBatch   = "batch"    // a batch reports to its publication
	QueryProgress = "progress" // answers Progress
)

// PublishInput is the input of Publish. Progress is what an earlier run carried over;
// whoever starts a publication leaves it empty.
type PublishInput struct {
	Publication fanfare.PublicationID `json:"publication"`
	Progress    *Progress             `json:"progress,omitempty"`
}

// Progress is all a run knows: the next run's input and the answer to a query.
type Progress struct {
	Opening activities.Opening             `json:"opening"`
	State   fanfare.PublicationState       `json:"state"`
	Totals  fanfare.Totals                 `json:"totals"` // as of the last look
	Lanes   map[fanfare.Channel]*LaneState `json:"lanes"`
}

// LaneState is how far one channel is.
type LaneState struct {
	After   int   `json:"after"`   // the last batch that was handed out
	AllOut  bool  `json:"all_out"` // there are none behind it
	Window  []int `json:"window"`  // in their first pass
	Waiting []int `json:"waiting"` // past it, with something left to do
	Done    int   `json:"done"`
}

// Tally is what a publication came to.
type Tally struct {
	State  fanfare.PublicationState `json:"state"`
	Totals fanfare.Totals           `json:"totals"`
}

// batchReport is what a batch signals to its publication.
type batchReport struct {
	Ref  fanfare.BatchRef `json:"ref"`
	Done bool             `json:"done"` // false: only its first pass is over
}

// Publish fans a publication out to its audience and ends when the ledger says
// that everyone has come to an end.
func Publish(ctx workflow.Context, in PublishInput) (Tally, error) {
	p := &publishing{
		id: in.Publication, Progress: in.Progress,
		wake: workflow.GetSignalChannel(ctx, SignalWake), reports: workflow.GetSignalChannel(ctx, signalBatch),
	}
	if p.Progress == nil {
		p.Progress = &Progress{State: fanfare.Accepted, Lanes: map[fanfare.Channel]*LaneState{}}
	}
	// Before anything is waited for: a query finds the run from its first moment.
	if err := workflow.SetQueryHandler(ctx, QueryProgress, func() (Progress, error) { return *p.Progress, nil }); err != nil {
		return Tally{}, err
	}
	if in.Progress == nil {
		if err := p.open(ctx); err != nil {
			return Tally{}, err
		}
	}
	for {
		if err := p.look(ctx); err != nil {
			return Tally{}, err
		}
		if p.finished {
			p.takeReports()
			return Tally{State: p.State, Totals: p.Totals}, nil
		}
		if err := p.sendUntilNews(ctx); err != nil {
			return Tally{}, err
		}
		if p.longEnough(ctx) {
			return Tally{}, p.continueAsNew(ctx)
		}
	}
}

type publishing struct {
	*Progress
	id       fanfare.PublicationID
	wake     workflow.ReceiveChannel
	reports  workflow.ReceiveChannel
	finished bool
	begins   time.Duration // until it may begin, as of the last look
	started  int           // batches this run has started
	looks    int           // at the ledger, by this run
}

// open reads what is published and shows it in the Web UI.
func (p *publishing) open(ctx workflow.Context) error {
	var a *activities.Publishing
	err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, ledgerOptions("read the publication")), a.Open, p.id).Get(ctx, &p.Opening)
	if err != nil {
		return err
	}
	for _, channel := range p.Opening.Channels {
		p.Lanes[channel] = &LaneState{}
	}
	return workflow.UpsertTypedSearchAttributes(ctx, attrPublication.ValueSet(string(p.id)), attrKey.ValueSet(string(p.Opening.Key)),
		attrTopic.ValueSet(string(p.Opening.Topic)), attrState.ValueSet(string(p.State)))
}

// look asks the ledger, which begins, expires and finishes as is due, and
// believes it over every signal.
func (p *publishing) look(ctx workflow.Context) error {
	in := activities.LookInput{Publication: p.id, Window: p.refs(func(l *LaneState) []int { return l.Window }), Waiting: p.someWaiting()}
	p.looks++
	var a *activities.Publishing
	var look activities.Look
	if err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, ledgerOptions("look at the ledger")), a.Look, in).Get(ctx, &look); err != nil {
		return err
	}
	p.Totals, p.finished, p.begins = look.Totals, look.Finished, look.Begins
	if !p.finished && p.allDone() && p.Totals.Unfinished() > 0 {
		p.rewind()
	}
	for _, ref := range look.Passed {
		p.report(batchReport{Ref: ref})
	}
	for _, ref := range look.Done {
		p.report(batchReport{Ref: ref, Done: true})
	}
	if err := p.startBatches(ctx, look.Orphans); err != nil {
		return err
	}
	was := p.State
	if look.State != was {
		p.State = look.State
		if err := workflow.UpsertTypedSearchAttributes(ctx, attrState.ValueSet(string(p.State))); err != nil {
			return err
		}
	}
	p.show(ctx)
	switch {
	case p.finished || p.State == was:
	case p.stopped():
		return p.close(ctx)
	case was == fanfare.Paused:
		p.wakeBatches(ctx)
	}
	return nil
}

func (p *publishing) stopped() bool {
	return p.State == fanfare.Cancelled || p.State == fanfare.Expired
}

// close writes why nobody else is sent to, wakes the batches to see it, and
// looks at what that has left.
func (p *publishing) close(ctx workflow.Context) error {
	var a *activities.Closing
	options := workflow.WithActivityOptions(ctx, longOptions(Queue, "skip whoever was not sent to: "+string(p.State)))
	if err := workflow.ExecuteActivity(options, a.Close, p.id).Get(ctx, nil); err != nil {
		return err
	}
	p.wakeBatches(ctx)
	return p.look(ctx)
}

// wakeBatches passes the news on. Whoever misses it looks at the ledger soon.
func (p *publishing) wakeBatches(ctx workflow.Context) {
	for _, ref := range p.refs(func(l *LaneState) []int { return l.Window }) {
		_ = workflow.SignalExternalWorkflow(ctx, ref.WorkflowID(), "", SignalWake, nil).Get(ctx, nil)
	}
}

// sendUntilNews keeps the windows full until there is a reason to look at the
// ledger: a wake, the end of all batches, or the time.
func (p *publishing) sendUntilNews(ctx workflow.Context) error {
	timer := workflow.NewTimerWithOptions(ctx, p.untilNextLook(), workflow.TimerOptions{Summary: "until the next look at the ledger"})
	news := false
	selector := workflow.NewSelector(ctx)
	selector.AddFuture(timer, func(workflow.Future) { news = true })
	selector.AddReceive(p.wake, func(c workflow.ReceiveChannel, _ bool) {
		c.Receive(ctx, nil)
		news = true
	})
	selector.AddReceive(p.reports, func(c workflow.ReceiveChannel, _ bool) {
		var r batchReport
		c.Receive(ctx, &r)
		p.report(r)
	})
	wasDone := p.allDone()
	for !news {
		// Once stopped and closed, what is not handed out has a call under way or
		// in doubt, by a run whose history is lost: its batch must see to that.
		if p.State == fanfare.Running || p.stopped() {
			if err := p.fillWindows(ctx); err != nil {
				return err
			}
			if p.allDone() && !wasDone {
				return nil
			}
		}
		p.show(ctx)
		if p.longEnough(ctx) {
			return nil
		}
		selector.Select(ctx)
	}
	return nil
}

// untilNextLook is short only when the publication is about to begin.
func (p *publishing) untilNextLook() time.Duration {
	if p.State == fanfare.Scheduled {
		return min(max(p.begins, 100*time.Millisecond), glance)
	}
	return glance
}

// fillWindows starts batches while a window has room. Channels take turns, so
// that none waits for another.
func (p *publishing) fillWindows(ctx workflow.Context) error {
	for _, channel := range p.Opening.Channels {
		lane := p.Lanes[channel]
		// A page for half a window at a time, not one for every batch that ends. One
		// that is full of batches past their first pass leaves room for another.
		for more := true; more && !lane.AllOut && windowSize-len(lane.Window) >= windowSize/2; more = !p.longEnough(ctx) {
			if err := p.fillWindow(ctx, channel, lane); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *publishing) fillWindow(ctx workflow.Context, channel fanfare.Channel, lane *LaneState) error {
	var a *activities.Publishing
	var next activities.NextBatches
	in := activities.NextInput{Publication: p.id, Channel: channel, After: lane.After, Limit: windowSize - len(lane.Window)}
	options := ledgerOptions(fmt.Sprintf("plan %s batches after %d", channel, lane.After))
	if err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, options), a.Next, in).Get(ctx, &next); err != nil {
		return err
	}
	if err := p.startBatches(ctx, next.Batches); err != nil {
		return err
	}
	for _, batch := range next.Batches {
		lane.After = batch.N
		if batch.AllClaimed { // by a run whose history is lost
			lane.Waiting = append(lane.Waiting, batch.N)
		} else {
			lane.Window = append(lane.Window, batch.N)
		}
	}
	lane.AllOut = next.Last
	return nil
}

// startBatches starts the workflows of batches, all at once: one by one, each
// would cost a task of this workflow and wait for it. One that is open already is as good.
func (p *publishing) startBatches(ctx workflow.Context, batches []fanfare.Batch) error {
	starts := make([]workflow.Future, len(batches))
	for i, b := range batches {
		starts[i] = startBatch(ctx, b, p.Opening.Class, p.Opening.Topic)
	}
	p.started += len(batches)
	for _, start := range starts {
		if err := start.Get(ctx, nil); err != nil && !temporal.IsWorkflowExecutionAlreadyStartedError(err) {
			return err
		}
	}
	return nil
}

// startBatch starts a batch as a child that outlives this run.
func startBatch(ctx workflow.Context, b fanfare.Batch, class fanfare.Class, topic fanfare.Topic) workflow.Future {
	options := childOptions(b.WorkflowID(), fmt.Sprintf("%s batch %d, recipients %d to %d", b.Channel, b.N, b.First, b.Last),
		attrPublication.ValueSet(string(b.Publication)), attrTopic.ValueSet(string(topic)), attrChannel.ValueSet(string(b.Channel)),
		attrState.ValueSet(batchSending), attrFirst.ValueSet(int64(b.First)), attrLast.ValueSet(int64(b.Last)))
	child := workflow.ExecuteChildWorkflow(workflow.WithChildOptions(ctx, options), Batch, BatchInput{Batch: b, Class: class, State: batchSending})
	return child.GetChildWorkflowExecution()
}

// report moves a batch from the window to the waiting ones, or to done. A
// report that comes twice, or after the ledger said so, changes nothing.
func (p *publishing) report(r batchReport) {
	lane, ok := p.Lanes[r.Ref.Channel]
	if !ok {
		return
	}
	inWindow, waiting := slices.Index(lane.Window, r.Ref.N), slices.Index(lane.Waiting, r.Ref.N)
	if inWindow >= 0 {
		lane.Window = slices.Delete(lane.Window, inWindow, inWindow+1)
		if !r.Done {
			lane.Waiting = append(lane.Waiting, r.Ref.N)
		}
	}
	if r.Done && waiting >= 0 {
		lane.Waiting = slices.Delete(lane.Waiting, waiting, waiting+1)
	}
	if r.Done && (inWindow >= 0 || waiting >= 0) {
		lane.Done++
	}
}

// rewind hands out anew what the ledger says is left, after all batches were
// done: dead letters were taken back since.
func (p *publishing) rewind() {
	for _, channel := range p.Opening.Channels {
		p.Lanes[channel].After, p.Lanes[channel].AllOut = 0, false
	}
}

func (p *publishing) allDone() bool {
	for _, channel := range p.Opening.Channels {
		lane := p.Lanes[channel]
		if !lane.AllOut || len(lane.Window)+len(lane.Waiting) > 0 {
			return false
		}
	}
	return true
}

func (p *publishing) refs(of func(*LaneState) []int) []fanfare.BatchRef {
	var refs []fanfare.BatchRef
	for _, channel := range p.Opening.Channels {
		for _, n := range of(p.Lanes[channel]) {
			refs = append(refs, fanfare.BatchRef{Publication: p.id, Channel: channel, N: n})
		}
	}
	return refs
}

// someWaiting are the batches behind their first pass, at most looksAtWaiting of
// them and others at every look, so that none is forgotten.
func (p *publishing) someWaiting() []fanfare.BatchRef {
	waiting := p.refs(func(l *LaneState) []int { return l.Waiting })
	if len(waiting) <= looksAtWaiting {
		return waiting
	}
	first := p.looks * looksAtWaiting % len(waiting)
	return slices.Concat(waiting[first:], waiting[:first])[:looksAtWaiting]
}

// show writes what an operator sees first in the Web UI.
func (p *publishing) show(ctx workflow.Context) {
	text := fmt.Sprintf("**%s** — %s, topic `%s`, audience %d\n", p.State, p.Opening.Key, p.Opening.Topic, p.Opening.Audience)
	for _, channel := range p.Opening.Channels {
		lane := p.Lanes[channel]
		text += fmt.Sprintf("\n- %s: %d batches done, %d sending, %d waiting", channel, lane.Done, len(lane.Window), len(lane.Waiting))
	}
	text += fmt.Sprintf("\n\nAt the last look: %d of %d sent, %d pending, %d in doubt, %d failed, %d skipped, %d dead.",
		p.Totals.Sent+p.Totals.Delivered, p.Totals.Intended, p.Totals.Pending, p.Totals.InDoubt, p.Totals.Failed, p.Totals.Skipped, p.Totals.Dead)
	workflow.SetCurrentDetails(ctx, text)
}

func (p *publishing) longEnough(ctx workflow.Context) bool {
	info := workflow.GetInfo(ctx)
	return p.started >= batchesPerRun || info.GetCurrentHistoryLength() >= eventsPerRun || info.GetContinueAsNewSuggested()
}

// takeReports takes the reports that have arrived: nobody else would see them.
func (p *publishing) takeReports() {
	for {
		var r batchReport
		if !p.reports.ReceiveAsync(&r) {
			return
		}
		p.report(r)
	}
}

// continueAsNew carries the progress over.
func (p *publishing) continueAsNew(ctx workflow.Context) error {
	p.takeReports()
	return workflow.NewContinueAsNewError(ctx, Publish, PublishInput{Publication: p.id, Progress: p.Progress})
}

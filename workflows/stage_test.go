package workflows_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/activities"
	"github.com/fanfare-dev/fanfare/workflows"
)

const publicationID fanfare.PublicationID = "01890000-0000-7000-8000-000000000001"

// window is how many batches of a channel may be in their first pass at once.
const window = 16

// report is what a batch signals to its publication, as it stands in histories.
type report struct {
	Ref  fanfare.BatchRef `json:"ref"`
	Done bool             `json:"done"`
}

func batchRef(channel fanfare.Channel, n int) fanfare.BatchRef {
	return fanfare.BatchRef{Publication: publicationID, Channel: channel, N: n}
}

func batchOf(ref fanfare.BatchRef) fanfare.Batch {
	first := fanfare.SubscriberNumber(10*ref.N - 9)
	return fanfare.Batch{BatchRef: ref, First: first, Last: first + 9, Intended: 10}
}

// stage plays a ledger and its batches around one run of Publish, in virtual
// time. Its embedded activities are what the workflow calls.
type stage struct {
	*testsuite.TestWorkflowEnvironment
	*played
	t     *testing.T
	batch func(ctx workflow.Context, in workflows.BatchInput) error
	begun time.Time
}

// newStage has so many batches on each channel, each of which takes a second
// and reports that it is done.
func newStage(t *testing.T, batches int, channels ...fanfare.Channel) *stage {
	t.Helper()
	s := &stage{t: t, TestWorkflowEnvironment: newEnvironment()}
	s.played = &played{
		state: fanfare.Running, batches: batches, started: map[fanfare.BatchRef]int{}, firstPass: map[fanfare.Channel]int{},
		most: map[fanfare.Channel]int{}, passed: map[fanfare.BatchRef]bool{}, done: map[fanfare.BatchRef]bool{}, woken: map[fanfare.BatchRef]int{},
		opening: activities.Opening{Key: "article-1", Topic: "writer-1", Class: fanfare.Bulk, Channels: channels, Audience: int64(10 * batches)},
	}
	s.batch = func(ctx workflow.Context, in workflows.BatchInput) error {
		require.NoError(t, workflow.Sleep(ctx, time.Second))
		s.end(ctx, in.Batch.BatchRef)
		return nil
	}
	s.begun = s.Now()
	s.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: publicationID.WorkflowID(), TaskQueue: workflows.Queue})
	s.RegisterWorkflow(workflows.Publish)
	s.RegisterWorkflowWithOptions(s.playBatch, workflow.RegisterOptions{Name: "Batch"})
	s.RegisterActivity(&ledgerActivities{played: s.played})
	return s
}

func newEnvironment() *testsuite.TestWorkflowEnvironment {
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(log.NewStructuredLogger(slog.New(slog.DiscardHandler)))
	env := suite.NewTestWorkflowEnvironment()
	// Of real time: on a busy machine a task waits for seconds before it may run, which is
	// no deadlock.
	env.SetTestTimeout(time.Minute)
	env.SetWorkerOptions(worker.Options{DeadlockDetectionTimeout: 20 * time.Second})
	env.SetOnActivityStartedListener(func(info *activity.Info, _ context.Context, _ converter.EncodedValues) {
		if info.HeartbeatTimeout == 0 {
			panic(info.ActivityType.Name + " would be missed for minutes when its worker dies: give it a heartbeat time-out")
		}
	})
	return env
}

// publish runs the workflow to its end.
func (s *stage) publish() workflows.Tally {
	s.t.Helper()
	s.ExecuteWorkflow(workflows.Publish, workflows.PublishInput{Publication: publicationID})
	require.True(s.t, s.IsWorkflowCompleted())
	require.NoError(s.t, s.GetWorkflowError())
	var tally workflows.Tally
	require.NoError(s.t, s.GetWorkflowResult(&tally))
	return tally
}

// at does something when the publication is so old.
func (s *stage) at(age time.Duration, do func()) {
	s.RegisterDelayedCallback(do, age)
}

// turn changes the publication's state and wakes its workflow.
func (s *stage) turn(state fanfare.PublicationState) {
	s.set(func() { s.state = state })
	s.SignalWorkflow(workflows.SignalWake, nil)
}

func (s *stage) progress() workflows.Progress {
	s.t.Helper()
	value, err := s.QueryWorkflow(workflows.QueryProgress)
	require.NoError(s.t, err)
	var p workflows.Progress
	require.NoError(s.t, value.Get(&p))
	return p
}

//workflowcheck:ignore
func (s *stage) playBatch(ctx workflow.Context, in workflows.BatchInput) (workflows.BatchResult, error) {
	s.begin(in.Batch.BatchRef)
	require.Equal(s.t, in.Batch.WorkflowID(), workflow.GetInfo(ctx).WorkflowExecution.ID)
	require.Equal(s.t, fanfare.Bulk, in.Class)
	return workflows.BatchResult{}, s.batch(ctx, in)
}

// pass reports that a batch is over its first pass.
func (s *stage) pass(ctx workflow.Context, ref fanfare.BatchRef) {
	s.endFirstPass(ref)
	s.report(ctx, report{Ref: ref})
}

// end writes that a batch has nothing left to do, and reports it.
func (s *stage) end(ctx workflow.Context, ref fanfare.BatchRef) {
	s.endSilently(ref)
	s.report(ctx, report{Ref: ref, Done: true})
}

func (s *stage) report(ctx workflow.Context, r report) {
	// A publication that has ended cannot be told, which is no error.
	_ = workflow.SignalExternalWorkflow(ctx, publicationID.WorkflowID(), "", "batch", r).Get(ctx, nil)
}

// waitForWake counts the wakes that a batch gets until stop says so.
func (s *stage) waitForWake(ctx workflow.Context, ref fanfare.BatchRef) {
	workflow.GetSignalChannel(ctx, workflows.SignalWake).Receive(ctx, nil)
	s.set(func() { s.woken[ref]++ })
}

// played is what the ledger knows and what was seen.
type played struct {
	mu        sync.Mutex
	opening   activities.Opening
	state     fanfare.PublicationState
	batches   int           // on each channel
	begins    time.Duration // until it begins, while scheduled
	started   map[fanfare.BatchRef]int
	firstPass map[fanfare.Channel]int // batches in their first pass
	most      map[fanfare.Channel]int // the most there ever were
	passed    map[fanfare.BatchRef]bool
	done      map[fanfare.BatchRef]bool
	woken     map[fanfare.BatchRef]int
	unready   bool // the ledger does not say "finished" although all is done
	inDoubt   map[fanfare.BatchRef]bool
	// edit changes what a look answers.
	edit   func(activities.LookInput, *activities.Look)
	looks  []activities.LookInput
	nexts  []activities.NextInput
	closes int
}

func (p *played) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

func (p *played) get(read func() int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return read()
}

func (p *played) begin(ref fanfare.BatchRef) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.started[ref]++
	p.firstPass[ref.Channel]++
	p.most[ref.Channel] = max(p.most[ref.Channel], p.firstPass[ref.Channel])
}

func (p *played) endFirstPass(ref fanfare.BatchRef) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.passed[ref] {
		p.passed[ref] = true
		p.firstPass[ref.Channel]--
	}
}

func (p *played) endSilently(ref fanfare.BatchRef) {
	p.endFirstPass(ref)
	p.set(func() { p.done[ref] = true })
}

func (p *played) finished() bool {
	if p.unready || len(p.done) < p.batches*len(p.opening.Channels) {
		return false
	}
	return p.state == fanfare.Running || p.state == fanfare.Cancelled || p.state == fanfare.Expired
}

func (p *played) totals() fanfare.Totals {
	intended := p.opening.Audience * int64(len(p.opening.Channels))
	sent := 10 * int64(len(p.done))
	return fanfare.Totals{Intended: intended, Sent: sent, Pending: intended - sent}
}

// ledgerActivities carry the names of the real activities.
type ledgerActivities struct{ played *played }

func (a *ledgerActivities) Open(context.Context, fanfare.PublicationID) (activities.Opening, error) {
	return a.played.opening, nil
}

func (a *ledgerActivities) Look(_ context.Context, in activities.LookInput) (activities.Look, error) {
	p := a.played
	p.mu.Lock()
	defer p.mu.Unlock()
	p.looks = append(p.looks, in)
	look := activities.Look{State: p.state, Totals: p.totals(), Finished: p.finished()}
	switch {
	case look.Finished && p.state == fanfare.Running:
		look.State = fanfare.Completed
	case p.state == fanfare.Scheduled:
		look.Begins = p.begins
	}
	if p.edit != nil {
		p.edit(in, &look)
	}
	return look, nil
}

func (a *ledgerActivities) Next(_ context.Context, in activities.NextInput) (activities.NextBatches, error) {
	p := a.played
	p.mu.Lock()
	defer p.mu.Unlock()
	p.nexts = append(p.nexts, in)
	var next activities.NextBatches
	for n := in.After + 1; n <= p.batches && len(next.Batches) < in.Limit; n++ {
		if ref := batchRef(in.Channel, n); !p.done[ref] {
			batch := batchOf(ref)
			batch.AllClaimed = p.passed[ref]
			next.Batches = append(next.Batches, batch)
		}
	}
	next.Last = len(next.Batches) < in.Limit
	return next, nil
}

// Close ends every batch that nobody works on.
func (a *ledgerActivities) Close(context.Context, fanfare.PublicationID) error {
	p := a.played
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closes++
	if p.state != fanfare.Cancelled && p.state != fanfare.Expired {
		return fmt.Errorf("close a publication that is %s", p.state)
	}
	for _, channel := range p.opening.Channels {
		for n := 1; n <= p.batches; n++ {
			if ref := batchRef(channel, n); p.started[ref] == 0 && !p.inDoubt[ref] {
				p.done[ref] = true
			}
		}
	}
	return nil
}

package workflows_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/activities"
	"github.com/fanfare-dev/fanfare/workflows"
)

// batchStage plays the ledger, the provider and the publication around one
// batch, in virtual time.
type batchStage struct {
	*testsuite.TestWorkflowEnvironment
	t     *testing.T
	begun time.Time
	// send answers the nth run of the send activity, counted from 1.
	send     func(n int, in activities.SendInput) activities.SendResult
	problems fanfare.BatchProblems

	sends      []activities.SendInput
	ages       []time.Duration // of the batch at each send
	reports    []report
	deaf       bool // the publication cannot be told
	reconciled int  // reconcilers started
	asked      int  // times that a reconciler at work was told of more
	named      int  // runs of the activity that names problems

	// reopened are the runs that took dead letters back, and why says that none may be.
	reopened []string
	why      string
}

var theBatch = batchRef(fanfare.Email, 7)

func newBatchStage(t *testing.T, send func(n int, in activities.SendInput) activities.SendResult) *batchStage {
	t.Helper()
	b := &batchStage{t: t, TestWorkflowEnvironment: newEnvironment(), send: send}
	b.begun = b.Now()
	b.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: theBatch.WorkflowID(), TaskQueue: workflows.Queue})
	b.RegisterWorkflow(workflows.Batch)
	b.RegisterWorkflowWithOptions(b.reconcile, workflow.RegisterOptions{Name: "Reconcile"})
	b.RegisterActivity(&sendActivities{b})
	b.RegisterActivity(&replayActivities{b})
	b.OnSignalExternalWorkflow(mock.Anything, publicationID.WorkflowID(), "", "batch", mock.Anything).Return(
		func(_, _, _, _ string, arg any) error {
			payloads, err := converter.GetDefaultDataConverter().ToPayloads(arg)
			require.NoError(t, err)
			var r report
			require.NoError(t, converter.GetDefaultDataConverter().FromPayloads(payloads, &r))
			b.reports = append(b.reports, r)
			if b.deaf {
				return errors.New("there is no such workflow")
			}
			return nil
		})
	b.OnSignalExternalWorkflow(mock.Anything, "reconcile/"+string(publicationID)+"/email", "", workflows.SignalWake, mock.Anything).Return(
		func(_, _, _, _ string, _ any) error { return errors.New("there is no such workflow") })
	return b
}

//workflowcheck:ignore
func (b *batchStage) reconcile(ctx workflow.Context, in activities.ReconcileInput) error {
	require.Equal(b.t, activities.ReconcileInput{Publication: publicationID, Channel: fanfare.Email}, in)
	require.Equal(b.t, "reconcile/"+string(publicationID)+"/email", workflow.GetInfo(ctx).WorkflowExecution.ID)
	b.reconciled++
	err := workflow.Sleep(ctx, 90*time.Second)
	for more := workflow.GetSignalChannel(ctx, workflows.SignalWake); more.ReceiveAsync(nil); {
		b.asked++
	}
	return err
}

// execute runs the batch until it closes.
func (b *batchStage) execute() (workflows.BatchResult, error) {
	b.t.Helper()
	b.ExecuteWorkflow(workflows.Batch, workflows.BatchInput{Batch: batchOf(theBatch), Class: fanfare.Bulk, State: "sending"})
	require.True(b.t, b.IsWorkflowCompleted())
	var result workflows.BatchResult
	err := b.GetWorkflowError()
	if err == nil {
		require.NoError(b.t, b.GetWorkflowResult(&result))
	}
	return result, err
}

func (b *batchStage) at(age time.Duration, do func()) { b.RegisterDelayedCallback(do, age) }

type sendActivities struct{ stage *batchStage }

func (a *sendActivities) Send(_ context.Context, in activities.SendInput) (activities.SendResult, error) {
	b := a.stage
	b.sends = append(b.sends, in)
	b.ages = append(b.ages, b.Now().Sub(b.begun))
	return b.send(len(b.sends), in), nil
}

type replayActivities struct{ stage *batchStage }

func (a *replayActivities) Reopen(_ context.Context, in activities.ReopenInput) (activities.ReopenResult, error) {
	require.Equal(a.stage.t, theBatch, in.Ref)
	a.stage.reopened = append(a.stage.reopened, in.Run)
	return activities.ReopenResult{Run: in.Run, Reopened: 3, Why: a.stage.why}, nil
}

func (a *sendActivities) Problems(_ context.Context, ref fanfare.BatchRef) (fanfare.BatchProblems, error) {
	a.stage.named++
	require.Equal(a.stage.t, theBatch, ref)
	return a.stage.problems, nil
}

func tally(totals fanfare.Totals) fanfare.BatchTally {
	totals.Intended = 10
	return fanfare.BatchTally{Publication: fanfare.Running, AllClaimed: true, Totals: totals}
}

func span(d time.Duration) *time.Duration { return &d }

var allSent = tally(fanfare.Totals{Sent: 10})

// waits makes the second run of the send activity find all sent,
// and returns when it came and how many runs there were.
func waits(t *testing.T, first activities.SendResult) (age time.Duration, runs int) {
	t.Helper()
	b := newBatchStage(t, func(n int, _ activities.SendInput) activities.SendResult {
		if n == 1 {
			return first
		}
		return activities.SendResult{Tally: allSent}
	})
	_, err := b.execute()
	require.NoError(t, err)
	return b.ages[len(b.ages)-1], len(b.ages)
}

func TestBatchInOnePass(t *testing.T) {
	t.Parallel()
	b := newBatchStage(t, func(int, activities.SendInput) activities.SendResult {
		return activities.SendResult{Tally: allSent}
	})
	result, err := b.execute()
	require.NoError(t, err)
	require.Equal(t, workflows.BatchResult{Totals: allSent.Totals}, result)
	require.Equal(t, []report{{Ref: theBatch, Done: true}}, b.reports)
	require.Equal(t, []activities.SendInput{{Ref: theBatch}}, b.sends)
	require.Zero(t, b.named, "nobody is to be named when all were sent to")
}

func TestBatchReportsFirstPassOnceAndEndOnce(t *testing.T) {
	t.Parallel()
	for _, deaf := range []bool{false, true} {
		var b *batchStage
		b = newBatchStage(t, func(n int, _ activities.SendInput) activities.SendResult {
			switch {
			case n == 1:
				unclaimed := tally(fanfare.Totals{Sent: 5, Pending: 5})
				unclaimed.AllClaimed = false
				return activities.SendResult{Tally: unclaimed}
			case n == 2 && len(b.reports) > 0:
				t.Error("reported before everyone was claimed")
			case n < 5:
				return activities.SendResult{Tally: tally(fanfare.Totals{Sent: 9, Pending: 1})}
			}
			return activities.SendResult{Tally: allSent}
		})
		b.deaf = deaf
		_, err := b.execute()
		require.NoError(t, err, "a publication that cannot be told looks at the ledger by itself")
		require.Equal(t, []report{{Ref: theBatch}, {Ref: theBatch, Done: true}}, b.reports)
	}
}

func TestBatchWaitsAsLongAsItsTallySays(t *testing.T) {
	t.Parallel()
	pending := fanfare.Totals{Sent: 9, Pending: 1}
	with := func(change func(*fanfare.BatchTally)) fanfare.BatchTally {
		t := tally(pending)
		change(&t)
		return t
	}
	for name, test := range map[string]struct {
		first activities.SendResult
		want  time.Duration
	}{
		"for the next that is due":    {activities.SendResult{Tally: with(func(t *fanfare.BatchTally) { t.NextDue = span(3 * time.Second) })}, 3 * time.Second},
		"for a call that may be lost": {activities.SendResult{Tally: with(func(t *fanfare.BatchTally) { t.NextLapse = span(17 * time.Second) })}, 17 * time.Second},
		"for the sooner of the two": {activities.SendResult{Tally: with(func(t *fanfare.BatchTally) {
			t.NextDue, t.NextLapse = span(9*time.Second), span(4*time.Second)
		})}, 4 * time.Second},
		"no longer than half a minute": {activities.SendResult{Tally: with(func(t *fanfare.BatchTally) { t.NextDue = span(time.Hour) })}, 30 * time.Second},
		"not at all when due":          {activities.SendResult{Tally: with(func(t *fanfare.BatchTally) { t.NextDue = span(0) })}, 100 * time.Millisecond},
		"not at all when the worker stopped": {
			activities.SendResult{Tally: with(func(t *fanfare.BatchTally) { t.AllClaimed = false }), Why: "the worker is stopping"},
			100 * time.Millisecond,
		},
		"for the provider, when it asks for time": {
			activities.SendResult{Tally: with(func(t *fanfare.BatchTally) { t.AllClaimed, t.NextDue = false, span(time.Second) }), Wait: 20 * time.Second},
			20 * time.Second,
		},
		"for the provider, but never longer than half a minute": {
			activities.SendResult{Tally: with(func(t *fanfare.BatchTally) { t.AllClaimed = false }), Wait: 10*time.Minute + 7*time.Second},
			30 * time.Second,
		},
		"for a lost call, also when the provider is away": {
			activities.SendResult{Tally: with(func(t *fanfare.BatchTally) { t.NextDue, t.NextLapse = span(time.Second), span(4*time.Second) }), Wait: 20 * time.Second},
			4 * time.Second,
		},
		"half a minute when paused": {activities.SendResult{Tally: with(func(t *fanfare.BatchTally) {
			t.Publication, t.AllClaimed, t.NextDue = fanfare.Paused, false, span(0)
		})}, 30 * time.Second},
		"for a lost call, also when paused": {activities.SendResult{Tally: with(func(t *fanfare.BatchTally) {
			t.Publication, t.NextLapse = fanfare.Paused, span(6*time.Second)
		})}, 6 * time.Second},
		"half a minute when expired and nobody said so": {activities.SendResult{Tally: with(func(t *fanfare.BatchTally) {
			t.Expired, t.AllClaimed, t.NextDue = true, false, span(0)
		})}, 30 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			age, runs := waits(t, test.first)
			require.InDelta(t, test.want.Seconds(), age.Seconds(), 0.05)
			require.Equal(t, 2, runs)
		})
	}
}

// Whether a provider may be called is the breaker's to say, also to a batch that
// was woken: the batch asks again when it was told to, or somebody may have changed it.
func TestBatchAsksAgainWhenTheProviderMayBeCalled(t *testing.T) {
	t.Parallel()
	waiting := tally(fanfare.Totals{Pending: 10})
	waiting.AllClaimed = false
	due := waiting
	due.AllClaimed, due.NextDue = true, span(time.Second)
	results := []activities.SendResult{
		{Tally: waiting, Wait: time.Second},
		{Tally: waiting, Wait: 90 * time.Second},
		{Tally: waiting, Wait: time.Minute},
		{Tally: waiting, Wait: 2 * time.Second},
		{Tally: due},
		{Tally: due, Wait: 5 * time.Second},
		{Tally: due, Wait: time.Second, Took: true},
		{Tally: allSent},
	}
	b := newBatchStage(t, func(n int, _ activities.SendInput) activities.SendResult { return results[n-1] })
	b.at(20*time.Second, func() { b.SignalWorkflow(workflows.SignalWake, nil) })
	_, err := b.execute()
	require.NoError(t, err)
	var ages []float64
	var failures []int
	for i, age := range b.ages {
		ages, failures = append(ages, age.Round(time.Second).Seconds()), append(failures, b.sends[i].Failures)
	}
	require.Equal(t, []float64{0, 1, 20, 50, 52, 53, 58, 59}, ages, "woken at 20; never longer than half a minute")
	require.Equal(t, []int{0, 1, 2, 3, 4, 0, 1, 0}, failures, "one that takes some and asks for time is there")
}

func TestBatchIsWoken(t *testing.T) {
	t.Parallel()
	b := newBatchStage(t, func(n int, _ activities.SendInput) activities.SendResult {
		if n == 1 {
			return activities.SendResult{Tally: tally(fanfare.Totals{Sent: 9, Pending: 1})}
		}
		return activities.SendResult{Tally: allSent}
	})
	b.at(5*time.Second, func() { b.SignalWorkflow(workflows.SignalWake, nil) })
	_, err := b.execute()
	require.NoError(t, err)
	require.InDelta(t, 5, b.ages[1].Seconds(), 0.1)
}

func TestBatchEndsOnlyWhenNobodyIsLeft(t *testing.T) {
	t.Parallel()
	left := []fanfare.BatchTally{
		tally(fanfare.Totals{Sent: 9, Pending: 1}), tally(fanfare.Totals{Sent: 9, Sending: 1}), tally(fanfare.Totals{Sent: 9, InDoubt: 1}),
		{Publication: fanfare.Running, Totals: fanfare.Totals{Intended: 10, Sent: 10}}, // not all claimed
	}
	b := newBatchStage(t, func(n int, _ activities.SendInput) activities.SendResult {
		if n <= len(left) {
			return activities.SendResult{Tally: left[n-1]}
		}
		return activities.SendResult{Tally: allSent}
	})
	_, err := b.execute()
	require.NoError(t, err)
	require.Len(t, b.sends, len(left)+1)
}

func TestBatchWithDeadLettersFails(t *testing.T) {
	t.Parallel()
	ended := tally(fanfare.Totals{Sent: 5, Failed: 1, Skipped: 1, Dead: 3})
	b := newBatchStage(t, func(int, activities.SendInput) activities.SendResult { return activities.SendResult{Tally: ended} })
	b.problems = fanfare.BatchProblems{
		Reasons:    map[string]int64{"dead doubt_held": 3, "skipped no_address": 1, "failed sendgrid:400": 1},
		Deliveries: []string{"dead " + string(publicationID) + ".email.61"},
	}
	_, err := b.execute()
	var failure *temporal.ApplicationError
	require.ErrorAs(t, err, &failure)
	require.Equal(t, workflows.ErrorTypeDeadLetters, failure.Type())
	require.True(t, failure.NonRetryable())
	require.Equal(t, "3 of 10 deliveries are dead (3 dead doubt_held, 1 failed sendgrid:400, 1 skipped no_address); "+
		"when the cause is gone, reset this workflow or run: fanfare replay --publication "+string(publicationID)+
		" --reason doubt_held (a reset leaves them: they may have been sent to)", failure.Message())
	var result workflows.BatchResult
	require.NoError(t, failure.Details(&result))
	require.Equal(t, workflows.BatchResult{Totals: ended.Totals, Problems: b.problems}, result)
	require.Contains(t, b.reports, report{Ref: theBatch, Done: true}, "its publication is told all the same")
}

// The test environment knows no original run: to a batch every run looks as if
// it had been reset. Those that were not are in the worker's tests, with a real server.
func TestABatchThatWasResetTakesItsDeadLettersBackOnce(t *testing.T) {
	t.Parallel()
	b := newBatchStage(t, func(n int, _ activities.SendInput) activities.SendResult {
		if n == 2 {
			return activities.SendResult{Tally: allSent}
		}
		return activities.SendResult{Tally: tally(fanfare.Totals{Sent: 7, Dead: 3})}
	})
	result, err := b.execute()
	require.NoError(t, err)
	require.Equal(t, []string{"default-test-run-id"}, b.reopened)
	require.EqualValues(t, 10, result.Totals.Sent)

	b = newBatchStage(t, func(int, activities.SendInput) activities.SendResult {
		return activities.SendResult{Tally: tally(fanfare.Totals{Sent: 7, Dead: 3})}
	})
	_, err = b.execute()
	require.ErrorContains(t, err, "3 of 10 deliveries are dead")
	require.Len(t, b.reopened, 1, "once for each run: whoever is dead again stays so")
	require.Len(t, b.sends, 2)
}

// Whoever took dead letters back wakes the batch. If it is just ending it must
// not end: nobody else would send to them.
func TestABatchThatIsWokenWhileItEndsGoesOn(t *testing.T) {
	t.Parallel()
	for _, totals := range []fanfare.Totals{{Sent: 7, Skipped: 3}, {Sent: 7, Dead: 3}} {
		var b *batchStage
		b = newBatchStage(t, func(n int, _ activities.SendInput) activities.SendResult {
			if n == 1 {
				b.SignalWorkflow(workflows.SignalWake, nil)
				return activities.SendResult{Tally: tally(totals)}
			}
			return activities.SendResult{Tally: allSent}
		})
		result, err := b.execute()
		require.NoError(t, err)
		require.EqualValues(t, 10, result.Totals.Sent)
		require.Greater(t, len(b.sends), 1)
	}
}

func TestABatchThatMayNotBeSentAgainSaysSo(t *testing.T) {
	t.Parallel()
	b := newBatchStage(t, func(int, activities.SendInput) activities.SendResult {
		return activities.SendResult{Tally: tally(fanfare.Totals{Sent: 7, Dead: 3})}
	})
	b.why = "the publication was cancelled"
	_, err := b.execute()
	require.ErrorContains(t, err, "they are not sent again: the publication was cancelled")
}

func TestBatchWithSkippedOrFailedSucceedsAndNamesThem(t *testing.T) {
	t.Parallel()
	b := newBatchStage(t, func(int, activities.SendInput) activities.SendResult {
		return activities.SendResult{Tally: tally(fanfare.Totals{Sent: 4, Delivered: 4, Failed: 1, Skipped: 1})}
	})
	b.problems = fanfare.BatchProblems{Reasons: map[string]int64{"skipped erased": 1}}
	result, err := b.execute()
	require.NoError(t, err)
	require.Equal(t, b.problems, result.Problems)
}

func TestBatchInDoubtHasItReconciled(t *testing.T) {
	t.Parallel()
	b := newBatchStage(t, func(n int, _ activities.SendInput) activities.SendResult {
		if n <= 5 { // half a minute each; the reconciler takes longer than three of them
			return activities.SendResult{Tally: tally(fanfare.Totals{Sent: 4, InDoubt: 6})}
		}
		return activities.SendResult{Tally: allSent}
	})
	_, err := b.execute()
	require.NoError(t, err)
	require.Equal(t, 2, b.reconciled, "one at a time, and another when the first has ended and doubt is left")
	require.Equal(t, 3, b.asked, "one that is at work is told that there is more to ask")
}

func TestBatchOfAPausedPublicationWaits(t *testing.T) {
	t.Parallel()
	state := fanfare.Paused
	b := newBatchStage(t, func(int, activities.SendInput) activities.SendResult {
		if state == fanfare.Running {
			return activities.SendResult{Tally: allSent}
		}
		waiting := tally(fanfare.Totals{Pending: 10})
		waiting.Publication, waiting.AllClaimed, waiting.NextDue = state, false, span(0)
		return activities.SendResult{Tally: waiting}
	})
	b.at(time.Hour+time.Second, func() {
		require.InDelta(t, 121, len(b.sends), 2, "it looks at the ledger every half minute")
		state = fanfare.Running
		b.SignalWorkflow(workflows.SignalWake, nil)
	})
	_, err := b.execute()
	require.NoError(t, err)
	require.InDelta(t, 3601, b.ages[len(b.ages)-1].Seconds(), 0.1)
}

func TestBatchOfACancelledPublicationEnds(t *testing.T) {
	t.Parallel()
	b := newBatchStage(t, func(n int, _ activities.SendInput) activities.SendResult {
		stopped := tally(fanfare.Totals{Sent: 4, Sending: 2, Skipped: 4})
		stopped.Publication, stopped.NextLapse = fanfare.Cancelled, span(5*time.Second)
		if n == 2 {
			stopped.Totals.Sending, stopped.Totals.Sent = 0, 6
		}
		return activities.SendResult{Tally: stopped}
	})
	b.problems = fanfare.BatchProblems{Reasons: map[string]int64{"skipped cancelled": 4}}
	result, err := b.execute()
	require.NoError(t, err)
	require.Equal(t, fanfare.Totals{Intended: 10, Sent: 6, Skipped: 4}, result.Totals)
	require.Len(t, b.sends, 2)
}

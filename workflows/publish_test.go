package workflows_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/activities"
	"github.com/fanfare-dev/fanfare/workflows"
)

func TestPublishKeepsItsWindowsFull(t *testing.T) {
	t.Parallel()
	s := newStage(t, 50, fanfare.Email, fanfare.SMS)
	s.batch = func(ctx workflow.Context, in workflows.BatchInput) error {
		// First passes of different length, and slow retries behind them.
		require.NoError(t, workflow.Sleep(ctx, time.Duration(1+in.Batch.N%7)*time.Second))
		s.pass(ctx, in.Batch.BatchRef)
		require.NoError(t, workflow.Sleep(ctx, time.Hour))
		s.end(ctx, in.Batch.BatchRef)
		return nil
	}
	tally := s.publish()

	require.Equal(t, workflows.Tally{State: fanfare.Completed, Totals: fanfare.Totals{Intended: 1000, Sent: 1000}}, tally)
	require.Equal(t, map[fanfare.Channel]int{fanfare.Email: window, fanfare.SMS: window}, s.most, "the window is filled and never more")
	require.Len(t, s.started, 100)
	for ref, times := range s.started {
		require.Equal(t, 1, times, "batch %v", ref)
	}
	after := map[fanfare.Channel]int{}
	for _, next := range s.nexts {
		require.Equal(t, after[next.Channel], next.After, "a page begins behind the one before")
		require.GreaterOrEqual(t, next.Limit, window/2, "a page is not asked for one batch")
		require.LessOrEqual(t, next.Limit, window)
		after[next.Channel] += next.Limit
	}
	require.Less(t, s.Now().Sub(s.begun), time.Hour+time.Minute, "nothing waits for slow retries")
}

func TestChannelsDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	s := newStage(t, 40, fanfare.Email, fanfare.SMS)
	var smsOver time.Duration
	s.batch = func(ctx workflow.Context, in workflows.BatchInput) error {
		span := time.Second
		if in.Batch.Channel == fanfare.Email {
			span = time.Hour
		}
		require.NoError(t, workflow.Sleep(ctx, span))
		s.end(ctx, in.Batch.BatchRef)
		if in.Batch.Channel == fanfare.SMS {
			smsOver = max(smsOver, workflow.Now(ctx).Sub(s.begun))
		}
		return nil
	}
	s.publish()
	require.Less(t, smsOver, 10*time.Second, "40 batches of SMS, 16 at a time, a second each")
}

func TestReportOfFirstPassFreesASlot(t *testing.T) {
	t.Parallel()
	s := newStage(t, 40, fanfare.Email)
	s.batch = func(ctx workflow.Context, in workflows.BatchInput) error {
		require.NoError(t, workflow.Sleep(ctx, time.Second))
		s.pass(ctx, in.Batch.BatchRef)
		require.NoError(t, workflow.Sleep(ctx, 10*time.Minute))
		s.end(ctx, in.Batch.BatchRef)
		return nil
	}
	s.at(10*time.Second, func() {
		lane := s.progress().Lanes[fanfare.Email]
		require.True(t, lane.AllOut)
		require.Equal(t, 40, lane.After)
		require.Empty(t, lane.Window)
		require.Len(t, lane.Waiting, 40)
		require.Zero(t, lane.Done)
	})
	s.at(10*time.Minute+5*time.Second, func() {
		require.Equal(t, &workflows.LaneState{After: 40, AllOut: true, Window: []int{}, Waiting: []int{}, Done: 40}, s.progress().Lanes[fanfare.Email])
		s.unready = false
	})
	s.unready = true
	s.publish()
}

func TestABatchThatIsOpenAlreadyCountsAsStarted(t *testing.T) {
	t.Parallel()
	s := newStage(t, 3, fanfare.Email)
	ref := batchRef(fanfare.Email, 2)
	s.edit = func(_ activities.LookInput, look *activities.Look) {
		if len(s.looks) == 1 {
			look.Orphans = []fanfare.Batch{batchOf(ref)} // starts it before its page is read
		}
	}
	s.at(500*time.Millisecond, func() {
		require.Equal(t, []int{1, 2, 3}, s.progress().Lanes[fanfare.Email].Window)
	})
	s.publish()
	require.Equal(t, 1, s.started[ref])
	require.Len(t, s.started, 3)
}

// What a look finds out in place of lost reports.
func TestLostReportsAreHealed(t *testing.T) {
	t.Parallel()
	s := newStage(t, 30, fanfare.Email)
	s.batch = func(ctx workflow.Context, in workflows.BatchInput) error {
		require.NoError(t, workflow.Sleep(ctx, time.Second))
		s.endFirstPass(in.Batch.BatchRef)
		require.NoError(t, workflow.Sleep(ctx, 2*time.Minute))
		s.endSilently(in.Batch.BatchRef)
		return nil
	}
	s.edit = func(in activities.LookInput, look *activities.Look) {
		for _, ref := range in.Window {
			if s.passed[ref] {
				look.Passed = append(look.Passed, ref)
			}
		}
		for _, ref := range append(in.Window, in.Waiting...) {
			if s.done[ref] {
				look.Done = append(look.Done, ref)
			}
		}
	}
	s.unready = true
	s.at(70*time.Second, func() {
		require.Len(t, s.progress().Lanes[fanfare.Email].Waiting, 30, "two windows, half a minute each")
	})
	s.at(220*time.Second, func() {
		require.Equal(t, 30, s.progress().Lanes[fanfare.Email].Done)
		s.unready = false
	})
	require.Equal(t, fanfare.Completed, s.publish().State)
	require.Equal(t, window, s.most[fanfare.Email])
	require.Less(t, s.Now().Sub(s.begun), 5*time.Minute)
}

func TestABatchWithoutAWorkflowIsStartedAgain(t *testing.T) {
	t.Parallel()
	s := newStage(t, 3, fanfare.Email)
	ref := batchRef(fanfare.Email, 2)
	s.batch = func(ctx workflow.Context, in workflows.BatchInput) error {
		if in.Batch.BatchRef == ref && s.get(func() int { return s.started[ref] }) == 1 {
			return temporal.NewApplicationError("terminated", "Test")
		}
		s.end(ctx, in.Batch.BatchRef)
		return nil
	}
	s.edit = func(in activities.LookInput, look *activities.Look) {
		if len(in.Window) > 0 && !s.done[ref] && s.started[ref] == 1 {
			require.Equal(t, []fanfare.BatchRef{ref}, in.Window)
			look.Orphans = []fanfare.Batch{batchOf(ref)}
		}
	}
	require.Equal(t, fanfare.Completed, s.publish().State)
	require.Equal(t, 2, s.started[ref])
	require.Equal(t, 1, s.started[batchRef(fanfare.Email, 1)])
}

func TestEveryWaitingBatchIsLookedAtInTurn(t *testing.T) {
	t.Parallel()
	s := newStage(t, 120, fanfare.Email)
	s.batch = func(ctx workflow.Context, in workflows.BatchInput) error {
		s.pass(ctx, in.Batch.BatchRef)
		require.NoError(t, workflow.Sleep(ctx, 3*time.Minute))
		s.end(ctx, in.Batch.BatchRef)
		return nil
	}
	s.publish()
	seen := map[fanfare.BatchRef]bool{}
	for _, look := range s.looks {
		require.LessOrEqual(t, len(look.Waiting), 50, "a look describes a workflow for each")
		for _, ref := range look.Waiting {
			seen[ref] = true
		}
	}
	require.Len(t, seen, 120)
}

func TestReportsTwiceAndTooLateChangeNothing(t *testing.T) {
	t.Parallel()
	s := newStage(t, 4, fanfare.Email)
	s.batch = func(ctx workflow.Context, in workflows.BatchInput) error {
		for range 3 {
			s.pass(ctx, in.Batch.BatchRef)
		}
		if in.Batch.N < 4 {
			for range 3 {
				s.end(ctx, in.Batch.BatchRef)
			}
			s.pass(ctx, in.Batch.BatchRef) // overtaken by its own end
		}
		s.report(ctx, report{Ref: batchRef(fanfare.Push, 1), Done: true}) // a channel nobody asked for
		s.report(ctx, report{Ref: batchRef(fanfare.Email, 99), Done: true})
		require.NoError(t, workflow.Sleep(ctx, 5*time.Second))
		s.end(ctx, in.Batch.BatchRef)
		return nil
	}
	s.at(2*time.Second, func() {
		require.Equal(t, &workflows.LaneState{After: 4, AllOut: true, Window: []int{}, Waiting: []int{4}, Done: 3}, s.progress().Lanes[fanfare.Email])
	})
	require.Equal(t, fanfare.Completed, s.publish().State)
}

func TestScheduledWaitsForItsTime(t *testing.T) {
	t.Parallel()
	s := newStage(t, 1, fanfare.Email)
	s.state = fanfare.Scheduled
	due := s.Now().Add(10*time.Minute + 7*time.Second)
	var began time.Time
	s.edit = func(_ activities.LookInput, look *activities.Look) {
		if s.state == fanfare.Scheduled && !s.Now().Before(due) {
			s.state, look.State = fanfare.Running, fanfare.Running
		}
		look.Begins = due.Sub(s.Now())
	}
	s.batch = func(ctx workflow.Context, in workflows.BatchInput) error {
		began = workflow.Now(ctx)
		s.end(ctx, in.Batch.BatchRef)
		return nil
	}
	s.at(5*time.Minute, func() { require.Equal(t, fanfare.Scheduled, s.progress().State) })
	require.Equal(t, fanfare.Completed, s.publish().State)
	require.WithinDuration(t, due, began, time.Second)
	require.LessOrEqual(t, len(s.looks), 25, "a look every half minute")
}

func TestScheduledIsWoken(t *testing.T) {
	t.Parallel()
	s := newStage(t, 1, fanfare.Email)
	s.state, s.begins = fanfare.Scheduled, time.Hour
	s.at(67*time.Second, func() {
		require.Len(t, s.looks, 3, "every half minute, whatever it is told")
		s.turn(fanfare.Running)
	})
	require.Equal(t, fanfare.Completed, s.publish().State)
	require.Less(t, s.Now().Sub(s.begun), 70*time.Second)
}

// The worker's clock is ahead of the database's, which has the last word.
func TestScheduledByTwoClocks(t *testing.T) {
	t.Parallel()
	s := newStage(t, 1, fanfare.Email)
	s.state, s.begins = fanfare.Scheduled, -2*time.Second
	s.at(2*time.Second, func() { s.set(func() { s.state = fanfare.Running }) })
	require.Equal(t, fanfare.Completed, s.publish().State)
	require.InDelta(t, 22, len(s.looks), 2, "ten times a second at most")
	require.Less(t, s.Now().Sub(s.begun), 4*time.Second)
}

func TestPausedStartsNothingAndResumedGoesOn(t *testing.T) {
	t.Parallel()
	s := newStage(t, 40, fanfare.Email)
	s.batch = func(ctx workflow.Context, in workflows.BatchInput) error {
		require.NoError(t, workflow.Sleep(ctx, time.Second))
		if s.get(func() int { return len(s.started) }) <= window {
			s.waitForWake(ctx, in.Batch.BatchRef) // paused in its first pass
		}
		s.end(ctx, in.Batch.BatchRef)
		return nil
	}
	var before, looked int
	s.at(500*time.Millisecond, func() { s.turn(fanfare.Paused) })
	s.at(10*time.Second, func() {
		require.Equal(t, fanfare.Paused, s.progress().State)
		before, looked = len(s.nexts), len(s.looks)
	})
	s.at(30*time.Minute, func() {
		require.Len(t, s.started, window)
		require.Len(t, s.nexts, before)
		require.Empty(t, s.woken, "a batch is woken when there is news, not at every look")
		require.InDelta(t, 60, len(s.looks)-looked, 2, "a look every half minute")
		s.turn(fanfare.Running)
	})
	require.Equal(t, fanfare.Completed, s.publish().State)
	require.Len(t, s.started, 40)
	for n := 1; n <= window; n++ {
		require.Equal(t, 1, s.woken[batchRef(fanfare.Email, n)])
	}
	require.Less(t, s.Now().Sub(s.begun), 31*time.Minute)
}

func TestCancelledClosesAndWaitsForTheEnd(t *testing.T) {
	t.Parallel()
	for _, state := range []fanfare.PublicationState{fanfare.Cancelled, fanfare.Expired} {
		t.Run(string(state), func(t *testing.T) {
			t.Parallel()
			s := newStage(t, 100, fanfare.Email)
			s.batch = func(ctx workflow.Context, in workflows.BatchInput) error {
				s.waitForWake(ctx, in.Batch.BatchRef)
				require.NoError(t, workflow.Sleep(ctx, 20*time.Second)) // a call under way
				s.end(ctx, in.Batch.BatchRef)
				return nil
			}
			s.at(5*time.Second, func() { s.turn(state) })
			s.at(24*time.Second, func() {
				require.False(t, s.IsWorkflowCompleted(), "calls are under way")
				require.Equal(t, state, s.progress().State)
			})
			require.Equal(t, state, s.publish().State)
			require.Equal(t, 1, s.closes)
			require.Len(t, s.started, window, "nothing is started once it is stopped")
			require.Less(t, s.Now().Sub(s.begun), 26*time.Second, "it ends when its last batch does")
		})
	}
}

// Batches that wait for their next try have nothing to wait for any more.
func TestCancelledEndsWithoutItsWaitingBatches(t *testing.T) {
	t.Parallel()
	s := newStage(t, 20, fanfare.Email)
	s.SetDetachedChildWait(false)
	s.batch = func(ctx workflow.Context, in workflows.BatchInput) error {
		s.pass(ctx, in.Batch.BatchRef)
		return workflow.Sleep(ctx, time.Hour)
	}
	s.edit = func(in activities.LookInput, look *activities.Look) {
		for _, ref := range in.Waiting {
			if s.closes > 0 {
				s.done[ref], look.Done = true, append(look.Done, ref)
			}
		}
		look.Finished = s.finished()
	}
	s.at(5*time.Second, func() { s.turn(fanfare.Cancelled) })
	require.Equal(t, fanfare.Cancelled, s.publish().State)
	require.Less(t, s.Now().Sub(s.begun), 6*time.Second)
}

func TestCancelledBeforeItBegan(t *testing.T) {
	t.Parallel()
	s := newStage(t, 100, fanfare.Email, fanfare.SMS)
	s.state, s.begins = fanfare.Scheduled, time.Hour
	s.at(5*time.Second, func() { s.turn(fanfare.Cancelled) })
	require.Equal(t, fanfare.Cancelled, s.publish().State)
	require.Empty(t, s.started)
	require.Less(t, s.Now().Sub(s.begun), 6*time.Second)
}

// A run that knows nothing of the batches before it must still see to their
// calls under way and in doubt.
func TestCancelledAfterItsHistoryWasLost(t *testing.T) {
	t.Parallel()
	s := newStage(t, 100, fanfare.Email)
	s.state = fanfare.Cancelled
	s.inDoubt = map[fanfare.BatchRef]bool{batchRef(fanfare.Email, 3): true, batchRef(fanfare.Email, 77): true}
	require.Equal(t, fanfare.Cancelled, s.publish().State)
	require.Equal(t, map[fanfare.BatchRef]int{batchRef(fanfare.Email, 3): 1, batchRef(fanfare.Email, 77): 1}, s.started)
}

func TestFinishedOnlyWhenTheLedgerSaysSo(t *testing.T) {
	t.Parallel()
	s := newStage(t, 2, fanfare.Email)
	s.unready = true
	s.at(10*time.Minute, func() {
		require.Equal(t, 2, s.progress().Lanes[fanfare.Email].Done)
		require.False(t, s.IsWorkflowCompleted())
		require.LessOrEqual(t, len(s.looks), 23, "it looks at the ledger every half minute, not all the time")
		s.unready = false
	})
	require.Equal(t, fanfare.Completed, s.publish().State)
	require.Less(t, s.Now().Sub(s.begun), 11*time.Minute)
}

func TestAFailedBatchDoesNotFailItsPublication(t *testing.T) {
	t.Parallel()
	s := newStage(t, 3, fanfare.Email)
	s.batch = func(ctx workflow.Context, in workflows.BatchInput) error {
		s.end(ctx, in.Batch.BatchRef)
		return temporal.NewNonRetryableApplicationError("10 of 10 deliveries are dead", workflows.ErrorTypeDeadLetters, nil)
	}
	s.edit = func(_ activities.LookInput, look *activities.Look) {
		if look.Finished {
			look.State = fanfare.CompletedWithFailures
		}
	}
	require.Equal(t, fanfare.CompletedWithFailures, s.publish().State)
}

func TestPublicationThatIsGoneFails(t *testing.T) {
	t.Parallel()
	s := newStage(t, 1, fanfare.Email)
	var a *activities.Publishing
	s.OnActivity(a.Open, mock.Anything, mock.Anything).Return(activities.Opening{}, workflows.ActivityError(fmt.Errorf("read: %w", fanfare.ErrNotFound))).Once()
	s.ExecuteWorkflow(workflows.Publish, workflows.PublishInput{Publication: publicationID})
	var failure *temporal.ApplicationError
	require.ErrorAs(t, s.GetWorkflowError(), &failure)
	require.Equal(t, workflows.ErrorTypeNotFound, failure.Type())
}

func TestEmptyAudience(t *testing.T) {
	t.Parallel()
	s := newStage(t, 0, fanfare.Email, fanfare.SMS)
	s.unready = true // as the ledger is before anything is planned
	s.edit = func(_ activities.LookInput, look *activities.Look) {
		look.Finished = len(s.nexts) == 2
		if look.Finished {
			look.State = fanfare.Completed
		}
	}
	require.Equal(t, workflows.Tally{State: fanfare.Completed}, s.publish())
	require.Empty(t, s.started)
	require.Less(t, s.Now().Sub(s.begun), time.Second)
}

func TestNoHotLoopWhileNothingHappens(t *testing.T) {
	t.Parallel()
	s := newStage(t, 1, fanfare.Email)
	s.batch = func(ctx workflow.Context, in workflows.BatchInput) error {
		require.NoError(t, workflow.Sleep(ctx, time.Hour))
		s.end(ctx, in.Batch.BatchRef)
		return nil
	}
	s.publish()
	require.InDelta(t, 121, len(s.looks), 3, "an hour of half minutes, the first and the last")
	require.Len(t, s.nexts, 1)
}

func TestProgressAnswersFromTheFirstMoment(t *testing.T) {
	t.Parallel()
	s := newStage(t, 1, fanfare.Email)
	var a *activities.Publishing
	s.OnActivity(a.Open, mock.Anything, mock.Anything).Return(s.opening, nil).After(time.Minute).Once()
	s.at(time.Second, func() { require.Equal(t, fanfare.Accepted, s.progress().State) })
	s.publish()
	require.Equal(t, fanfare.Completed, s.progress().State)
	require.Equal(t, s.opening, s.progress().Opening)
	require.Equal(t, fanfare.Totals{Intended: 10, Sent: 10}, s.progress().Totals)
}

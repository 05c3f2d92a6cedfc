package workflows

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/activities"
)

// ReplayInput is the input of Replay. What stands behind Replay is carried from run to run.
type ReplayInput struct {
	Replay fanfare.ReplayID          `json:"replay"`
	After  fanfare.BatchRef          `json:"after,omitzero"` // the last batch that was taken
	AllOut bool                      `json:"all_out,omitempty"`
	Last   activities.ReplayProgress `json:"last,omitzero"` // as of the last look
}

const (
	// replayPage is how many batches of a replay are taken up together: few, so
	// that a cancel has something left to spare.
	replayPage = 8
	// replayPause is how long a page may take before the next is taken up all the
	// same: who waits on the slow ladder must not hold the others up.
	replayPause = 30 * time.Second
	// replayLook is how often a replay reads how far it is.
	replayLook = 2 * time.Second
)

// Replay sends dead letters again: it takes them back batch by batch, sees to it
// that each batch has a workflow, and ends when everyone taken back has come to an end.
func Replay(ctx workflow.Context, in ReplayInput) (activities.ReplayProgress, error) {
	r := &replaying{ReplayInput: in}
	if err := workflow.SetQueryHandler(ctx, QueryProgress, func() (activities.ReplayProgress, error) { return r.Last, nil }); err != nil {
		return r.Last, err
	}
	for {
		if err := r.look(ctx); err != nil || r.Last.State != fanfare.ReplayRunning {
			return r.Last, err
		}
		if r.AllOut && r.Last.Waiting > 0 { // for a publication that was just being closed
			r.After, r.AllOut = fanfare.BatchRef{}, false
		}
		if !r.AllOut {
			if err := r.takePage(ctx); err != nil {
				return r.Last, err
			}
		}
		if err := r.waitForPage(ctx); err != nil || r.Last.State != fanfare.ReplayRunning {
			return r.Last, err
		}
		if info := workflow.GetInfo(ctx); info.GetContinueAsNewSuggested() || info.GetCurrentHistoryLength() >= eventsPerRun {
			return r.Last, workflow.NewContinueAsNewError(ctx, Replay, r.ReplayInput)
		}
	}
}

type replaying struct {
	ReplayInput
}

func (r *replaying) look(ctx workflow.Context) error {
	var a *activities.Replaying
	options := workflow.WithActivityOptions(ctx, ledgerOptions("see how far the replay is"))
	if err := workflow.ExecuteActivity(options, a.Progress, r.Replay).Get(ctx, &r.Last); err != nil {
		return err
	}
	t := r.Last.Totals
	workflow.SetCurrentDetails(ctx, fmt.Sprintf("**%s** — %d dead letters: %d wait for their turn, %d under way, %d sent, %d failed, %d skipped, %d dead again, %d not dead any more.",
		r.Last.State, r.Last.Count, r.Last.Waiting, t.Unfinished(), t.Sent+t.Delivered, t.Failed, t.Skipped, t.Dead, r.Last.Passed))
	return nil
}

// takePage takes back what waits in the next batches, and sees to it that each
// has an open workflow: one that runs is woken, one that ended is started again.
func (r *replaying) takePage(ctx workflow.Context) error {
	var a *activities.Replaying
	var page []fanfare.ReplayBatch
	options := workflow.WithActivityOptions(ctx, ledgerOptions("take back dead letters"))
	in := activities.TakeInput{Replay: r.Replay, After: r.After, Limit: replayPage}
	if err := workflow.ExecuteActivity(options, a.Take, in).Get(ctx, &page); err != nil {
		return err
	}
	r.AllOut = len(page) < replayPage
	for _, b := range page {
		r.After = b.Batch.BatchRef
		if err := r.own(ctx, b); err != nil {
			return err
		}
	}
	return nil
}

// own sees to it that a batch has an open workflow that knows of what was taken
// back. One that is open takes the wake before it ends; one that cannot take it any more has
// ended, and can be started again.
func (r *replaying) own(ctx workflow.Context, b fanfare.ReplayBatch) error {
	for {
		err := startBatch(ctx, b.Batch, b.Class, b.Topic).Get(ctx, nil)
		if !temporal.IsWorkflowExecutionAlreadyStartedError(err) {
			return err
		}
		if workflow.SignalExternalWorkflow(ctx, b.Batch.WorkflowID(), "", SignalWake, nil).Get(ctx, nil) == nil {
			return nil
		}
		if err := workflow.Sleep(ctx, time.Second); err != nil {
			return err
		}
	}
}

// waitForPage looks until those taken back have come to an end, or long enough.
func (r *replaying) waitForPage(ctx workflow.Context) error {
	for waited := time.Duration(0); waited < replayPause; waited += replayLook {
		if err := workflow.NewTimerWithOptions(ctx, replayLook, workflow.TimerOptions{Summary: "until the next look at the ledger"}).Get(ctx, nil); err != nil {
			return err
		}
		if err := r.look(ctx); err != nil {
			return err
		}
		if r.Last.State != fanfare.ReplayRunning || r.Last.Totals.Unfinished() == 0 {
			return nil
		}
		if info := workflow.GetInfo(ctx); info.GetCurrentHistoryLength() >= eventsPerRun {
			return nil
		}
	}
	return nil
}

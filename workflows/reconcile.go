package workflows

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/workflow"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/activities"
)

func reconcileID(in activities.ReconcileInput) string {
	return "reconcile/" + string(in.Publication) + "/" + string(in.Channel)
}

// Reconcile asks the provider about a channel's calls in doubt until none is
// left, and wakes the batches it settled something for. A wake tells it that there is
// more to ask.
func Reconcile(ctx workflow.Context, in activities.ReconcileInput) error {
	more := workflow.GetSignalChannel(ctx, SignalWake)
	for {
		for more.ReceiveAsync(nil) { // answered by the run that follows
		}
		result, err := reconcileOnce(ctx, in)
		if err != nil {
			return err
		}
		wakeSettled(ctx, result.Settled)
		if result.Next == nil {
			if more.Len() > 0 {
				continue // somebody came meanwhile, and relies on this run
			}
			return nil
		}
		waitForNextLook(ctx, more, in, max(*result.Next, 100*time.Millisecond))
		if info := workflow.GetInfo(ctx); info.GetContinueAsNewSuggested() || info.GetCurrentHistoryLength() >= eventsPerRun {
			return workflow.NewContinueAsNewError(ctx, Reconcile, in)
		}
	}
}

// wakeSettled wakes each batch once. One that cannot be woken looks at the
// ledger by itself.
func wakeSettled(ctx workflow.Context, settled []fanfare.BatchRef) {
	woken := map[fanfare.BatchRef]bool{}
	for _, ref := range settled {
		if !woken[ref] {
			woken[ref] = true
			_ = workflow.SignalExternalWorkflow(ctx, ref.WorkflowID(), "", SignalWake, nil).Get(ctx, nil)
		}
	}
}

func waitForNextLook(ctx workflow.Context, more workflow.ReceiveChannel, in activities.ReconcileInput, span time.Duration) {
	workflow.SetCurrentDetails(ctx, fmt.Sprintf("Asks again in %s what became of %s calls in doubt.", span.Round(time.Second), in.Channel))
	timer := workflow.NewTimerWithOptions(ctx, span, workflow.TimerOptions{Summary: "until the next look-up"})
	selector := workflow.NewSelector(ctx)
	selector.AddFuture(timer, func(workflow.Future) {})
	selector.AddReceive(more, func(c workflow.ReceiveChannel, _ bool) { c.Receive(ctx, nil) })
	selector.Select(ctx)
}

func reconcileOnce(ctx workflow.Context, in activities.ReconcileInput) (activities.ReconcileResult, error) {
	var a *activities.Reconciling
	var result activities.ReconcileResult
	options := longOptions(Queue, "look up calls in doubt")
	err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, options), a.Reconcile, in).Get(ctx, &result)
	return result, err
}

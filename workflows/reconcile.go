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
// left, and wakes the batches it settled something for.
func Reconcile(ctx workflow.Context, in activities.ReconcileInput) error {
	for {
		result, err := reconcileOnce(ctx, in)
		if err != nil {
			return err
		}
		woken := map[fanfare.BatchRef]bool{}
		for _, ref := range result.Settled {
			if !woken[ref] {
				woken[ref] = true
				// A batch that cannot be woken looks at the ledger by itself.
				_ = workflow.SignalExternalWorkflow(ctx, ref.WorkflowID(), "", SignalWake, nil).Get(ctx, nil)
			}
		}
		if result.Next == nil {
			return nil
		}
		span := max(*result.Next, 100*time.Millisecond)
		workflow.SetCurrentDetails(ctx, fmt.Sprintf("Asks again in %s what became of %s calls in doubt.", span.Round(time.Second), in.Channel))
		if err := workflow.NewTimerWithOptions(ctx, span, workflow.TimerOptions{Summary: "until the next look-up"}).Get(ctx, nil); err != nil {
			return err
		}
		if info := workflow.GetInfo(ctx); info.GetContinueAsNewSuggested() || info.GetCurrentHistoryLength() >= eventsPerRun {
			return workflow.NewContinueAsNewError(ctx, Reconcile, in)
		}
	}
}

func reconcileOnce(ctx workflow.Context, in activities.ReconcileInput) (activities.ReconcileResult, error) {
	var a *activities.Reconciling
	var result activities.ReconcileResult
	options := longOptions(Queue, "look up calls in doubt")
	err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, options), a.Reconcile, in).Get(ctx, &result)
	return result, err
}

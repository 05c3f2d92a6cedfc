package workflows

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/workflow"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/activities"
)

// BatchInput is the input of Batch. Reported is carried from run to run.
type BatchInput struct {
	Batch    fanfare.Batch `json:"batch"`
	Class    fanfare.Class `json:"class"`
	State    string        `json:"state"`              // as its search attribute says
	Reported bool          `json:"reported,omitempty"` // the first pass was reported
	Failures int           `json:"failures,omitempty"` // runs in a row that found the provider away
}

// BatchResult is what a batch came to. Whoever in its range is not named or
// counted as a problem was sent to.
type BatchResult struct {
	Totals   fanfare.Totals        `json:"totals"`
	Problems fanfare.BatchProblems `json:"problems"`
}

// Batch sends to one slice of the audience on one channel, and ends when nobody
// in it is pending, sending or in doubt.
func Batch(ctx workflow.Context, in BatchInput) (BatchResult, error) {
	b := &batch{BatchInput: in, wake: workflow.GetSignalChannel(ctx, SignalWake), run: workflow.GetInfo(ctx).OriginalRunID}
	if err := b.show(ctx, batchSending, "begins"); err != nil {
		return BatchResult{}, err
	}
	for {
		result, err := b.send(ctx)
		if err != nil {
			return BatchResult{}, err
		}
		if result.Tally.Done() {
			ended, again, err := b.end(ctx, result.Tally)
			if err != nil || !again {
				return ended, err
			}
			continue
		}
		if result.Tally.AllClaimed {
			b.report(ctx, false)
		}
		if result.Tally.Totals.InDoubt > 0 {
			b.reconcile(ctx)
		}
		if err := b.wait(ctx, result); err != nil {
			return BatchResult{}, err
		}
		if info := workflow.GetInfo(ctx); info.GetContinueAsNewSuggested() || info.GetCurrentHistoryLength() >= eventsPerRun {
			return BatchResult{}, workflow.NewContinueAsNewError(ctx, Batch, b.BatchInput)
		}
	}
}

type batch struct {
	BatchInput
	wake workflow.ReceiveChannel
	// run is the run that opened the batch last, as this history tells. In a run that
	// was reset it is another one.
	run string
	why string // a reopening was refused
}

func (b *batch) send(ctx workflow.Context) (activities.SendResult, error) {
	var a *activities.Sending
	var result activities.SendResult
	summary := fmt.Sprintf("send batch %d, recipients %d to %d", b.Batch.N, b.Batch.First, b.Batch.Last)
	options := longOptions(SendQueue(b.Batch.Channel, b.Class), summary)
	in := activities.SendInput{Ref: b.Batch.BatchRef, Failures: b.Failures}
	err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, options), a.Send, in).Get(ctx, &result)
	switch {
	case err != nil:
	case result.Wait > 0 && !result.Took:
		b.Failures++
	default:
		b.Failures = 0
	}
	return result, err
}

// report tells the publication that the first pass is over, or that all is. If
// the publication cannot be told, it will find out from the ledger.
func (b *batch) report(ctx workflow.Context, done bool) {
	if b.Reported && !done {
		return
	}
	b.Reported = true
	r := batchReport{Ref: b.Batch.BatchRef, Done: done}
	_ = workflow.SignalExternalWorkflow(ctx, b.Batch.Publication.WorkflowID(), "", signalBatch, r).Get(ctx, nil)
}

// reconcile sees to it that somebody asks the provider. One workflow does so
// for all batches of a publication's channel: one that is at work is told that there is
// more to ask, else one is started. It wakes this batch when it settled something.
func (b *batch) reconcile(ctx workflow.Context) {
	in := activities.ReconcileInput{Publication: b.Batch.Publication, Channel: b.Batch.Channel}
	if workflow.SignalExternalWorkflow(ctx, reconcileID(in), "", SignalWake, nil).Get(ctx, nil) == nil {
		return
	}
	options := childOptions(reconcileID(in), fmt.Sprintf("ask what became of %s calls in doubt", b.Batch.Channel),
		attrPublication.ValueSet(string(b.Batch.Publication)), attrChannel.ValueSet(string(b.Batch.Channel)))
	child := workflow.ExecuteChildWorkflow(workflow.WithChildOptions(ctx, options), Reconcile, in)
	// An error means that another batch was quicker; the next look tells.
	_ = child.GetChildWorkflowExecution().Get(ctx, nil)
}

// wait sleeps until somebody may be claimed, a lost call may be taken over, or
// somebody wakes the batch.
func (b *batch) wait(ctx workflow.Context, r activities.SendResult) error {
	span, why := glance, "until the next look at the ledger"
	sooner := func(d time.Duration, reason string) {
		if d < span {
			span, why = d, reason
		}
	}
	// Once its time is over nobody is claimed, and the publication finds that out.
	if t := r.Tally; t.Publication == fanfare.Running && !t.Expired {
		switch {
		case !t.AllClaimed: // the provider, or a worker that stops, left somebody over
			sooner(max(r.Wait, 0), r.Why)
		case t.NextDue != nil:
			sooner(max(*t.NextDue, r.Wait), "until the next recipients may be tried again")
		}
	}
	if lapse := r.Tally.NextLapse; lapse != nil {
		sooner(*lapse, "until a call of a lost worker may be taken over")
	}
	if err := b.show(ctx, batchWaiting, fmt.Sprintf("waits %s (%s); %d pending, %d sending, %d in doubt", span.Round(time.Second), why,
		r.Tally.Totals.Pending, r.Tally.Totals.Sending, r.Tally.Totals.InDoubt)); err != nil {
		return err
	}
	// A pause keeps two quick runs from chasing each other.
	timer := workflow.NewTimerWithOptions(ctx, max(span, 100*time.Millisecond), workflow.TimerOptions{Summary: why})
	selector := workflow.NewSelector(ctx)
	selector.AddFuture(timer, func(workflow.Future) {})
	selector.AddReceive(b.wake, func(c workflow.ReceiveChannel, _ bool) { c.Receive(ctx, nil) })
	selector.Select(ctx)
	return nil
}

// end reports, and fails when somebody is dead, so that operators see it. again
// is true when the batch was reset or woken, and goes on.
func (b *batch) end(ctx workflow.Context, tally fanfare.BatchTally) (result BatchResult, again bool, err error) {
	result.Totals = tally.Totals
	if tally.Totals.Sent+tally.Totals.Delivered < tally.Totals.Intended {
		var a *activities.Sending
		options := ledgerOptions("name who was not sent to")
		options.TaskQueue = SendQueue(b.Batch.Channel, b.Class)
		if err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, options), a.Problems, b.Batch.BatchRef).Get(ctx, &result.Problems); err != nil {
			return result, false, err
		}
	}
	state := batchDone
	if tally.Totals.Dead > 0 {
		state = batchFailed
	}
	if err := b.show(ctx, state, "has ended"); err != nil {
		return result, false, err
	}
	b.report(ctx, true)
	if tally.Totals.Dead > 0 {
		if again, err := b.reopen(ctx); err != nil || again {
			return result, again, err
		}
	}
	// Somebody may rely on this run: to send what was taken back since the tally,
	// say. Temporal lets no run end that has a signal it has not seen.
	if b.wake.ReceiveAsync(nil) {
		return result, true, nil
	}
	if tally.Totals.Dead > 0 {
		return result, false, deadLetters(b.Batch.Publication, result, b.why)
	}
	return result, false, nil
}

// reopen takes the dead deliveries back when somebody reset this workflow: that
// is what a reset of a failed batch asks for. It stands behind everything that the end of
// a batch does, so that a reset works from every point of a history.
func (b *batch) reopen(ctx workflow.Context) (again bool, err error) {
	this := workflow.GetInfo(ctx).WorkflowExecution.RunID
	if b.run == this {
		return false, nil
	}
	var a *activities.Replaying
	var result activities.ReopenResult
	options := ledgerOptions("take back dead letters, after a reset")
	if err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, options), a.Reopen, activities.ReopenInput{Ref: b.Batch.BatchRef, Run: this}).Get(ctx, &result); err != nil {
		return false, err
	}
	b.run, b.why, b.Reported, b.Failures = result.Run, result.Why, false, 0
	return true, b.show(ctx, batchSending, fmt.Sprintf("was reset: %d dead letters are sent again", result.Reopened))
}

// show keeps the Web UI current. Search attributes are written only when the
// state changes: each write costs Temporal more than an event.
func (b *batch) show(ctx workflow.Context, state, text string) error {
	workflow.SetCurrentDetails(ctx, fmt.Sprintf("%s batch %d of publication `%s`, recipients %d to %d, %s.", b.Batch.Channel, b.Batch.N, b.Batch.Publication, b.Batch.First, b.Batch.Last, text))
	if b.State == state {
		return nil
	}
	b.State = state
	return workflow.UpsertTypedSearchAttributes(ctx, attrState.ValueSet(state))
}

package workflows_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/activities"
	"github.com/fanfare-dev/fanfare/workflows"
)

// lookUps answers the runs of the reconcile activity in order.
type lookUps struct {
	env     *testsuite.TestWorkflowEnvironment
	begun   time.Time
	results []activities.ReconcileResult
	ages    []time.Duration
	woken   []string
	onRun   func(run int) // counted from 1; nil: nothing
}

func (l *lookUps) Reconcile(context.Context, activities.ReconcileInput) (activities.ReconcileResult, error) {
	l.ages = append(l.ages, l.env.Now().Sub(l.begun).Round(100*time.Millisecond))
	if l.onRun != nil {
		l.onRun(len(l.ages))
	}
	return l.results[min(len(l.ages), len(l.results))-1], nil
}

func newLookUps(results ...activities.ReconcileResult) *lookUps {
	env := newEnvironment()
	l := &lookUps{env: env, begun: env.Now(), results: results}
	env.RegisterWorkflow(workflows.Reconcile)
	env.RegisterActivity(l)
	env.OnSignalExternalWorkflow(mock.Anything, mock.Anything, "", workflows.SignalWake, mock.Anything).Return(
		func(_, workflowID, _, _ string, _ any) error {
			l.woken = append(l.woken, workflowID)
			return errors.New("the batch has just ended")
		})
	return l
}

var ofEmail = activities.ReconcileInput{Publication: publicationID, Channel: fanfare.Email}

func TestReconcileUntilNothingIsInDoubt(t *testing.T) {
	t.Parallel()
	one, two := batchRef(fanfare.Email, 1), batchRef(fanfare.Email, 2)
	l := newLookUps(
		activities.ReconcileResult{Settled: []fanfare.BatchRef{one, one, two, one}, Next: span(0)},
		activities.ReconcileResult{Next: span(20 * time.Second)},
		activities.ReconcileResult{Settled: []fanfare.BatchRef{two}, Next: span(2 * time.Second)},
		activities.ReconcileResult{},
	)
	l.env.ExecuteWorkflow(workflows.Reconcile, ofEmail)
	require.NoError(t, l.env.GetWorkflowError())
	require.Equal(t, []string{one.WorkflowID(), two.WorkflowID(), two.WorkflowID()}, l.woken, "each batch once for one run")
	second := 100 * time.Millisecond // a pause keeps two quick runs apart
	require.Equal(t, []time.Duration{0, second, second + 20*time.Second, second + 22*time.Second}, l.ages)
}

func TestReconcileContinuesAsNew(t *testing.T) {
	t.Parallel()
	l := newLookUps(activities.ReconcileResult{Next: span(time.Second)})
	l.env.RegisterDelayedCallback(func() { l.env.SetCurrentHistoryLength(4000) }, 10500*time.Millisecond)
	l.env.ExecuteWorkflow(workflows.Reconcile, ofEmail)
	var in activities.ReconcileInput
	require.True(t, workflow.IsContinueAsNewError(l.env.GetWorkflowError()))
	continued(t, l.env, &in)
	require.Equal(t, ofEmail, in)
	require.Len(t, l.ages, 11)
}

// A batch that came in doubt tells the reconciler, wherever that is: asleep, or
// at what would have been its last look-up.
func TestReconcileHearsOfMore(t *testing.T) {
	t.Parallel()
	l := newLookUps(
		activities.ReconcileResult{Next: span(time.Hour)},
		activities.ReconcileResult{},
		activities.ReconcileResult{},
	)
	l.onRun = func(run int) {
		if run == 2 {
			l.env.SignalWorkflow(workflows.SignalWake, nil)
		}
	}
	l.env.RegisterDelayedCallback(func() { l.env.SignalWorkflow(workflows.SignalWake, nil) }, 5*time.Second)
	l.env.ExecuteWorkflow(workflows.Reconcile, ofEmail)
	require.NoError(t, l.env.GetWorkflowError())
	require.Equal(t, []time.Duration{0, 5 * time.Second, 5 * time.Second}, l.ages)
}

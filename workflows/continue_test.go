package workflows_test

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/activities"
	"github.com/fanfare-dev/fanfare/workflows"
)

// continued reads what a run that continued as new handed to the next.
func continued(t *testing.T, env *testsuite.TestWorkflowEnvironment, in any) {
	t.Helper()
	var next *workflow.ContinueAsNewError
	require.ErrorAs(t, env.GetWorkflowError(), &next)
	require.NoError(t, converter.GetDefaultDataConverter().FromPayloads(next.Input, in))
}

// fill gives every field below v a value of its own that is not zero, so that a
// field which is forgotten somewhere is seen.
func fill(v reflect.Value, n *int64) {
	*n++
	if v.Type() == reflect.TypeFor[time.Time]() {
		v.Set(reflect.ValueOf(time.Unix(4e9+*n, 0).UTC()))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for _, field := range v.Fields() {
			fill(field, n)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), n)
		fill(v.Index(1), n)
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key, n)
		fill(value, n)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.String:
		v.SetString(string(rune('a'+*n%26)) + "-" + time.Duration(*n).String())
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(*n)
	default:
		panic("fill: teach me " + v.Type().String())
	}
}

func filled[T any]() T {
	var v T
	var n int64
	fill(reflect.ValueOf(&v).Elem(), &n)
	return v
}

func TestProgressSurvivesJSON(t *testing.T) {
	t.Parallel()
	for _, before := range []any{filled[workflows.PublishInput](), filled[workflows.BatchInput]()} {
		text, err := json.Marshal(before)
		require.NoError(t, err)
		after := reflect.New(reflect.TypeOf(before))
		require.NoError(t, json.Unmarshal(text, after.Interface()))
		require.Empty(t, cmp.Diff(before, after.Elem().Interface()))
	}
}

// carried is a progress with every field set, as far as it fits together.
func carried() *workflows.Progress {
	p := filled[workflows.PublishInput]().Progress
	for _, lane := range p.Lanes {
		p.Lanes = map[fanfare.Channel]*workflows.LaneState{fanfare.Email: lane}
	}
	p.Opening.Channels = []fanfare.Channel{fanfare.Email}
	p.State = fanfare.Running
	return p
}

func TestPublishCarriesAllItKnows(t *testing.T) {
	t.Parallel()
	s := newStage(t, 1, fanfare.Email)
	before := carried()
	s.edit = func(_ activities.LookInput, look *activities.Look) { look.Totals = before.Totals }
	s.SetContinueAsNewSuggested(true)
	s.ExecuteWorkflow(workflows.Publish, workflows.PublishInput{Publication: publicationID, Progress: before})
	var next workflows.PublishInput
	continued(t, s.TestWorkflowEnvironment, &next)
	require.Empty(t, cmp.Diff(workflows.PublishInput{Publication: publicationID, Progress: carried()}, next))
	require.Equal(t, workflows.LaneState{
		After: before.Lanes[fanfare.Email].After, AllOut: true, Window: before.Lanes[fanfare.Email].Window,
		Waiting: before.Lanes[fanfare.Email].Waiting, Done: before.Lanes[fanfare.Email].Done,
	}, *next.Progress.Lanes[fanfare.Email])
	require.Len(t, s.looks, 1, "a run looks at the ledger before anything else")
	require.Len(t, s.looks[0].Window, 2)
	require.Len(t, s.looks[0].Waiting, 2)
}

func TestPublishTakesReportsBeforeItContinues(t *testing.T) {
	t.Parallel()
	s := newStage(t, 1, fanfare.Email)
	lane := carried().Lanes[fanfare.Email]
	s.edit = func(activities.LookInput, *activities.Look) {
		// They arrive while the run waits for the ledger, and it receives none.
		s.SignalWorkflow("batch", report{Ref: batchRef(fanfare.Email, lane.Window[0])})
		s.SignalWorkflow("batch", report{Ref: batchRef(fanfare.Email, lane.Window[1]), Done: true})
		s.SignalWorkflow("batch", report{Ref: batchRef(fanfare.Email, lane.Waiting[1]), Done: true})
		s.SetContinueAsNewSuggested(true)
	}
	s.ExecuteWorkflow(workflows.Publish, workflows.PublishInput{Publication: publicationID, Progress: carried()})
	var next workflows.PublishInput
	continued(t, s.TestWorkflowEnvironment, &next)
	require.Equal(t, &workflows.LaneState{
		After: lane.After, AllOut: true, Window: []int{}, Waiting: []int{lane.Waiting[0], lane.Window[0]}, Done: lane.Done + 2,
	}, next.Progress.Lanes[fanfare.Email])
}

// A long publication, run by run, as Temporal would go on with it.
func TestPublishContinuesAfterTwoHundredBatches(t *testing.T) {
	t.Parallel()
	const batches = 450
	s := newStage(t, batches, fanfare.Email)
	s.batch = func(ctx workflow.Context, in workflows.BatchInput) error {
		s.endSilently(in.Batch.BatchRef)
		s.report(ctx, report{Ref: in.Batch.BatchRef, Done: true})
		return nil
	}
	in := workflows.PublishInput{Publication: publicationID}
	var perRun []int
	for started := 0; ; {
		s.ExecuteWorkflow(workflows.Publish, in)
		perRun = append(perRun, len(s.started)-started)
		started = len(s.started)
		if !workflow.IsContinueAsNewError(s.GetWorkflowError()) {
			break
		}
		continued(t, s.TestWorkflowEnvironment, &in)
		before := s.played
		s = newStage(t, batches, fanfare.Email)
		batch := s.batch
		s.played, s.batch = before, batch
		s.RegisterActivity(&ledgerActivities{played: before})
	}
	require.NoError(t, s.GetWorkflowError())
	require.Len(t, perRun, 3)
	for _, n := range perRun[:2] {
		require.InDelta(t, 200, n, window, "batches by run: %v", perRun)
	}
	require.Len(t, s.started, batches)
	for ref, times := range s.started {
		require.Equal(t, 1, times, "batch %v", ref)
	}
}

func TestPublishContinuesBeforeItsHistoryIsLong(t *testing.T) {
	t.Parallel()
	s := newStage(t, 100, fanfare.Email)
	s.at(1500*time.Millisecond, func() { s.SetCurrentHistoryLength(4000) })
	s.ExecuteWorkflow(workflows.Publish, workflows.PublishInput{Publication: publicationID})
	require.True(t, workflow.IsContinueAsNewError(s.GetWorkflowError()))
	require.Less(t, len(s.started), 100)
}

func TestBatchCarriesAllItKnows(t *testing.T) {
	t.Parallel()
	before := filled[workflows.BatchInput]()
	before.Batch, before.State = batchOf(theBatch), "waiting"
	b := newBatchStage(t, func(int, activities.SendInput) activities.SendResult {
		return activities.SendResult{Tally: tally(fanfare.Totals{Sent: 9, Pending: 1}), Wait: time.Second}
	})
	b.SetContinueAsNewSuggested(true)
	b.ExecuteWorkflow(workflows.Batch, before)
	var next workflows.BatchInput
	continued(t, b.TestWorkflowEnvironment, &next)
	before.Failures++
	require.Empty(t, cmp.Diff(before, next))
	require.Empty(t, b.reports, "the first pass was reported by the run before")
	require.Equal(t, before.Failures-1, b.sends[0].Failures)
}

func TestBatchContinuesBeforeItsHistoryIsLong(t *testing.T) {
	t.Parallel()
	b := newBatchStage(t, func(int, activities.SendInput) activities.SendResult {
		return activities.SendResult{Tally: tally(fanfare.Totals{Sent: 9, Pending: 1})}
	})
	b.at(time.Minute-time.Second, func() { b.SetCurrentHistoryLength(4000) })
	_, err := b.execute()
	require.True(t, workflow.IsContinueAsNewError(err))
	require.Len(t, b.sends, 2)
}

// A publication whose history is lost finds most of its batches waiting behind
// their first pass: they take no place in the window, and hold up nobody.
func TestARunThatIsStartedAnewDoesNotWaitForThoseThatWait(t *testing.T) {
	t.Parallel()
	s := newStage(t, 170, fanfare.Email)
	for n := 1; n <= 160; n++ {
		s.passed[batchRef(fanfare.Email, n)] = true
	}
	var first time.Duration
	s.batch = func(ctx workflow.Context, in workflows.BatchInput) error {
		if in.Batch.N > 160 {
			first = s.Now().Sub(s.begun)
		} else {
			require.NoError(t, workflow.Sleep(ctx, time.Hour))
		}
		s.end(ctx, in.Batch.BatchRef)
		return nil
	}
	s.publish()
	require.Less(t, first, time.Second)
	require.Len(t, s.started, 170)
}

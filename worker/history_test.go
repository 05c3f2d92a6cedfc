package worker_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"

	fanfare "github.com/fanfare-dev/fanfare"
)

// TestHistoryArithmetic counts the events of real histories and reckons with
// them how long those of a publication to 10,000,000 would be.
func TestHistoryArithmetic(t *testing.T) {
	t.Parallel()
	const (
		warning      = 10_000 // events; Temporal warns at 10,240 and ends a run at 51,200
		perRun       = 200    // batches, after which a run continues as new
		manyBatches  = 1000   // 10,000,000 recipients
		parentEvents = 12.0   // that a batch may cost its publication
		batchEvents  = 30     // that an ordinary batch may have
		window       = 16.0   // batches more than perRun that a run may start
		overhead     = 60.0   // events of a run that are not about batches
	)
	for _, batches := range []int{10, 100, 240} {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			const size = 2
			r := newRig(t, setup{batchSize: size, readers: batches * size, sender: acceptAll})
			begun := time.Now()
			id := r.publish()
			p := r.finishes(id)
			took := time.Since(begun)
			require.Equal(t, fanfare.Completed, p.State)
			require.EqualValues(t, batches*size, p.Totals.Sent)

			runs := r.runs(id.WorkflowID())
			total, longest := 0, 0
			for i, run := range runs {
				n := len(run.GetEvents())
				total, longest = total+n, max(longest, n)
				last := run.GetEvents()[n-1].GetEventType()
				if i < len(runs)-1 {
					require.Equal(t, enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW, last)
				} else {
					require.Equal(t, enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED, last)
				}
			}
			require.Len(t, runs, 1+batches/(perRun+int(window)), "runs of a publication of %d batches", batches)
			require.Less(t, longest, warning/2)
			perBatch := (float64(total) - overhead*float64(len(runs))) / float64(batches)
			require.LessOrEqual(t, perBatch, parentEvents)

			of10M := overhead + max(perBatch, 0)*(perRun+window)
			require.Less(t, of10M, float64(warning)/2, "the longest run of a publication to 10,000,000")
			require.Greater(t, manyBatches, perRun, "which has several")

			longestBatch := 0
			for n := 1; n <= batches; n += max(1, batches/10) {
				ref := fanfare.BatchRef{Publication: id, Channel: fanfare.Email, N: n}
				r.closes(ref.WorkflowID())
				longestBatch = max(longestBatch, len(r.history(ref.WorkflowID(), "").GetEvents()))
			}
			require.LessOrEqual(t, longestBatch, batchEvents)
			t.Logf("%d batches: %s, %d runs, %d events in all, %d in the longest, %.1f for a batch; a batch's own history: %d events; %d batches: %.0f events a run",
				batches, took.Round(time.Millisecond), len(runs), total, longest, perBatch, longestBatch, manyBatches, of10M)
		})
	}
}

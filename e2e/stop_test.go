package e2e

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/sandbox"
)

// TestCancelMeansStop cancels in mid-flight, with calls under way on two
// workers, and looks at the provider: no call arrives after the answer.
func TestCancelMeansStop(t *testing.T) {
	t.Parallel()
	st := start(t, setup{workers: 2, batchSize: 500})
	st.subscribe(20000)
	st.faults(sandbox.Faults{Pace: 4000})
	id := st.publish("article-1")
	st.reaches(id, "some are sent", func(p fanfare.Publication) bool { return p.Totals.Sent >= 2000 })

	p := st.act(id, "cancel")
	answered := time.Now()
	require.Equal(t, fanfare.Cancelled, p.State)
	st.faults(sandbox.Faults{})
	p = st.finishes(id)
	for _, call := range st.sandbox.Calls(0, 100000) {
		require.False(t, call.ArrivedAt.After(answered), "call %s arrived %s after cancel had been answered", call.ID, call.ArrivedAt.Sub(answered))
	}
	stats := st.sandbox.Stats()
	require.Equal(t, fanfare.Totals{Intended: 20000, Sent: stats.Distinct, Skipped: 20000 - stats.Distinct}, p.Totals)
	require.Equal(t, map[string]int64{fanfare.ReasonCancelled: 20000 - stats.Distinct}, p.SkippedByReason)
	require.Zero(t, stats.Duplicates)
	require.Equal(t, fanfare.Cancelled, st.act(id, "cancel").State, "cancelling again is no error")
	require.True(t, st.verify().OK)
}

// TestCancelWithTemporalDown answers all the same, and stops all the same.
func TestCancelWithTemporalDown(t *testing.T) {
	t.Parallel()
	st := start(t, setup{workers: 1, batchSize: 500})
	st.subscribe(10000)
	st.faults(sandbox.Faults{Pace: 1500})
	id := st.publish("article-1")
	st.reaches(id, "some are sent", func(p fanfare.Publication) bool { return p.Totals.Sent >= 1000 })
	st.stopTemporal()
	p := st.act(id, "cancel")
	answered := time.Now()
	require.Equal(t, fanfare.Cancelled, p.State)
	st.startTemporalAgain()
	st.faults(sandbox.Faults{})
	p = st.finishes(id)
	for _, call := range st.sandbox.Calls(0, 100000) {
		require.False(t, call.ArrivedAt.After(answered), "call %s arrived %s after cancel had been answered", call.ID, call.ArrivedAt.Sub(answered))
	}
	require.Equal(t, st.sandbox.Stats().Distinct, p.Totals.Sent)
	require.EqualValues(t, 10000, p.Totals.Sent+p.Totals.Skipped)
	require.True(t, st.verify().OK)
}

// TestPauseAndResume holds a fan-out and lets it go on.
func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	st := start(t, setup{workers: 2, batchSize: 500})
	st.subscribe(10000)
	st.faults(sandbox.Faults{Pace: 2500})
	id := st.publish("article-1")
	st.reaches(id, "some are sent", func(p fanfare.Publication) bool { return p.Totals.Sent >= 1000 })

	require.Equal(t, fanfare.Paused, st.act(id, "pause").State)
	answered := time.Now()
	st.reaches(id, "calls under way are settled", func(p fanfare.Publication) bool { return p.Totals.Sending == 0 })
	held := st.sandbox.Stats().Calls
	require.Less(t, st.publication(id).Totals.Sent, int64(10000))

	// Another publication goes by while this one is held.
	other := st.publish("article-2")
	st.faults(sandbox.Faults{})
	st.completes(other)
	for _, call := range st.callsOf(id) {
		require.False(t, call.ArrivedAt.After(answered), "call %s arrived while paused", call.ID)
	}
	require.Equal(t, fanfare.Paused, st.publication(id).State)
	require.NotZero(t, held)

	require.Equal(t, fanfare.Running, st.act(id, "resume").State)
	require.Equal(t, fanfare.Totals{Intended: 10000, Sent: 10000}, st.completes(id).Totals)
	require.Zero(t, st.sandbox.Stats().Duplicates)
	require.True(t, st.verify().OK)
}

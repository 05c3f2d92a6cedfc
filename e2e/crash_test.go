package e2e

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/sandbox"
)

// kills is how often a crash test kills a worker.
const kills = 12

// TestFrozenWorkerDoesNotSend stops a worker with SIGSTOP in the middle of its
// calls, lets another take over what it held, and thaws it: it must not send.
func TestFrozenWorkerDoesNotSend(t *testing.T) {
	t.Parallel()
	st := start(t, setup{workers: 1, batchSize: 1000})
	st.subscribe(10000)
	st.faults(sandbox.Faults{Pace: 1000})
	id := st.publish("article-1")
	st.reaches(id, "some are sent", func(p fanfare.Publication) bool { return p.Totals.Sent >= 1000 })
	frozen := st.workers[0]
	require.NoError(t, frozen.Signal(syscall.SIGSTOP))
	other := st.startWorker(1000)
	st.faults(sandbox.Faults{})

	p := st.completes(id)
	require.Equal(t, fanfare.Totals{Intended: 10000, Sent: 10000}, p.Totals)
	before := len(st.callsOf(id))
	require.NoError(t, frozen.Signal(syscall.SIGCONT))

	// The thawed worker is alone now and works again; by the time it has sent
	// another publication it would have sent what it held of this one.
	require.NoError(t, other.Stop(t.Context()))
	st.completes(st.publish("article-2"))
	require.Len(t, st.callsOf(id), before, "the thawed worker has sent")
	require.Zero(t, st.sandbox.Stats().Duplicates)
	v := st.verify()
	require.True(t, v.OK, "%v", v.Problems)
	require.Zero(t, v.Duplicates)
}

// TestServerAndWorkerKilled kills everything of ours at once, again and again.
func TestServerAndWorkerKilled(t *testing.T) {
	t.Parallel()
	st := start(t, setup{workers: 1, batchSize: 1000})
	st.subscribe(5000)
	st.faults(sandbox.Faults{Pace: 1000})
	ids := []fanfare.PublicationID{}
	for _, key := range []string{"a", "b", "c"} {
		ids = append(ids, st.publish(key))
		st.kill(st.server)
		st.kill(st.workers[0])
		require.Equal(t, ids[len(ids)-1], st.publish(key), "the same key is the same publication, also after a crash")
	}
	st.faults(sandbox.Faults{})
	for _, id := range ids {
		require.Equal(t, fanfare.Totals{Intended: 5000, Sent: 5000}, st.completes(id).Totals)
	}
	stats := st.sandbox.Stats()
	require.EqualValues(t, 15000, stats.Distinct)
	require.Zero(t, stats.Duplicates)
	require.True(t, st.verify().OK)
}

// TestTemporalDatabaseLost deletes Temporal's database half-way: the ledger is
// enough to finish.
func TestTemporalDatabaseLost(t *testing.T) {
	t.Parallel()
	st := start(t, setup{workers: 2, batchSize: 1000})
	st.subscribe(20000)
	st.faults(sandbox.Faults{Pace: 2000})
	id := st.publish("article-1")
	st.reaches(id, "half are sent", func(p fanfare.Publication) bool { return p.Totals.Sent >= 8000 })
	st.loseTemporal()
	st.faults(sandbox.Faults{})

	p := st.completes(id)
	require.Equal(t, fanfare.Totals{Intended: 20000, Sent: 20000}, p.Totals)
	stats := st.sandbox.Stats()
	require.EqualValues(t, 20000, stats.Distinct)
	require.Zero(t, stats.Duplicates)
	require.True(t, st.verify().OK)
}

// killByTurns kills one worker after the other, each time when mail has reached
// the provider since the last kill, and starts another in its place.
func (st *stack) killByTurns(id fanfare.PublicationID) {
	st.t.Helper()
	for i := range kills {
		before := st.sandbox.Stats().Calls
		finished := false
		require.Eventually(st.t, func() bool {
			finished = st.publication(id).Totals.Unfinished() == 0
			return finished || st.sandbox.Stats().Calls > before
		}, patience, tick, "no call after kill %d", i)
		require.False(st.t, finished, "it was finished after %d kills: slow the sandbox down", i)
		victim := i % len(st.workers)
		st.kill(st.workers[victim])
	}
}

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/local/localtest"
	"github.com/fanfare-dev/fanfare/sandbox"
)

// short makes the ladder so short that whoever is told "later" is dead soon.
var short = []string{"FANFARE_RETRY_FAST=50ms,100ms", "FANFARE_RETRY_SLOW=200ms"}

// later tells everybody to come back later, for ever.
var later = sandbox.Faults{Rules: []sandbox.Fault{{Every: 1, Action: sandbox.ActionStatus, Status: http.StatusTooManyRequests}}}

// died publishes to n people whom the provider tells "later" until they are dead.
func (st *stack) died(key string, n int) fanfare.PublicationID {
	st.t.Helper()
	st.faults(later)
	id := st.publish(key)
	p := st.completes(id)
	require.Equal(st.t, fanfare.CompletedWithFailures, p.State)
	require.Equal(st.t, fanfare.Totals{Intended: int64(n), Dead: int64(n)}, p.Totals)
	st.faults(sandbox.Faults{})
	return id
}

// dryRun asks the command what a replay would do.
func (st *stack) dryRun(args ...string) (v fanfare.ReplayPreview) {
	st.t.Helper()
	code, out := st.fanfare(append([]string{"replay", "--dry-run", "--json"}, args...)...)
	require.Zero(st.t, code)
	require.NoError(st.t, json.Unmarshal(out, &v), "%s", out)
	return v
}

// TestReplay sends 5,000 dead letters again: after a dry run, twice at once, and
// after some have opted out.
func TestReplay(t *testing.T) {
	t.Parallel()
	st := start(t, setup{workers: 2, batchSize: 1000, env: short})
	st.subscribe(5000)
	id := st.died("article-1", 5000)
	require.EqualValues(t, 20_000, st.count(`SELECT count(*) FROM attempts WHERE outcome = 'throttled'`), "one attempt and one for each step of the ladder")

	v := st.dryRun("--publication", "article-1", "--code", "sendgrid:429")
	require.EqualValues(t, 5000, v.Count)
	require.Equal(t, map[string]int64{"retries_exhausted": 5000}, v.ByReason)
	require.Equal(t, map[string]int64{"sendgrid:429": 5000}, v.ByCode)
	require.Zero(t, st.dryRun("--publication", "article-1", "--code", "sendgrid:550").Count)
	require.Zero(t, st.sandbox.Stats().Messages, "a dry run sends nothing")

	for i := range 40 {
		st.call(http.MethodDelete, fmt.Sprintf("/v1/topics/writer-1/subscribers/reader-%d", 100*i+1), nil, http.StatusNoContent, nil)
	}
	var replays [2]fanfare.Replay
	var both sync.WaitGroup
	for i := range replays {
		both.Go(func() {
			st.call(http.MethodPost, "/v1/replays", map[string]any{"filter": map[string]any{"publication": "article-1"}}, http.StatusAccepted, &replays[i])
		})
	}
	both.Wait()
	require.EqualValues(t, 5000, replays[0].Count+replays[1].Count, "each of them once, whoever was first")

	p := st.reaches(id, "nobody is dead any more", func(p fanfare.Publication) bool { return p.State == fanfare.Completed })
	require.Equal(t, fanfare.Totals{Intended: 5000, Sent: 4960, Skipped: 40}, p.Totals)
	require.Equal(t, map[string]int64{fanfare.ReasonUnsubscribed: 40}, p.SkippedByReason)
	stats := st.sandbox.Stats()
	require.EqualValues(t, 4960, stats.Distinct)
	require.Zero(t, stats.Duplicates)
	var sum fanfare.Totals
	for _, r := range replays {
		require.Eventually(t, func() bool {
			st.call(http.MethodGet, "/v1/replays/"+string(r.ID), nil, http.StatusOK, &r)
			return r.State == fanfare.ReplayCompleted
		}, patience, tick)
		require.Equal(t, r.Count, r.Reopened+r.Passed)
		sum = sum.Add(r.Totals)
	}
	require.Equal(t, fanfare.Totals{Intended: 5000, Sent: 4960, Skipped: 40}, sum)
	require.Zero(t, st.dryRun("--publication", "article-1").Count)
	require.True(t, st.verify().OK)
}

// TestReplayCommand watches a replay whose people are dead again at its end, and
// one that reaches them.
func TestReplayCommand(t *testing.T) {
	t.Parallel()
	st := start(t, setup{workers: 1, batchSize: 100, env: short})
	st.subscribe(300)
	id := st.died("article-1", 300)
	st.faults(later)
	code, out := st.fanfare("replay", "--publication", string(id), "--watch")
	require.Equal(t, 3, code, "some are dead again: %s", out)
	require.EqualValues(t, 300, st.dryRun("--publication", string(id)).Count)
	st.faults(sandbox.Faults{})
	code, out = st.fanfare("replay", "--publication", string(id), "--watch")
	require.Zero(t, code, "%s", out)
	require.EqualValues(t, 300, st.completes(id).Totals.Sent)
	require.Zero(t, st.sandbox.Stats().Duplicates)
	require.True(t, st.verify().OK)
}

// TestResetByQuery sends dead letters again with Temporal's own command, for all
// failed batches at once.
func TestResetByQuery(t *testing.T) {
	t.Parallel()
	for _, point := range []string{"FirstWorkflowTask", "LastWorkflowTask"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			st := start(t, setup{workers: 2, batchSize: 500, env: short})
			st.subscribe(5000)
			id := st.died("article-1", 5000)
			query := fmt.Sprintf(`WorkflowType = "Batch" AND ExecutionStatus = "Failed" AND FanfarePublication = "%s"`, id)
			require.Eventually(t, func() bool { return strings.Contains(st.temporalSays("workflow", "count", "--query", query), "10") }, patience, tick)
			out := st.temporalSays("workflow", "reset", "--query", query, "--type", point, "--reason", "the provider is back", "--yes")
			t.Log(out)
			p := st.reaches(id, "nobody is dead any more", func(p fanfare.Publication) bool { return p.State == fanfare.Completed })
			require.Equal(t, fanfare.Totals{Intended: 5000, Sent: 5000}, p.Totals)
			require.Zero(t, st.sandbox.Stats().Duplicates)
			require.EqualValues(t, 5000, st.sandbox.Stats().Distinct)
			require.True(t, st.verify().OK)
		})
	}
}

// temporalSays runs Temporal's own command.
func (st *stack) temporalSays(args ...string) string {
	st.t.Helper()
	path := localtest.CLI()
	if path == "" {
		path = "temporal"
	}
	address := fmt.Sprintf("127.0.0.1:%d", st.where.Port)
	out, err := exec.CommandContext(st.t.Context(), path, append(args, "--address", address, "--namespace", "fanfare")...).CombinedOutput()
	require.NoError(st.t, err, "temporal %s: %s", strings.Join(args, " "), out)
	return string(out)
}

package e2e

import (
	"encoding/json"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare/bench"
)

// TestBenchMeasuresWhatHappened runs a small measurement and checks what it
// counted. How fast it was is nobody's business here.
func TestBenchMeasuresWhatHappened(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), binary, "bench", "publish", "--subscribers", "12000", "--json", "--quiet").Output()
	require.NoError(t, err, "%s", out)
	var r bench.Report
	require.NoError(t, json.Unmarshal(out, &r))
	require.EqualValues(t, 12000, r.Sent)
	require.EqualValues(t, 12000, r.Received)
	require.Zero(t, r.Duplicates)
	require.True(t, r.Balanced)
	require.Positive(t, r.FirstCallSeconds)
	require.Positive(t, r.QueriesPer1000)
	require.Positive(t, r.EventsPer1000)
	require.Positive(t, r.CPUSeconds["postgres"])
	require.Positive(t, r.WorkerPeak)
}

package e2e

import (
	"encoding/json"
	"os/exec"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/bench"
)

// TestBenchMeasuresWhatHappened runs small measurements and checks what they
// counted. How fast it was is nobody's business here.
func TestBenchMeasuresWhatHappened(t *testing.T) {
	t.Parallel()
	for channel, subscribers := range map[fanfare.Channel]int{fanfare.Email: 12000, fanfare.SMS: 1000, fanfare.Push: 1000, fanfare.InApp: 12000} {
		t.Run(string(channel), func(t *testing.T) {
			t.Parallel()
			out, err := exec.CommandContext(t.Context(), binary, "bench", "publish", "--channel", string(channel), "--subscribers", strconv.Itoa(subscribers), "--json", "--quiet").Output()
			require.NoError(t, err, "%s", out)
			var r bench.Report
			require.NoError(t, json.Unmarshal(out, &r))
			require.Equal(t, channel, r.Channel)
			require.EqualValues(t, subscribers, r.Sent)
			require.EqualValues(t, subscribers, r.Received)
			require.Zero(t, r.Duplicates)
			require.True(t, r.Balanced)
			require.Positive(t, r.FirstCallSeconds)
			require.Positive(t, r.QueriesPer1000)
			require.Positive(t, r.EventsPer1000)
			require.Positive(t, r.CPUSeconds["postgres"])
			require.Positive(t, r.WorkerPeak)
		})
	}
}

package e2e

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/sandbox"
)

// TestCutAndKilled sends to 100,000 while two in a hundred calls are accepted and
// cut, and workers are killed by turns: with evidence to be had nobody gets two; without
// it nobody gets more, or less, than the ledger says.
func TestCutAndKilled(t *testing.T) {
	t.Parallel()
	const readers = 100_000
	for name, c := range map[string]struct {
		policy string
		logs   string
	}{
		"look-up": {"resend", ""},
		"resend":  {"resend", sandbox.LogsOff},
		"hold":    {"hold", sandbox.LogsOff},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st := start(t, setup{workers: 2, batchSize: 1000, env: []string{"FANFARE_DOUBT_EMAIL=" + c.policy}})
			st.subscribe(readers)
			faults := sandbox.Faults{
				Seed: 1, Pace: 4000, Rules: []sandbox.Fault{{Every: 50, Action: sandbox.ActionAcceptThenClose}},
				Logs: sandbox.LogFaults{Mode: c.logs},
			}
			st.faults(faults)
			id := st.publish("article-1")
			st.killByTurns(id)
			faults.Pace = 0
			st.faults(faults)
			p := st.completes(id)
			stats, v := st.sandbox.Stats(), st.verify()
			t.Logf("%d sent, %d dead, %d got it, %d twice, %d calls settled by evidence, %d sent again by policy",
				p.Totals.Sent, p.Totals.Dead, stats.Distinct, stats.Duplicates, st.settledByEvidence(id), v.Resent)
			require.EqualValues(t, readers, p.Totals.Sent+p.Totals.Dead)
			require.True(t, v.OK)
			switch name {
			case "look-up":
				require.EqualValues(t, readers, p.Totals.Sent)
				require.EqualValues(t, readers, stats.Distinct)
				require.Zero(t, stats.Duplicates)
				require.Positive(t, st.settledByEvidence(id))
			case "resend":
				require.EqualValues(t, readers, stats.Distinct, "nobody is lost")
				require.LessOrEqual(t, stats.Duplicates, v.Resent, "as many as the ledger says, at most")
				require.Equal(t, v.Resent, st.resent(id))
				require.Positive(t, v.Resent)
			case "hold":
				require.Zero(t, stats.Duplicates)
				require.Equal(t, p.Totals.Dead, st.count(`SELECT count(*) FROM deliveries WHERE reason = 'doubt_held'`))
				require.GreaterOrEqual(t, stats.Distinct, p.Totals.Sent)
				require.Positive(t, p.Totals.Dead)
			}
		})
	}
}

// TestOneBadAddressAmongAThousand costs its neighbours nothing but a few calls.
func TestOneBadAddressAmongAThousand(t *testing.T) {
	t.Parallel()
	st := start(t, setup{workers: 1})
	st.subscribe(1)
	lines := make([]string, 999)
	for i := range lines {
		lines[i] = fmt.Sprintf(`{"id":"other-%d","email":"other-%d@mail.example"}`, i, i)
	}
	lines[617] = `{"id":"other-617","email":"bad-address@mail.example"}`
	st.importLines(lines...)
	p := st.completes(st.publish("article-1"))
	require.Equal(t, fanfare.Totals{Intended: 1000, Sent: 999, Failed: 1}, p.Totals)
	require.Equal(t, map[string]int64{"sendgrid:400": 1}, p.FailedByCode)
	stats := st.sandbox.Stats()
	require.EqualValues(t, 999, stats.Distinct)
	require.Zero(t, stats.Duplicates)
	require.LessOrEqual(t, stats.Calls, int64(1+2*10), "halves of a thousand, ten times at most")
	require.Zero(t, st.count(`SELECT count(*) FROM deliveries WHERE attempts > 0`))
	require.True(t, st.verify().OK)
}

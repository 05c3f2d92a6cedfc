package e2e

import (
	"testing"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/sandbox"
)

// TestFailover takes the first account away in the middle of a publication. The
// second carries on; what the first has in doubt it never gets.
func TestFailover(t *testing.T) {
	t.Parallel()
	st := start(t, setup{workers: 2, batchSize: 200, second: true})
	st.subscribe(20_000)
	st.faults(sandbox.Faults{Pace: 2000, Rules: []sandbox.Fault{{Every: 5, Action: sandbox.ActionAcceptThenClose}}})
	id := st.publish("article-1")
	st.reaches(id, "the first account sends", func(p fanfare.Publication) bool { return p.Totals.Sent >= 3000 })
	require.Zero(t, st.second.Stats().Calls, "while the first one takes calls the second gets none")
	st.faults(down(sandbox.DownUnavailable))
	st.reaches(id, "the second account sends", func(p fanfare.Publication) bool { return st.second.Stats().Messages >= 5000 })
	st.faults(sandbox.Faults{})

	p := st.completes(id)
	require.Equal(t, fanfare.Totals{Intended: 20_000, Sent: 20_000}, p.Totals)
	first, second := st.sandbox.Stats(), st.second.Stats()
	require.EqualValues(t, 20_000, first.Distinct+second.Distinct)
	require.Zero(t, first.Duplicates+second.Duplicates)
	require.Equal(t, second.Distinct, st.count(`
		SELECT count(*) FROM deliveries d JOIN calls c USING (publication_id, call_id) WHERE c.provider = 'sendgrid-2'`), "each attempt names its provider")
	require.Zero(t, st.count(`SELECT count(*) FROM attempts a JOIN attempts b USING (publication_id, subscriber_number, channel)
		WHERE a.outcome = 'ambiguous' AND b.call_id <> a.call_id`), "who was in doubt was not tried elsewhere")
	require.Zero(t, st.count(`SELECT count(*) FROM deliveries WHERE attempts > 0`))
	require.True(t, st.verify().OK)
}

package e2e

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/sandbox"
)

// TestFailover takes the first account away in the middle of a publication, in one way
// after the other. The second carries on; what the first has in doubt it never gets, be it
// accepted and cut, or cut and without evidence.
func TestFailover(t *testing.T) {
	t.Parallel()
	for account, c := range map[string]struct {
		channel fanfare.Channel
		readers int64
		cut     []sandbox.Fault
		away    []sandbox.Faults
	}{
		"sendgrid": {
			fanfare.Email, 20_000,
			[]sandbox.Fault{{Every: 5, Action: sandbox.ActionAcceptThenClose}},
			[]sandbox.Faults{down(sandbox.DownUnavailable)},
		},
		"twilio": {
			fanfare.SMS, 6000,
			[]sandbox.Fault{{Every: 20, Action: sandbox.ActionAcceptThenClose}, {Every: 30, Action: sandbox.ActionClose}},
			[]sandbox.Faults{down(sandbox.DownUnavailable), answers(http.StatusUnauthorized, 0), answers(http.StatusTooManyRequests, 1)},
		},
	} {
		t.Run(string(c.channel), func(t *testing.T) {
			t.Parallel()
			st := start(t, setup{workers: 2, batchSize: 200, second: true, channels: c.channel != fanfare.Email})
			st.reachable(int(c.readers))
			st.faults(sandbox.Faults{Pace: float64(c.readers) / 10, Rules: c.cut})
			// So slow that there is somebody left for the last way, however late the test looks.
			require.NoError(t, st.second.SetFaults(sandbox.Faults{Pace: float64(c.readers) / 40}))
			// While it is pinned the breaker has no say: calls that are cut end before others.
			closes := "/v1/providers/" + account + "/close"
			st.call(http.MethodPost, closes, map[string]bool{"pin": true}, http.StatusOK, nil)
			id := st.publishWith(map[string]any{"key": "article-1", "topic": "writer-1", "content": content("article-1"), "channels": []fanfare.Channel{c.channel}})
			st.reaches(id, "the first account sends", func(p fanfare.Publication) bool { return p.Totals.Sent+p.Totals.Delivered >= c.readers/6 })
			require.Zero(t, st.second.Stats().Calls, "while the first one takes calls the second gets none")
			for _, away := range c.away {
				st.faults(away)
				st.call(http.MethodPost, closes, map[string]bool{}, http.StatusOK, nil)
				refused, sent := st.sandbox.Stats().FaultsApplied, st.second.Stats().Messages+c.readers/30
				st.reaches(id, "the second account sends", func(fanfare.Publication) bool { return st.second.Stats().Messages >= sent })
				require.Greater(t, st.sandbox.Stats().FaultsApplied, refused, "the first was asked before the second")
			}
			st.faults(sandbox.Faults{})
			require.NoError(t, st.second.SetFaults(sandbox.Faults{}))

			p := st.completes(id)
			held, first, second := st.calls(sandbox.ActionClose), st.sandbox.Stats(), st.second.Stats()
			require.Equal(t, len(c.cut) > 1, held > 0)
			require.Equal(t, held, p.Totals.Dead, "nobody got it from the second whom the first may have sent to")
			require.Equal(t, c.readers-held, p.Totals.Sent+p.Totals.Delivered)
			require.Equal(t, c.readers-held, first.Distinct+second.Distinct)
			require.Zero(t, first.Duplicates+second.Duplicates)
			require.Equal(t, second.Distinct, st.count(`
				SELECT count(*) FROM deliveries d JOIN calls c USING (publication_id, call_id) WHERE c.provider = $1`, account+"-2"), "each attempt names its provider")
			require.Zero(t, st.count(`SELECT count(*) FROM attempts a JOIN attempts b USING (publication_id, subscriber_number, channel)
				WHERE a.outcome = 'ambiguous' AND b.call_id <> a.call_id`), "who was in doubt was not tried elsewhere")
			require.Zero(t, st.count(`SELECT count(*) FROM deliveries d
				WHERE attempts > (SELECT count(*) FROM attempts a WHERE a.subscriber_number = d.subscriber_number AND a.outcome = 'throttled')`))
			require.True(t, st.verify().OK)
		})
	}
}

// answers has each call answered so.
func answers(status, retryAfter int) sandbox.Faults {
	return sandbox.Faults{Rules: []sandbox.Fault{{Every: 1, Action: sandbox.ActionStatus, Status: status, RetryAfter: retryAfter}}}
}

// calls counts those of the first account that something was done to.
func (st *stack) calls(action sandbox.Action) (n int64) {
	for _, call := range st.sandbox.Calls(0, 1<<20) {
		if call.Fault == string(action) {
			n++
		}
	}
	return n
}

package e2e

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/sandbox"
)

// sixtieth are the default waits, each a sixtieth: half an hour becomes half a minute.
var sixtieth = []string{"FANFARE_RETRY_FAST=17ms,50ms,167ms,500ms,2s", "FANFARE_RETRY_SLOW=10s,30s,60s"}

func down(how string) sandbox.Faults {
	return sandbox.Faults{Down: map[string]string{"sendgrid": how, "twilio": how, "fcm": how}}
}

// TestAnOutageCostsNobodyAnAttempt takes the provider away for what would be half
// an hour, in the middle of 100,000: it hangs up at first, and says 503 later.
func TestAnOutageCostsNobodyAnAttempt(t *testing.T) {
	t.Parallel()
	st := start(t, setup{workers: 2, batchSize: 5000, env: sixtieth})
	st.subscribe(100_000)
	st.faults(sandbox.Faults{Pace: 20_000})
	id := st.publish("article-1")
	st.reaches(id, "some are sent", func(p fanfare.Publication) bool { return p.Totals.Sent >= 20_000 })
	begun := time.Now()
	st.faults(down(sandbox.DownClose))
	p := st.reaches(id, "the breaker opens, and the publication says so", func(p fanfare.Publication) bool { return waitsFor(p, fanfare.WaitingProvider) != nil })
	require.Contains(t, waitsFor(p, fanfare.WaitingProvider).Sentence, "sendgrid is not called since")
	st.reaches(id, "half the outage", func(fanfare.Publication) bool { return time.Since(begun) > 15*time.Second })
	st.faults(down(sandbox.DownUnavailable))
	called := st.sandbox.Stats().Calls
	st.reaches(id, "the outage", func(fanfare.Publication) bool { return time.Since(begun) > 30*time.Second })
	require.Less(t, st.sandbox.Stats().Calls-called, int64(100), "a provider that is away is left alone: single probes ask")
	st.faults(sandbox.Faults{})

	p = st.completes(id)
	require.Equal(t, fanfare.Completed, p.State)
	require.Equal(t, fanfare.Totals{Intended: 100_000, Sent: 100_000}, p.Totals)
	stats := st.sandbox.Stats()
	require.EqualValues(t, 100_000, stats.Distinct)
	require.Zero(t, stats.Duplicates)
	require.Zero(t, st.count(`SELECT count(*) FROM deliveries WHERE attempts > 0`), "nobody lost an attempt")
	require.True(t, st.verify().OK)
}

func waitsFor(p fanfare.Publication, kind string) *fanfare.Waiting {
	for _, w := range p.WaitingFor {
		if w.Kind == kind {
			return &w
		}
	}
	return nil
}

// providers asks the command, as an operator would.
func (st *stack) providers(args ...string) map[string]fanfare.Provider {
	st.t.Helper()
	if len(args) > 0 {
		code, out := st.fanfare(append([]string{"providers"}, args...)...)
		require.Zero(st.t, code, "%s", out)
	}
	code, out := st.fanfare("providers", "--json")
	require.Zero(st.t, code)
	var list struct {
		Items []fanfare.Provider `json:"items"`
	}
	require.NoError(st.t, json.Unmarshal(out, &list), "%s", out)
	byName := map[string]fanfare.Provider{}
	for _, p := range list.Items {
		byName[p.Name] = p
	}
	return byName
}

// TestABreakerSurvivesARestartOfEverything has the provider refuse the account's
// key, restarts all there is, and pins the breaker by hand.
func TestABreakerSurvivesARestartOfEverything(t *testing.T) {
	t.Parallel()
	st := start(t, setup{workers: 2, batchSize: 500, env: []string{"FANFARE_RETRY_FAST=1s,30m"}})
	st.subscribe(5000)
	st.faults(sandbox.Faults{Rules: []sandbox.Fault{{Every: 1, Action: sandbox.ActionStatus, Status: http.StatusUnauthorized}}})
	id := st.publish("article-1")
	st.reaches(id, "the provider is paused", func(p fanfare.Publication) bool { return waitsFor(p, fanfare.WaitingProvider) != nil })
	before := st.providers()["sendgrid"]
	require.Equal(t, fanfare.BreakerOpen, before.State)
	require.True(t, before.Account)
	require.Contains(t, before.Reason, "SENDGRID_API_KEY", "it says what to do")
	require.Contains(t, string(st.output.bytes()), "level=ERROR", "and says so loudly")

	st.kill(st.server)
	st.stopTemporal()
	for _, w := range st.workers {
		st.kill(w)
	}
	st.startTemporalAgain()
	after := st.providers()["sendgrid"]
	require.Equal(t, before.State, after.State)
	require.True(t, before.Since.Equal(after.Since), "not a moment was forgotten")
	called := st.sandbox.Stats().Calls
	st.faults(sandbox.Faults{})
	st.reaches(id, "the workers are back", func(fanfare.Publication) bool {
		return st.workers[0].Lives() == 2 && st.workers[1].Lives() == 2 && st.count(`SELECT count(*) FROM pg_stat_activity WHERE application_name = 'fanfare' AND query LIKE '%FROM providers%'`) >= 2
	})
	require.Equal(t, called, st.sandbox.Stats().Calls, "a worker that starts anew does not try it out")

	require.True(t, st.providers("open", "sendgrid", "--pin")["sendgrid"].Pinned)
	require.Equal(t, called, st.sandbox.Stats().Calls)
	closed := st.providers("close", "sendgrid")["sendgrid"]
	require.Equal(t, fanfare.BreakerClosed, closed.State)
	require.False(t, closed.Pinned)
	require.Equal(t, fanfare.Totals{Intended: 5000, Sent: 5000}, st.completes(id).Totals)
	require.Zero(t, st.sandbox.Stats().Duplicates)
	require.Zero(t, st.count(`SELECT count(*) FROM deliveries WHERE attempts > 0`))
	require.True(t, st.verify().OK)
}

// TestFiveHundredsOpenTheBreakerBeforeMuchIsInDoubt has the provider fail in a
// way that leaves everybody in doubt.
func TestFiveHundredsOpenTheBreakerBeforeMuchIsInDoubt(t *testing.T) {
	t.Parallel()
	st := start(t, setup{workers: 1, batchSize: 1000, env: []string{"FANFARE_RETRY_FAST=500ms,1s"}})
	st.subscribe(50_000)
	st.faults(sandbox.Faults{Rules: []sandbox.Fault{{Every: 1, Action: sandbox.ActionStatus, Status: http.StatusInternalServerError}}})
	id := st.publish("article-1")
	p := st.reaches(id, "the breaker opens", func(p fanfare.Publication) bool {
		return waitsFor(p, fanfare.WaitingProvider) != nil && p.Totals.Sending == 0
	})
	require.NotNil(t, waitsFor(p, fanfare.WaitingDoubt), "and the publication says that some are in doubt")
	doubted := st.ambiguous(id)
	require.Less(t, doubted, int64(40_000), "five failures in a row, and the calls under way then")
	require.Eventually(t, func() bool {
		return st.providers()["sendgrid"].State != fanfare.BreakerClosed && st.ambiguous(id) > doubted
	}, patience, tick)
	require.Less(t, st.ambiguous(id)-doubted, int64(100), "a probe puts one recipient in doubt")
	st.faults(sandbox.Faults{})
	p = st.completes(id)
	require.Equal(t, int64(50_000), p.Totals.Sent)
	require.Zero(t, st.sandbox.Stats().Duplicates, "500 was no acceptance here")
	require.True(t, st.verify().OK)
}

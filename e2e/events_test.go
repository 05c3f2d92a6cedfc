package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/sandbox"
)

// fates are how addresses begin that are not simply delivered to, with what
// becomes of each, and of the address.
var fates = map[string]struct {
	state      fanfare.State
	code       string
	suppressed bool
	events     []fanfare.EventType
}{
	"bounce":   {fanfare.Failed, "sendgrid:5.1.1", true, []fanfare.EventType{"processed", "bounced"}},
	"block":    {fanfare.Failed, "", false, []fanfare.EventType{"processed", "bounced"}},
	"drop":     {fanfare.Failed, "", false, []fanfare.EventType{"dropped"}},
	"defer":    {fanfare.Delivered, "", false, []fanfare.EventType{"processed", "deferred", "delivered"}},
	"open":     {fanfare.Delivered, "", false, []fanfare.EventType{"processed", "delivered", "opened"}},
	"click":    {fanfare.Delivered, "", false, []fanfare.EventType{"processed", "delivered", "opened", "clicked"}},
	"complain": {fanfare.Delivered, "", true, []fanfare.EventType{"processed", "delivered", "opened", "complained"}},
}

// TestEveryEventEndsWhereItBelongs has 100,000 events come in any order, a fifth
// of them twice and under new ids, some before their call is answered, between forged
// and stale ones that say something else.
func TestEveryEventEndsWhereItBelongs(t *testing.T) {
	t.Parallel()
	const readers, each = 49_000, 100
	st := start(t, setup{workers: 2, batchSize: 5000, webhooks: true})
	st.call(http.MethodPut, "/v1/topics/writer-1", map[string]any{"name": "Writer One"}, http.StatusCreated, nil)
	var lines []string
	for i := range readers {
		lines = append(lines, fmt.Sprintf(`{"id":"reader-%d","email":"reader-%d@mail.example"}`, i, i))
	}
	for fate := range fates {
		for i := range each {
			lines = append(lines, fmt.Sprintf(`{"id":"%s-%d","email":"%s+%d@mail.example"}`, fate, i, fate, i))
		}
	}
	st.importLines(lines...)
	st.faults(sandbox.Faults{Seed: 7, Webhooks: sandbox.WebhookFaults{
		Delay: sandbox.Duration(3 * time.Second), Early: 0.3, Duplicate: 0.2, NewIDs: true, Forged: 0.2, Stale: 0.2,
	}})
	id := st.publish("article-1")
	st.completes(id)
	failed, delivered, suppressed := int64(0), int64(readers), int64(0)
	for _, fate := range fates {
		if fate.state == fanfare.Failed {
			failed += each
		} else {
			delivered += each
		}
		if fate.suppressed {
			suppressed += each
		}
	}
	p := st.reaches(id, "every event is applied", func(p fanfare.Publication) bool {
		return st.sandbox.WebhookIdle() && p.Totals.Sent == 0 && st.count(`SELECT count(*) FROM event_inbox`) == 0
	})
	require.Equal(t, fanfare.Totals{Intended: delivered + failed, Delivered: delivered, Failed: failed}, p.Totals)
	require.Equal(t, fanfare.CompletedWithFailures, p.State)

	told := st.sandbox.Stats().Webhooks
	t.Logf("%d events, %d twice, %d early, %d forged, %d stale", told.Made, told.Doubled, told.Early, told.Forged, told.Stale)
	require.Positive(t, told.Early)
	require.Positive(t, told.Forged)
	require.Positive(t, told.Stale)
	require.Zero(t, told.ForgedAccepted+told.StaleAccepted+told.Dropped)
	require.Equal(t, told.Made, st.count(`SELECT count(*) FROM events`), "each event is kept once, and no other")
	require.Zero(t, st.count(`SELECT count(*) FROM stray_events`))
	require.Equal(t, suppressed, st.count(`SELECT count(*) FROM suppressions`))
	for fate, want := range fates {
		d := st.deliveryTo(id, fate+"-7")
		require.Equal(t, want.state, d.State, fate)
		require.Equal(t, want.state == fanfare.Failed, strings.HasPrefix(d.Code, "sendgrid:"), fate)
		if want.code != "" {
			require.Equal(t, want.code, d.Code)
		}
		var types []fanfare.EventType
		for _, e := range d.Events {
			types = append(types, e.Type)
		}
		require.ElementsMatch(t, want.events, types, fate)
	}
	require.True(t, st.verify().OK)

	st.faults(sandbox.Faults{})
	p = st.completes(st.publish("article-2"))
	require.Equal(t, map[string]int64{fanfare.ReasonSuppressed: suppressed}, p.SkippedByReason, "the second publication knows of the first's bounces")
}

// deliveryTo reads the delivery to a subscriber.
func (st *stack) deliveryTo(id fanfare.PublicationID, subscriber string) (d fanfare.Delivery) {
	st.t.Helper()
	number := st.count(`SELECT subscriber_number FROM subscribers WHERE external_id = $1`, subscriber)
	st.call(http.MethodGet, fmt.Sprintf("/v1/deliveries/%s.email.%d", id, number), nil, http.StatusOK, &d)
	return d
}

// TestEventsSettleDoubt cuts calls that the provider has accepted and kills
// workers, at an account that has no look-up: its events are evidence enough.
func TestEventsSettleDoubt(t *testing.T) {
	t.Parallel()
	st := start(t, setup{workers: 2, batchSize: 100, webhooks: true, env: []string{"FANFARE_DOUBT_DEADLINE=10s"}})
	st.subscribe(20_000)
	faults := sandbox.Faults{
		Seed: 3, Pace: 1000, Rules: []sandbox.Fault{{Every: 10, Action: sandbox.ActionAcceptThenClose}},
		Logs: sandbox.LogFaults{Mode: sandbox.LogsOff}, Webhooks: sandbox.WebhookFaults{Delay: sandbox.Duration(2 * time.Second), Duplicate: 0.1},
	}
	st.faults(faults)
	id := st.publish("article-1")
	st.killByTurns(id)
	faults.Pace = 0
	st.faults(faults)
	p := st.completes(id)
	require.EqualValues(t, 20_000, p.Totals.Sent+p.Totals.Delivered)
	stats := st.sandbox.Stats()
	require.EqualValues(t, 20_000, stats.Distinct)
	require.Zero(t, stats.Duplicates)
	require.Positive(t, st.count(`SELECT count(*) FROM calls WHERE evidence LIKE 'event %'`))
	// Who was sent again by policy was in a call that its worker never made: there
	// was nothing to report.
	require.Zero(t, st.verify().Duplicates)
	require.True(t, st.verify().OK)
}

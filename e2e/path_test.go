package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/sandbox"
)

// TestEveryoneAndWhy sends to an audience in which everything occurs that keeps
// people from being sent to, and counts each of them.
func TestEveryoneAndWhy(t *testing.T) {
	t.Parallel()
	st := start(t, setup{workers: 1, batchSize: 300})
	st.subscribe(1000)
	st.importLines(
		`{"id":"no-address"}`,
		`{"id":"twin-1","email":"Twin@mail.example"}`,
		`{"id":"twin-2","email":"twin@mail.example"}`,
		`{"id":"refused","email":"bad-address@mail.example"}`,
		`{"id":"left-early","email":"left-early@mail.example"}`,
		`{"id":"erased","email":"erased@mail.example"}`,
	)
	st.call(http.MethodDelete, "/v1/topics/writer-1/subscribers/left-early", nil, http.StatusNoContent, nil)
	later := st.publishWith(map[string]any{"key": "later", "topic": "writer-1", "scheduled_at": soon(), "content": content("later")})
	require.EqualValues(t, 1005, st.publication(later).Totals.Intended, "who left before is not in the audience")
	st.call(http.MethodDelete, "/v1/subscribers/erased", nil, http.StatusNoContent, nil)
	st.call(http.MethodDelete, "/v1/topics/writer-1/subscribers/reader-7", nil, http.StatusNoContent, nil)

	p := st.completes(later)
	require.Equal(t, fanfare.CompletedWithFailures, p.State)
	require.Equal(t, fanfare.Totals{Intended: 1005, Sent: 1000, Failed: 1, Skipped: 4}, p.Totals)
	require.Equal(t, map[string]int64{
		fanfare.ReasonNoAddress: 1, fanfare.ReasonDuplicateAddress: 1, fanfare.ReasonErased: 1, fanfare.ReasonUnsubscribed: 1,
	}, p.SkippedByReason)
	require.Equal(t, map[string]int64{"sendgrid:400": 1}, p.FailedByCode)

	stats := st.sandbox.Stats()
	require.EqualValues(t, 1000, stats.Distinct)
	require.Zero(t, stats.Duplicates)
	require.LessOrEqual(t, stats.Calls, int64(4+1), "a named offender costs its neighbours one call")
	require.True(t, st.verify().OK)

	all := st.deliveries(later, "")
	require.Len(t, all, 1005)
	failed := st.deliveries(later, "failed")
	require.Len(t, failed, 1)
	require.EqualValues(t, "refused", failed[0].Subscriber)
	var d fanfare.Delivery
	st.call(http.MethodGet, "/v1/deliveries/"+failed[0].ID, nil, http.StatusOK, &d)
	require.Equal(t, "sendgrid:400", d.Code)
	require.Len(t, d.Attempts, 1)
	require.Equal(t, "rejected", d.Attempts[0].Outcome)
}

// TestAcceptedWithTemporalDown answers 202 while Temporal is away, and sends
// when it is back.
func TestAcceptedWithTemporalDown(t *testing.T) {
	t.Parallel()
	st := start(t, setup{workers: 1})
	st.subscribe(100)
	st.stopTemporal()
	id := st.publish("article-1")
	require.Equal(t, id, st.publish("article-1"))
	require.Equal(t, fanfare.Accepted, st.publication(id).State)
	st.startTemporalAgain()
	require.Equal(t, fanfare.Totals{Intended: 100, Sent: 100}, st.completes(id).Totals)
	require.Zero(t, st.sandbox.Stats().Duplicates)
}

// TestEmptyTopic completes at once with nobody in it.
func TestEmptyTopic(t *testing.T) {
	t.Parallel()
	st := start(t, setup{workers: 1})
	st.call(http.MethodPut, "/v1/topics/writer-1", map[string]any{"name": "Writer One"}, http.StatusCreated, nil)
	p := st.completes(st.publish("article-1"))
	require.Equal(t, fanfare.Completed, p.State)
	require.Zero(t, p.Totals)
}

// TestProviderAwayAndBack costs nobody an attempt: when the provider is back
// everyone is sent to, once.
func TestProviderAwayAndBack(t *testing.T) {
	t.Parallel()
	st := start(t, setup{workers: 2, batchSize: 500})
	st.subscribe(5000)
	st.faults(sandbox.Faults{Down: map[string]string{"sendgrid": sandbox.DownUnavailable}})
	id := st.publish("article-1")
	require.Eventually(t, func() bool { return st.sandbox.Stats().Calls >= 10 }, patience, tick)
	st.faults(sandbox.Faults{})
	p := st.completes(id)
	require.Equal(t, fanfare.Completed, p.State)
	require.Equal(t, fanfare.Totals{Intended: 5000, Sent: 5000}, p.Totals)
	require.Zero(t, st.sandbox.Stats().Duplicates)
	require.True(t, st.verify().OK)
}

// TestAmbiguousAnswersAreSettledByEvidence cuts calls that the provider has
// accepted, with the look-up lagging behind.
func TestAmbiguousAnswersAreSettledByEvidence(t *testing.T) {
	t.Parallel()
	st := start(t, setup{workers: 2, batchSize: 500})
	st.subscribe(5000)
	st.faults(sandbox.Faults{
		Seed:  1,
		Rules: []sandbox.Fault{{Every: 3, Action: sandbox.ActionAcceptThenClose}, {Every: 4, Action: sandbox.ActionTruncate}},
		Logs:  sandbox.LogFaults{Lag: sandbox.Duration(second)},
	})
	p := st.completes(st.publish("article-1"))
	require.Equal(t, fanfare.Totals{Intended: 5000, Sent: 5000}, p.Totals)
	stats := st.sandbox.Stats()
	require.Positive(t, stats.FaultsApplied)
	require.EqualValues(t, 5000, stats.Distinct)
	require.Zero(t, stats.Duplicates)
	require.True(t, st.verify().OK)
}

// TestUnsubscribeDuringFanOut is honoured for who was not claimed yet, through
// the link of an earlier mail.
func TestUnsubscribeDuringFanOut(t *testing.T) {
	t.Parallel()
	st := start(t, setup{workers: 1, batchSize: 100})
	st.subscribe(3000)
	st.completes(st.publish("article-1"))
	mail := st.sandbox.Messages("", "reader-3000@mail.example", 1)
	require.Len(t, mail, 1)
	link := strings.Trim(mail[0].Headers["List-Unsubscribe"], "<>")
	require.Equal(t, "List-Unsubscribe=One-Click", mail[0].Headers["List-Unsubscribe-Post"])
	require.Contains(t, mail[0].HTML, link)
	require.Contains(t, mail[0].Text, link)

	st.faults(sandbox.Faults{Pace: 500})
	second := st.publish("article-2")
	st.reaches(second, "it has begun", func(p fanfare.Publication) bool { return p.Totals.Sending > 0 })
	path := strings.TrimPrefix(link, st.api)
	st.get(path, http.StatusOK)
	st.oneClick(path)
	st.oneClick(path)
	st.faults(sandbox.Faults{})
	p := st.completes(second)
	require.Equal(t, fanfare.Totals{Intended: 3000, Sent: 2999, Skipped: 1}, p.Totals)
	require.Equal(t, map[string]int64{fanfare.ReasonUnsubscribed: 1}, p.SkippedByReason)
	require.EqualValues(t, 2999, st.completes(st.publish("article-3")).Totals.Intended)
	require.Len(t, st.sandbox.Messages("", "reader-3000@mail.example", 10), 1)
}

// TestSameKeyManyTimes makes one publication of 100 requests at once.
func TestSameKeyManyTimes(t *testing.T) {
	t.Parallel()
	st := start(t, setup{workers: 1})
	st.subscribe(50)
	ids := make(chan fanfare.PublicationID, 100)
	for range cap(ids) {
		go func() { ids <- st.publish("article-1") }()
	}
	first := <-ids
	for range cap(ids) - 1 {
		require.Equal(t, first, <-ids)
	}
	require.EqualValues(t, 50, st.completes(first).Totals.Sent)
	st.call(http.MethodPost, "/v1/publications", map[string]any{"key": "article-1", "topic": "writer-1", "content": content("another")}, http.StatusConflict, nil)
	require.EqualValues(t, 50, st.sandbox.Stats().Messages)
}

func content(key string) map[string]any {
	return map[string]any{"title": "Article " + key, "url": fmt.Sprintf("https://blog.example/%s", key), "summary": "What it is about."}
}

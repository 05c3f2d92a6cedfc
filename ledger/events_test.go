package ledger_test

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
)

// An hour ago: providers' times have whole seconds.
var anHourAgo = time.Now().Add(-time.Hour).Truncate(time.Second)

// event is what a webhook says of one delivery.
func event(kind fanfare.EventType, ref fanfare.BatchRef, number int, call fanfare.CallID) fanfare.ProviderEvent {
	e := fanfare.ProviderEvent{
		Provider: "sendgrid", Type: kind, At: anHourAgo, Call: call, ProviderID: "m-1", Address: person(number).Email,
		Delivery: fanfare.DeliveryID{Publication: ref.Publication, Channel: ref.Channel, Number: fanfare.SubscriberNumber(number)},
	}
	if kind == fanfare.EventBounced {
		e.Code, e.Permanent = "5.1.1", true
	}
	return digested(e)
}

func digested(e fanfare.ProviderEvent) fanfare.ProviderEvent {
	e.Digest = [32]byte{}
	e.Digest = sha256.Sum256(fmt.Append(nil, e))
	return e
}

// take takes events in, as one webhook.
func (w *world) take(events ...fanfare.ProviderEvent) {
	w.t.Helper()
	require.NoError(w.t, w.TakeEvents(w.t.Context(), events))
}

// apply applies all that was taken in and returns how many that were.
func (w *world) apply() int {
	w.t.Helper()
	n, err := w.ApplyEvents(w.t.Context(), 5000)
	require.NoError(w.t, err)
	return n
}

// report takes events in and applies them.
func (w *world) report(events ...fanfare.ProviderEvent) {
	w.t.Helper()
	w.take(events...)
	require.Equal(w.t, len(events), w.apply())
}

// sentTo is a publication that was sent to the n subscribers.
func (w *world) sentTo(n int) (fanfare.BatchRef, fanfare.CallID) {
	w.t.Helper()
	w.subscribed(n)
	ref := w.running("article-1", n)
	c := w.claimNew(ref, n)
	w.settle(ref, c.Call, fanfare.OutcomeAccepted)
	return ref, c.Call
}

// BenchmarkEvents takes in and applies two events for each of b.N deliveries,
// shuffled, as webhooks of 1,000 each.
func BenchmarkEvents(b *testing.B) {
	w := newWorld(b)
	w.subscribed(b.N)
	ref := w.running("article-1", benchBatch)
	w.sendAll(ref, benchChunk)
	calls := map[int]fanfare.CallID{}
	rows, err := w.db.Query(b.Context(), `SELECT subscriber_number, call_id::text FROM deliveries`)
	require.NoError(b, err)
	for rows.Next() {
		var n int
		var call fanfare.CallID
		require.NoError(b, rows.Scan(&n, &call))
		calls[n] = call
	}
	require.NoError(b, rows.Err())
	events := make([]fanfare.ProviderEvent, 0, 2*b.N)
	for n := 1; n <= b.N; n++ {
		last := fanfare.EventDelivered
		if n%50 == 0 {
			last = fanfare.EventBounced
		}
		events = append(events, event(fanfare.EventProcessed, ref, n, calls[n]), event(last, ref, n, calls[n]))
	}
	rand.Shuffle(len(events), func(i, j int) { events[i], events[j] = events[j], events[i] })
	b.ResetTimer()
	for i := 0; i < len(events); i += 1000 {
		w.take(events[i:min(i+1000, len(events))]...)
	}
	taken := b.Elapsed()
	for {
		n, err := w.ApplyEvents(b.Context(), 5000)
		require.NoError(b, err)
		if n < 5000 {
			break
		}
	}
	b.ReportMetric(float64(len(events))/taken.Seconds(), "taken/s")
	b.ReportMetric(float64(len(events))/(b.Elapsed()-taken).Seconds(), "applied/s")
	b.ReportMetric(float64(len(events))/b.Elapsed().Seconds(), "both/s")
	b.StopTimer()
	require.EqualValues(b, b.N/50, w.publication(ref.Publication).Totals.Failed)
	w.balanced()
}

func TestEventsMoveTheirDeliveries(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref, call := w.sentTo(3)
	w.report(event(fanfare.EventProcessed, ref, 1, call), event(fanfare.EventBounced, ref, 2, call), event(fanfare.EventDelivered, ref, 3, call))
	require.Equal(t, "sent", w.state(ref, 1))
	require.Equal(t, "failed sendgrid:5.1.1", w.state(ref, 2))
	require.Equal(t, "delivered", w.state(ref, 3))
	w.balanced()
}

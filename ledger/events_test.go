package ledger_test

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
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

// applyAll applies until there is nothing left that can be.
func (w *world) applyAll() {
	w.t.Helper()
	for more := true; more; {
		more = w.apply() > 0
	}
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

// kept counts rows of one of the tables of events.
func (w *world) kept(table string) int {
	w.t.Helper()
	return one[int](w, `SELECT count(*) FROM `+table)
}

func (w *world) delivery(ref fanfare.BatchRef, number int) fanfare.Delivery {
	w.t.Helper()
	d, err := w.Delivery(w.t.Context(), fanfare.DeliveryID{Publication: ref.Publication, Channel: ref.Channel, Number: fanfare.SubscriberNumber(number)})
	require.NoError(w.t, err)
	return d
}

// wakes counts the orders to wake a publication's workflow.
func (w *world) wakes(ref fanfare.BatchRef) int {
	w.t.Helper()
	return one[int](w, `SELECT count(*) FROM outbox WHERE publication_id = $1 AND kind = 'wake'`, ref.Publication)
}

func TestEventsMoveTheirDeliveries(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref, call := w.sentTo(9)
	for i, c := range []struct {
		kind  fanfare.EventType
		state string
	}{
		{fanfare.EventProcessed, "sent"},
		{fanfare.EventDeferred, "sent"},
		{fanfare.EventDelivered, "delivered"},
		{fanfare.EventOpened, "delivered"},
		{fanfare.EventClicked, "delivered"},
		{fanfare.EventUnsubscribed, "delivered"},
		{fanfare.EventComplained, "delivered"},
		{fanfare.EventDropped, "failed sendgrid:dropped"},
		{fanfare.EventBounced, "failed sendgrid:5.1.1"},
	} {
		w.report(event(c.kind, ref, i+1, call))
		require.Equal(t, c.state, w.state(ref, i+1), c.kind)
		require.Equal(t, string(call), w.row(ref, i+1).Call)
	}
	require.Zero(t, w.kept("event_inbox"))
	require.Equal(t, 9, w.kept("events"))
	require.Zero(t, w.wakes(ref), "nobody waited")
	require.True(t, one[bool](w, `SELECT evidence IS NULL AND code = '202' FROM calls`), "what was accepted needs no proof")
	w.balanced()
}

func TestADeliveryShowsItsEventsInOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref, call := w.sentTo(2)
	later := event(fanfare.EventOpened, ref, 1, call)
	later.At = anHourAgo.Add(time.Minute)
	w.report(later, event(fanfare.EventDelivered, ref, 1, call), event(fanfare.EventProcessed, ref, 1, call))
	require.Empty(t, cmp.Diff([]fanfare.Event{
		{Type: fanfare.EventProcessed, At: anHourAgo}, {Type: fanfare.EventDelivered, At: anHourAgo}, {Type: fanfare.EventOpened, At: later.At},
	}, w.delivery(ref, 1).Events), "those of one second in the order in which they happen")
	require.Equal(t, []fanfare.Event{}, w.delivery(ref, 2).Events)
}

func TestEventsMayBeatTheSettle(t *testing.T) {
	t.Parallel()
	for _, late := range []fanfare.OutcomeKind{fanfare.OutcomeAccepted, fanfare.OutcomeUnavailable, fanfare.OutcomeThrottled, fanfare.OutcomeAmbiguous} {
		w := newWorld(t)
		w.subscribed(3)
		ref := w.running("article-1", 3)
		call := w.claimNew(ref, 3).Call
		w.report(event(fanfare.EventDelivered, ref, 1, call), event(fanfare.EventBounced, ref, 2, call))
		w.settle(ref, call, late)
		require.Equal(t, "delivered", w.state(ref, 1), late)
		require.Equal(t, "failed sendgrid:5.1.1", w.state(ref, 2), late)
		require.Equal(t, "sent", w.state(ref, 3), "the provider took the whole call: %s", late)
		require.Equal(t, "m-1", one[string](w, `SELECT provider_id FROM calls`))
		require.Zero(t, w.wakes(ref), "the call's worker looks by itself")
		require.Zero(t, w.balanced().Duplicates)
	}
}

func TestAnEventSettlesACallInDoubt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(9)
	ref := w.running("article-1", 9)
	var calls [3]fanfare.CallID
	for i := range calls {
		calls[i] = w.claimNew(ref, 3).Call
		w.settle(ref, calls[i], fanfare.OutcomeAmbiguous)
	}
	first, second, third := calls[0], calls[1], calls[2]
	w.report(event(fanfare.EventUnsubscribed, ref, 7, third), event(fanfare.EventProcessed, ref, 2, first), event(fanfare.EventDelivered, ref, 5, second))
	require.Equal(t, []string{"sent", "sent", "sent", "sent", "delivered", "sent", "in_doubt", "in_doubt", "in_doubt"},
		all[string](w, `SELECT state::text FROM deliveries ORDER BY subscriber_number`), "to unsubscribe proves nothing about this call")
	require.Equal(t, 1, w.doubts())
	require.Equal(t, 1, w.wakes(ref), "its batches need not wait for the next look-up")
	attempts := w.delivery(ref, 1).Attempts
	require.Len(t, attempts, 1)
	require.Equal(t, "accepted", attempts[0].Outcome)
	require.Equal(t, "event processed of "+anHourAgo.UTC().Format(time.RFC3339), attempts[0].Evidence)

	w.decide(ref, first)
	require.Equal(t, "sent", w.state(ref, 2), "the policy has nothing left to decide")
	w.report(event(fanfare.EventProcessed, ref, 7, third))
	require.Equal(t, "delivered", w.state(ref, 7), "what came before the proof is not forgotten")
	require.Zero(t, w.balanced().Duplicates)
}

func TestAnEventProvesOnlyItsOwnCall(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(4)
	ref := w.running("article-1", 2)
	first := w.doubtful(ref, 2)
	ref.N = 2
	second := w.doubtful(ref, 2)
	for _, e := range []fanfare.ProviderEvent{
		event(fanfare.EventProcessed, ref, 3, first.Call),                             // of another batch
		event(fanfare.EventProcessed, ref, 4, "019a0000-0000-7000-8000-000000000000"), // of nobody
		event(fanfare.EventProcessed, ref, 4, "not an id"),                            // no id at all
		event(fanfare.EventUnsubscribed, ref, 4, second.Call),                         // proves nothing
	} {
		w.report(e)
	}
	require.Equal(t, 2, w.doubts(), "neither call is proven")
	require.Equal(t, []string{"in_doubt", "in_doubt", "sent", "delivered"},
		all[string](w, `SELECT state::text FROM deliveries ORDER BY subscriber_number`), "but these two were sent to")
	require.Equal(t, string(second.Call), w.row(ref, 3).Call)
	require.Equal(t, string(second.Call), w.row(ref, 4).Call)
	w.balanced()
}

// strongest is where events lead, whatever their order.
func strongest(from string, kinds []fanfare.EventType) string {
	switch {
	case from == "failed sendgrid:400" || from == "skipped no_address":
		return from
	case slices.Contains(kinds, fanfare.EventBounced):
		return "failed sendgrid:5.1.1"
	case slices.Contains(kinds, fanfare.EventDelivered):
		return "delivered"
	}
	return "sent"
}

func TestTheOrderOfEventsDoesNotMatter(t *testing.T) {
	t.Parallel()
	starts := []string{"sent", "in_doubt", "sending", "pending", "dead doubt_held", "failed sendgrid:400", "skipped no_address"}
	for _, kinds := range [][]fanfare.EventType{
		{fanfare.EventProcessed, fanfare.EventDeferred, fanfare.EventDelivered, fanfare.EventBounced, fanfare.EventOpened},
		{fanfare.EventProcessed, fanfare.EventDeferred, fanfare.EventDelivered, fanfare.EventOpened},
		{fanfare.EventProcessed, fanfare.EventDeferred},
		{fanfare.EventProcessed, fanfare.EventUnsubscribed, fanfare.EventDelivered},
	} {
		t.Run(fmt.Sprint(kinds), func(t *testing.T) {
			t.Parallel()
			orders := permutations(kinds)
			// Half of them get their events one by one, half all at once.
			each := 2 * len(orders)
			w := newWorld(t)
			w.topic("writer-1")
			w.imported(1, len(starts)*each, func(i int) fanfare.Subscriber {
				p := person(i)
				if i > (len(starts)-1)*each {
					p.Email = ""
				}
				return p
			})
			ref := w.running("article-1", len(starts)*each)
			var calls []fanfare.CallID
			for _, start := range starts {
				calls = append(calls, w.begin(ref, start, each))
			}
			number := func(start, order int, atOnce bool) int {
				n := start*each + 2*order + 1
				if atOnce {
					n++
				}
				return n
			}
			for step := range kinds {
				var events []fanfare.ProviderEvent
				for start := range starts {
					for i, order := range orders {
						events = append(events, event(order[step], ref, number(start, i, false), calls[start]))
						for _, kind := range order[:len(order)*(1-min(step, 1))] { // in the first step
							events = append(events, event(kind, ref, number(start, i, true), calls[start]))
						}
					}
				}
				w.take(events...)
				w.applyAll()
			}
			for s, start := range starts {
				for i, order := range orders {
					for _, atOnce := range []bool{false, true} {
						require.Equal(t, strongest(start, kinds), w.state(ref, number(s, i, atOnce)), "from %s by %v, at once: %t", start, order, atOnce)
					}
				}
			}
			require.Zero(t, w.kept("event_inbox"))
			require.Equal(t, len(starts)*each*len(kinds), w.kept("events"))
			w.balanced()
		})
	}
}

// begin brings the next n recipients of a batch to a state.
func (w *world) begin(ref fanfare.BatchRef, state string, n int) fanfare.CallID {
	w.t.Helper()
	if state == "skipped no_address" {
		require.Empty(w.t, w.claimNew(ref, n).Recipients)
		return ""
	}
	if state == "in_doubt" {
		return w.doubtful(ref, n).Call
	}
	call := w.claimNew(ref, n).Call
	switch state {
	case "sent":
		w.settle(ref, call, fanfare.OutcomeAccepted)
	case "pending":
		w.settle(ref, call, fanfare.OutcomeUnavailable)
	case "failed sendgrid:400":
		w.settle(ref, call, fanfare.OutcomeRejected)
	case "dead doubt_held":
		w.settle(ref, call, fanfare.OutcomeAmbiguous)
		w.exec(`UPDATE deliveries SET resends = 1 WHERE call_id = $1`, call)
		w.decide(ref, call)
	}
	numbers := all[int](w, `SELECT subscriber_number FROM deliveries WHERE call_id = $1`, call)
	require.Len(w.t, numbers, n)
	require.Equal(w.t, state, w.state(ref, numbers[0]))
	return call
}

func permutations[T any](list []T) [][]T {
	if len(list) == 0 {
		return [][]T{nil}
	}
	var orders [][]T
	for i := range list {
		for _, rest := range permutations(slices.Concat(list[:i], list[i+1:])) {
			orders = append(orders, append([]T{list[i]}, rest...))
		}
	}
	return orders
}

func TestAnEventThatComesAgainHasOneEffect(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref, call := w.sentTo(1)
	bounce := event(fanfare.EventBounced, ref, 1, call)
	w.report(bounce, bounce)
	w.report(bounce)
	require.Equal(t, 1, w.kept("events"))
	require.Equal(t, 1, w.kept("suppressions"))
	require.EqualValues(t, 1, w.publication(ref.Publication).Totals.Failed)

	w.exec(`DELETE FROM suppressions`) // somebody knows better
	w.report(bounce)
	require.Zero(t, w.kept("suppressions"), "an old bounce says nothing new")
	w.balanced()
}

func TestEventsForNobodyAreKeptAndCounted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref, call := w.sentTo(1)
	elsewhere := ref
	elsewhere.Publication = "019a0000-0000-7000-8000-000000000000" // October 2025: its partition is gone
	unknown := ref
	unknown.Publication = fanfare.PublicationID(one[string](w, `SELECT uuid_v7()::text`))
	sms := ref
	sms.Channel = fanfare.SMS
	pigeon := ref
	pigeon.Channel = "pigeon"
	nameless := digested(fanfare.ProviderEvent{Provider: "twilio", Type: fanfare.EventComplained, At: anHourAgo, Address: "a@mail.example"})
	w.report(
		nameless, nameless,
		event(fanfare.EventBounced, pigeon, 1, call),
		event(fanfare.EventBounced, elsewhere, 1, call),
		event(fanfare.EventBounced, unknown, 1, call),
		event(fanfare.EventBounced, sms, 1, call),
		event(fanfare.EventBounced, ref, 2, call),
		event(fanfare.EventBounced, ref, 0, call),
	)
	w.report(nameless)
	require.Equal(t, []string{"sendgrid names an unknown delivery 5", "sendgrid names no delivery 1", "twilio names no delivery 1"},
		all[string](w, `SELECT concat_ws(' ', provider, why, count(*)) FROM stray_events GROUP BY provider, why ORDER BY 1`))
	require.Zero(t, w.kept("events"))
	require.Zero(t, w.kept("suppressions"), "strangers suppress nobody")
	require.Zero(t, w.kept("event_inbox"))
	require.Equal(t, "sent", w.state(ref, 1))
	w.balanced()
}

func TestHardBouncesAndComplaintsSuppressTheAddress(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref, call := w.sentTo(5)
	blocked := event(fanfare.EventBounced, ref, 3, call)
	blocked.Permanent = false
	shouted := event(fanfare.EventComplained, ref, 2, call)
	shouted.Address = "READER-2@Mail.Example"
	nameless := event(fanfare.EventBounced, ref, 4, call)
	nameless.Address = ""
	w.report(event(fanfare.EventBounced, ref, 1, call), digested(shouted), digested(blocked), digested(nameless), event(fanfare.EventDropped, ref, 5, call))
	require.Equal(t, []string{"email bounced", "email complained"}, all[string](w, `SELECT channel || ' ' || reason FROM suppressions ORDER BY 1`))

	next := w.running("article-2", 10)
	require.Equal(t, []int{3, 4, 5}, numbers(w.claimNew(next, 10)))
	require.Equal(t, "skipped suppressed", w.state(next, 1))
	require.Equal(t, "skipped suppressed", w.state(next, 2))
	w.balanced()
}

func TestALateBounceIsAFailureOfACompletedPublication(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref, call := w.sentTo(3)
	done := w.finish(ref.Publication)
	require.Equal(t, fanfare.Completed, done.State)
	w.report(event(fanfare.EventDelivered, ref, 1, call), event(fanfare.EventComplained, ref, 2, call))
	require.Equal(t, fanfare.Completed, w.publication(ref.Publication).State)
	w.report(event(fanfare.EventBounced, ref, 3, call))
	late := w.publication(ref.Publication)
	require.Equal(t, fanfare.CompletedWithFailures, late.State)
	require.Equal(t, done.FinishedAt, late.FinishedAt)
	require.Equal(t, fanfare.Totals{Intended: 3, Delivered: 2, Failed: 1}, late.Totals)
	require.Equal(t, map[string]int64{"sendgrid:5.1.1": 1}, late.FailedByCode)
	require.Zero(t, w.wakes(ref), "there is nobody to wake")
	w.balanced()
}

func TestALateBounceLeavesAStoppedPublicationStopped(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(2)
	ref := w.running("article-1", 2)
	call := w.claimNew(ref, 1).Call
	w.settle(ref, call, fanfare.OutcomeAccepted)
	w.exec(`UPDATE publications SET state = 'expired', stopped_at = now()`)
	w.report(event(fanfare.EventBounced, ref, 1, call))
	require.Equal(t, fanfare.Expired, w.publication(ref.Publication).State)
}

func TestALateBounceAndTheFinishDoNotMissEachOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(1)
	for i := range 30 {
		ref := w.running(fmt.Sprint("article-", i), 1)
		call := w.claimNew(ref, 1).Call
		w.settle(ref, call, fanfare.OutcomeAccepted)
		blocked := event(fanfare.EventBounced, ref, 1, call)
		blocked.Permanent, blocked.Address = false, "" // three would suppress the address
		w.take(digested(blocked))
		atOnce(t, 2, func(i int) (err error) {
			if i == 0 {
				_, err = w.Finish(t.Context(), ref.Publication)
			} else {
				_, err = w.ApplyEvents(t.Context(), 10)
			}
			return err
		})
		require.Equal(t, fanfare.CompletedWithFailures, w.publication(ref.Publication).State)
		w.exec(`DELETE FROM suppressions`) // three such bounces suppress
	}
	w.balanced()
}

func TestALateBounceWaitsForAFinishUnderWay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref, call := w.sentTo(1)
	w.take(event(fanfare.EventBounced, ref, 1, call))
	release := w.hold(`SELECT FROM publications WHERE publication_id = $1 FOR UPDATE`, ref.Publication)
	done := make(chan error)
	go func() {
		_, err := w.ApplyEvents(t.Context(), 10)
		done <- err
	}()
	w.waitingFor(1)
	release()
	require.NoError(t, <-done)
	require.Equal(t, "failed sendgrid:5.1.1", w.state(ref, 1))
}

func TestEventsKeepNothingPersonal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref, call := w.sentTo(2)
	require.NoError(t, w.EraseSubscriber(t.Context(), reader(1)))
	stranger := event(fanfare.EventDelivered, ref, 99, call)
	w.take(event(fanfare.EventBounced, ref, 1, call), event(fanfare.EventOpened, ref, 2, call), stranger)
	personal := func(table string) int {
		return one[int](w, `SELECT count(*) FROM `+table+` x WHERE to_jsonb(x)::text ILIKE '%mail.example%' OR to_jsonb(x)::text LIKE '%reader%'`)
	}
	require.Zero(t, personal("event_inbox"))
	require.Equal(t, 3, w.apply())
	for _, table := range []string{"events", "stray_events", "suppressions"} {
		require.Zero(t, personal(table), table)
		require.NotZero(t, w.kept(table), table)
	}
	d := w.delivery(ref, 1)
	require.Equal(t, fanfare.Failed, d.State, "the books of who was erased go on")
	require.Len(t, d.Events, 1)
	require.Empty(t, d.Subscriber)
	w.balanced()
}

// Somebody in doubt was sent to again; the first call's event comes while the
// second is under way, and the second turns out not to have been accepted.
func TestProofOfAnEarlierCallWaitsForTheOneUnderWay(t *testing.T) {
	t.Parallel()
	for name, call := range map[string]func(first fanfare.CallID) fanfare.CallID{
		"named":   func(first fanfare.CallID) fanfare.CallID { return first },
		"unnamed": func(fanfare.CallID) fanfare.CallID { return "" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.subscribed(2)
			ref := w.running("article-1", 2)
			first := w.doubtful(ref, 1).Call
			w.decide(ref, first)
			second := w.claimDue(ref, 1).Call
			other := w.claimNew(ref, 1).Call
			w.take(event(fanfare.EventDelivered, ref, 1, call(first)), event(fanfare.EventDelivered, ref, 2, other))
			require.Equal(t, 1, w.apply(), "the other's is applied")
			require.Zero(t, w.apply())
			require.Equal(t, "sending", w.state(ref, 1))
			require.Equal(t, 1, w.kept("event_inbox"))

			w.settle(ref, second, fanfare.OutcomeUnavailable)
			require.Equal(t, 1, w.apply())
			require.Equal(t, "delivered", w.state(ref, 1))
			if name == "named" {
				require.Equal(t, string(first), w.row(ref, 1).Call)
			}
			require.Empty(t, w.claimDue(ref, 1).Recipients, "nobody is sent to again who was sent to")
			require.Equal(t, 1, w.wakes(ref))
			require.Zero(t, w.balanced().Duplicates)
		})
	}
}

func TestWhatAProviderWritesCannotStopTheOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref, call := w.sentTo(3)
	strange := event(fanfare.EventBounced, ref, 1, call)
	strange.Code, strange.ProviderID, strange.Address = "5.1\x00.1\xff", "m\x00", "reader-1@mail.example\x00"
	long := event(fanfare.EventBounced, ref, 2, call)
	long.Code, long.ProviderID = strings.Repeat("ñ", 5000), strings.Repeat("m", 5000)
	w.report(digested(strange), digested(long), event(fanfare.EventDelivered, ref, 3, call))
	require.Equal(t, "failed sendgrid:5.1.1", w.state(ref, 1))
	require.Equal(t, "failed sendgrid:"+strings.Repeat("ñ", 100), w.state(ref, 2))
	require.Equal(t, "delivered", w.state(ref, 3))
	w.balanced()
}

func TestAWebhookIsTakenInWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref, call := w.sentTo(1)
	require.NoError(t, w.TakeEvents(t.Context(), nil))
	events := make([]fanfare.ProviderEvent, 0, 12001)
	for i := range cap(events) {
		e := event(fanfare.EventOpened, ref, 1, call)
		e.At = e.At.Add(time.Duration(i) * time.Second)
		events = append(events, digested(e))
	}
	w.take(events...)
	require.Equal(t, len(events), w.kept("event_inbox"))
	events[12000].Type = "unheard of"
	require.Error(t, w.TakeEvents(t.Context(), events))
	require.Equal(t, len(events), w.kept("event_inbox"))
	for _, want := range []int{5000, 5000, 2001, 0} {
		require.Equal(t, want, w.apply())
	}
	require.Equal(t, len(events), w.kept("events"))
}

// Calls are claimed and settled in every way, in several batches, while their
// events come in and are applied by two workers: shuffled, each twice, some before their
// call is settled.
func TestEventsUnderLoad(t *testing.T) {
	t.Parallel()
	const people, owners, appliers = 5000, 3, 2
	w := newWorld(t)
	w.subscribed(people)
	ref := w.running("article-1", 500)
	pool := &pool{random: rand.New(rand.NewPCG(1, 2))}
	var sent, done atomic.Int64
	atOnce(t, owners+1+appliers, func(i int) error {
		switch {
		case i < owners:
			defer sent.Add(1)
			return w.sendWithEvents(ref, i, owners, pool)
		case i == owners:
			defer done.Add(1)
			for {
				last := sent.Load() == owners
				events := pool.draw(last)
				if len(events) == 0 && last {
					return nil
				}
				if err := w.TakeEvents(t.Context(), events); err != nil {
					return err
				}
			}
		}
		for {
			last := done.Load() == 1
			if n, err := w.ApplyEvents(t.Context(), 700); err != nil || last && n == 0 {
				return err
			}
		}
	})
	w.applyAll()
	require.Zero(t, w.kept("event_inbox"))
	require.Equal(t, 2*people, w.kept("events"))
	require.Zero(t, one[int](w, `SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()`))
	for n := 1; n <= people; n++ {
		require.Equal(t, strongest("sending", fates(n)), w.state(ref, n), "reader %d", n)
	}
	require.Zero(t, w.doubts())
	require.Equal(t, fanfare.CompletedWithFailures, w.finish(ref.Publication).State)
	require.Zero(t, w.balanced().Duplicates)
}

// fates are what becomes of the mail to reader n.
func fates(n int) []fanfare.EventType {
	switch n % 10 {
	case 0:
		return []fanfare.EventType{fanfare.EventProcessed, fanfare.EventBounced}
	case 1:
		return []fanfare.EventType{fanfare.EventProcessed, fanfare.EventDeferred}
	}
	return []fanfare.EventType{fanfare.EventProcessed, fanfare.EventDelivered}
}

// pool is events on their way here.
type pool struct {
	mu     sync.Mutex
	events []fanfare.ProviderEvent
	random *rand.Rand
}

func (p *pool) add(events ...fanfare.ProviderEvent) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.events = append(p.events, events...)
}

// draw takes half of what there is, or all.
func (p *pool) draw(everything bool) []fanfare.ProviderEvent {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.random.Shuffle(len(p.events), func(i, j int) { p.events[i], p.events[j] = p.events[j], p.events[i] })
	n := len(p.events) / 2
	if everything {
		n = 0
	}
	drawn := slices.Clone(p.events[n:])
	p.events = p.events[:n]
	return drawn
}

// sendWithEvents sends every owners-th batch, the first of them the batch after
// skip, and lets the provider report.
func (w *world) sendWithEvents(ref fanfare.BatchRef, skip, owners int, pool *pool) error {
	const chunk, ways = 50, 5
	ctx := w.t.Context()
	for n, way := 1+skip, 0; n <= 10; n += owners {
		ref.N = n
		for {
			c, err := tryNew(ctx, w.Ledger, ref, chunk)
			if err == nil && len(c.Recipients) == 0 {
				c, err = tryDue(ctx, w.Ledger, ref, chunk, everyone)
			}
			if err != nil {
				return err
			}
			if len(c.Recipients) == 0 {
				break
			}
			way++
			kind := []fanfare.OutcomeKind{fanfare.OutcomeUnavailable, fanfare.OutcomeAmbiguous, fanfare.OutcomeAccepted, fanfare.OutcomeAccepted, ""}[way%ways]
			report := func() {
				for _, r := range c.Recipients {
					for _, fate := range fates(int(r.Number)) {
						e := event(fate, ref, int(r.Number), c.Call)
						pool.add(e, e)
					}
				}
			}
			switch way % ways {
			case 0: // they take another call
			case 1, 2:
				defer report()
			default:
				report()
			}
			if kind == "" {
				continue // the worker dies before it settles
			}
			if err := w.Settle(ctx, ref, c.Call, result(kind)); err != nil {
				return err
			}
		}
	}
	return nil
}

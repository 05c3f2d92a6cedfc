package ledger_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	fanfare "github.com/fanfare-dev/fanfare"
)

// suppressed are the reasons of a channel's suppressions by address, of those asked for.
func (w *world) suppressed(channel fanfare.Channel, addresses ...string) map[string]fanfare.SuppressionReason {
	w.t.Helper()
	list, err := w.Suppressions(w.t.Context(), fanfare.SuppressionQuery{Channel: channel, Limit: 100})
	require.NoError(w.t, err)
	found := map[string]fanfare.SuppressionReason{}
	for _, s := range list {
		for _, address := range addresses {
			if hash := sha256.Sum256([]byte(strings.ToLower(address))); s.Hash == hex.EncodeToString(hash[:]) {
				found[address] = s.Reason
			}
		}
	}
	return found
}

// about is an event about an address alone.
func about(kind fanfare.EventType, channel fanfare.Channel, address string, at time.Time) fanfare.ProviderEvent {
	return fanfare.ProviderEvent{Provider: "twilio", Type: kind, At: at, Address: address, Channel: channel, Digest: sha256.Sum256([]byte(fmt.Sprint(kind, address, at)))}
}

func TestWhoAnswersStopIsLeftAloneUntilTheyComeBack(t *testing.T) {
	t.Parallel()
	const phone = "+34600000001"
	stop, start := fanfare.EventUnsubscribed, fanfare.EventResubscribed
	at := func(minute int) time.Time { return time.Now().Add(time.Duration(minute-60) * time.Minute) }
	for name, c := range map[string]struct {
		events []fanfare.ProviderEvent
		want   bool
	}{
		"stop":                                  {[]fanfare.ProviderEvent{about(stop, fanfare.SMS, phone, at(1))}, true},
		"stop, start":                           {[]fanfare.ProviderEvent{about(stop, fanfare.SMS, phone, at(1)), about(start, fanfare.SMS, phone, at(2))}, false},
		"stop, start, stop":                     {[]fanfare.ProviderEvent{about(stop, fanfare.SMS, phone, at(1)), about(start, fanfare.SMS, phone, at(2)), about(stop, fanfare.SMS, phone, at(3))}, true},
		"a start that comes late":               {[]fanfare.ProviderEvent{about(stop, fanfare.SMS, phone, at(3)), about(start, fanfare.SMS, phone, at(2))}, true},
		"a second stop, and a start in between": {[]fanfare.ProviderEvent{about(stop, fanfare.SMS, phone, at(1)), about(stop, fanfare.SMS, phone, at(3)), about(start, fanfare.SMS, phone, at(2))}, true},
		"a stop that comes late":                {[]fanfare.ProviderEvent{about(start, fanfare.SMS, phone, at(2)), about(stop, fanfare.SMS, phone, at(1))}, false},
		"a start on another channel":            {[]fanfare.ProviderEvent{about(stop, fanfare.SMS, phone, at(1)), about(start, fanfare.Email, phone, at(2))}, true},
		"a start of somebody else":              {[]fanfare.ProviderEvent{about(stop, fanfare.SMS, phone, at(1)), about(start, fanfare.SMS, "+34600000002", at(2))}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, every)
			for _, e := range c.events {
				require.NoError(t, w.TakeEvents(t.Context(), []fanfare.ProviderEvent{e}))
			}
			again := slices.Clone(c.events) // reports come again, in any order and company
			slices.Reverse(again)
			for _, e := range c.events {
				require.NoError(t, w.TakeEvents(t.Context(), append(again, e)))
				require.NoError(t, w.TakeEvents(t.Context(), []fanfare.ProviderEvent{e}))
			}
			if c.want {
				require.Equal(t, map[string]fanfare.SuppressionReason{phone: fanfare.SuppressedStopped}, w.suppressed(fanfare.SMS, phone))
			} else {
				require.Empty(t, w.suppressed(fanfare.SMS, phone))
			}
			require.Zero(t, one[int](w, `SELECT count(*) FROM event_inbox`), "they need no delivery, and none is looked for")
			require.Zero(t, one[int](w, `SELECT count(*) FROM stray_events`))
		})
	}
}

func TestComingBackLiftsOnlyWhatLeavingBrought(t *testing.T) {
	t.Parallel()
	w := newWorld(t, every)
	for _, reason := range []fanfare.SuppressionReason{fanfare.SuppressedBounced, fanfare.SuppressedComplained, fanfare.SuppressedManual, fanfare.SuppressedInvalid} {
		_, err := w.Suppress(t.Context(), fanfare.SMS, []fanfare.Refused{{Address: string(reason), Reason: reason}})
		require.NoError(t, err)
		require.NoError(t, w.TakeEvents(t.Context(), []fanfare.ProviderEvent{
			about(fanfare.EventUnsubscribed, fanfare.SMS, string(reason), time.Now()), about(fanfare.EventResubscribed, fanfare.SMS, string(reason), time.Now().Add(time.Hour)),
		}))
		require.Equal(t, map[string]fanfare.SuppressionReason{string(reason): reason}, w.suppressed(fanfare.SMS, string(reason)))
	}
}

// TestComingBackLiftsNothingElse: who left and is refused for another reason too stays refused.
func TestComingBackLiftsNothingElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, every)
	const phone = "+34600000001"
	require.NoError(t, w.TakeEvents(t.Context(), []fanfare.ProviderEvent{about(fanfare.EventUnsubscribed, fanfare.SMS, phone, time.Now().Add(-time.Hour))}))
	for _, want := range []fanfare.SuppressionReason{fanfare.SuppressedInvalid, fanfare.SuppressedManual} {
		created, err := w.Suppress(t.Context(), fanfare.SMS, []fanfare.Refused{{Address: phone, Reason: want}})
		require.NoError(t, err)
		require.Zero(t, created, "it was suppressed already")
	}
	require.NoError(t, w.TakeEvents(t.Context(), []fanfare.ProviderEvent{about(fanfare.EventResubscribed, fanfare.SMS, phone, time.Now())}))
	require.Equal(t, map[string]fanfare.SuppressionReason{phone: fanfare.SuppressedInvalid}, w.suppressed(fanfare.SMS, phone))
}

// TestAPersonsWordOutlivesARepeatedReport: what was lifted is not suppressed by a report that comes again.
func TestAPersonsWordOutlivesARepeatedReport(t *testing.T) {
	t.Parallel()
	w := newWorld(t, every)
	const phone = "+34600000001"
	stop := []fanfare.ProviderEvent{about(fanfare.EventUnsubscribed, fanfare.SMS, phone, time.Now().Add(-time.Hour))}
	require.NoError(t, w.TakeEvents(t.Context(), stop))
	_, err := w.LiftSuppression(t.Context(), fanfare.SMS, phone)
	require.NoError(t, err)
	require.NoError(t, w.TakeEvents(t.Context(), stop))
	require.Empty(t, w.suppressed(fanfare.SMS, phone))
}

// TestWordsOfManyAtOnce takes the words of some people in, from webhooks that come at
// once and each in an order of its own: the last word of each counts.
func TestWordsOfManyAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, every)
	const people, words, webhooks = 20, 6, 8
	var events []fanfare.ProviderEvent
	for n := range people {
		for word := range words + n%2 {
			kind := fanfare.EventUnsubscribed
			if word%2 == 1 {
				kind = fanfare.EventResubscribed
			}
			events = append(events, about(kind, fanfare.SMS, fmt.Sprintf("+346000000%02d", n), time.Now().Add(time.Duration(word-100)*time.Minute)))
		}
	}
	var all errgroup.Group
	for range webhooks {
		mine := slices.Clone(events)
		rand.Shuffle(len(mine), func(i, j int) { mine[i], mine[j] = mine[j], mine[i] })
		all.Go(func() error {
			for part := range slices.Chunk(mine, 7) {
				if err := w.TakeEvents(t.Context(), part); err != nil {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(t, all.Wait())
	list, err := w.Suppressions(t.Context(), fanfare.SuppressionQuery{Limit: 100})
	require.NoError(t, err)
	require.Len(t, list, people/2, "who said an odd number of words said STOP last")
}

func TestAddressEventsAreForgotten(t *testing.T) {
	t.Parallel()
	w := newWorld(t, every)
	say := func(phone string, at time.Time) {
		require.NoError(t, w.TakeEvents(t.Context(), []fanfare.ProviderEvent{about(fanfare.EventUnsubscribed, fanfare.SMS, phone, at)}))
	}
	say("+34600000001", time.Now().Add(-8*24*time.Hour))
	say("+34600000002", time.Now().Add(-6*24*time.Hour))
	say("+34600000003", time.Now())
	require.Equal(t, 2, one[int](w, `SELECT count(*) FROM address_events`))
	require.Len(t, w.suppressed(fanfare.SMS, "+34600000001", "+34600000002", "+34600000003"), 3)
}

// TestLeavingByAMessageIsTakenBack: leaving is applied with its delivery, and may be later
// than the word that takes it back.
func TestLeavingByAMessageIsTakenBack(t *testing.T) {
	t.Parallel()
	for name, backFirst := range map[string]bool{"applied before": false, "applied after": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			ref, call := w.sentTo(2)
			leaves := func(number int) fanfare.ProviderEvent {
				e := event(fanfare.EventUnsubscribed, ref, number, call)
				e.Address, e.At = person(number).Email, time.Now().Add(-time.Hour)
				return digested(e)
			}
			steps := []func(){
				func() { w.report(leaves(1), leaves(2)) },
				func() {
					back := about(fanfare.EventResubscribed, fanfare.Email, person(1).Email, time.Now().Add(-time.Minute))
					early := about(fanfare.EventResubscribed, fanfare.Email, person(2).Email, time.Now().Add(-2*time.Hour))
					require.NoError(t, w.TakeEvents(t.Context(), []fanfare.ProviderEvent{back, early}))
				},
			}
			if backFirst {
				slices.Reverse(steps)
			}
			for _, step := range steps {
				step()
			}
			require.Equal(t, map[string]fanfare.SuppressionReason{person(2).Email: fanfare.SuppressedUnsubscribed}, w.suppressed(fanfare.Email, person(1).Email, person(2).Email))
		})
	}
}

// TestWhoLeftAndComplainsStaysSuppressed for what weighs more, at once or later.
func TestWhoLeftAndComplainsStaysSuppressed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref, call := w.sentTo(2)
	says := func(kind fanfare.EventType, number int) fanfare.ProviderEvent {
		e := event(kind, ref, number, call)
		e.Address = person(number).Email
		return digested(e)
	}
	w.report(says(fanfare.EventUnsubscribed, 1), says(fanfare.EventUnsubscribed, 2), says(fanfare.EventComplained, 2))
	w.report(says(fanfare.EventComplained, 1))
	require.Equal(t, map[string]fanfare.SuppressionReason{person(1).Email: fanfare.SuppressedComplained, person(2).Email: fanfare.SuppressedComplained},
		w.suppressed(fanfare.Email, person(1).Email, person(2).Email))
}

func TestAPersonSuppressesAndLifts(t *testing.T) {
	t.Parallel()
	w := newWorld(t, every)
	created, err := w.Suppress(t.Context(), fanfare.Email, []fanfare.Refused{
		{Address: "Ada@mail.example", Reason: fanfare.SuppressedManual}, {Address: "ada@MAIL.example", Reason: fanfare.SuppressedBounced}, {Address: "bob@mail.example", Reason: fanfare.SuppressedComplained},
	})
	require.NoError(t, err)
	require.EqualValues(t, 2, created)
	created, err = w.Suppress(t.Context(), fanfare.Email, []fanfare.Refused{{Address: "bob@mail.example", Reason: fanfare.SuppressedManual}})
	require.NoError(t, err)
	require.Zero(t, created)
	require.Equal(t, fanfare.SuppressedComplained, w.suppressed(fanfare.Email, "bob@mail.example")["bob@mail.example"], "the first reason stands")
	lifted, err := w.LiftSuppression(t.Context(), fanfare.Email, "ADA@mail.example")
	require.NoError(t, err)
	require.Equal(t, fanfare.SuppressedBounced, lifted.Reason)
	_, err = w.LiftSuppression(t.Context(), fanfare.Email, "ADA@mail.example")
	require.ErrorIs(t, err, fanfare.ErrNotFound)
	found, err := w.Suppression(t.Context(), fanfare.Email, "BOB@mail.example")
	require.NoError(t, err)
	list, err := w.Suppressions(t.Context(), fanfare.SuppressionQuery{Hash: found.Hash, Limit: 10})
	require.NoError(t, err)
	require.Equal(t, []fanfare.Suppression{found}, list)
	_, err = w.Suppression(t.Context(), fanfare.SMS, "BOB@mail.example")
	require.ErrorIs(t, err, fanfare.ErrNotFound)
	require.Empty(t, w.suppressed(fanfare.SMS, "bob@mail.example"))

	var paged []fanfare.Suppression
	for i := range 7 {
		_, err := w.Suppress(t.Context(), fanfare.Push, []fanfare.Refused{{Address: fmt.Sprint("token-", i), Reason: fanfare.SuppressedManual}})
		require.NoError(t, err)
	}
	for q := (fanfare.SuppressionQuery{Limit: 3}); ; {
		page, err := w.Suppressions(t.Context(), q)
		require.NoError(t, err)
		if len(page) == 0 {
			break
		}
		paged = append(paged, page...)
		q.AfterChannel, q.AfterHash = page[len(page)-1].Channel, page[len(page)-1].Hash
	}
	whole, err := w.Suppressions(t.Context(), fanfare.SuppressionQuery{Limit: 100})
	require.NoError(t, err)
	require.Len(t, whole, 8)
	require.Empty(t, cmp.Diff(whole, paged))
}

// bounced applies a bounce of each publication given, for reader 1.
func (w *world) bounced(permanent bool, at time.Time, keys ...string) {
	w.t.Helper()
	var events []fanfare.ProviderEvent
	for _, key := range keys {
		ref := w.running(key, 10)
		w.sendAll(ref, 10)
		call := one[string](w, `SELECT call_id::text FROM deliveries WHERE publication_id = $1 AND subscriber_number = 1`, ref.Publication)
		e := event(fanfare.EventBounced, ref, 1, fanfare.CallID(call))
		e.Permanent, e.At, e.Address = permanent, at, person(1).Email
		events = append(events, e, e)
	}
	require.NoError(w.t, w.TakeEvents(w.t.Context(), events))
	for n := 1; n > 0; {
		var err error
		n, err = w.ApplyEvents(w.t.Context(), 100)
		require.NoError(w.t, err)
	}
}

func TestAnAddressThatBouncesTooOftenIsSuppressed(t *testing.T) {
	t.Parallel()
	for name, times := range map[string][][]string{"one by one": {{"c"}}, "at once": {{"a2", "b2", "c"}}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.subscribed(2)
			w.bounced(false, time.Now().Add(-31*24*time.Hour), "long-ago-1", "long-ago-2")
			w.bounced(false, time.Now().Add(-2*time.Hour), "a")
			w.bounced(false, time.Now().Add(-time.Hour), "b")
			require.Empty(t, w.suppressed(fanfare.Email, person(1).Email), "two in a month, however often they are reported")
			require.Equal(t, 2, one[int](w, `SELECT count(*) FROM soft_bounces`), "those that count no more are removed in passing")
			for _, keys := range times {
				w.bounced(false, time.Now(), keys...)
			}
			require.Equal(t, fanfare.SuppressedSoftBounces, w.suppressed(fanfare.Email, person(1).Email)[person(1).Email])
			second := w.running("next", 10)
			w.claimNew(second, 10)
			require.Equal(t, "skipped suppressed", w.state(second, 1))
			require.Equal(t, "sending", w.state(second, 2))

			_, err := w.LiftSuppression(t.Context(), fanfare.Email, person(1).Email)
			require.NoError(t, err)
			require.Equal(t, 0, one[int](w, `SELECT count(*) FROM soft_bounces`))
			w.bounced(false, time.Now(), "d", "e")
			require.Empty(t, w.suppressed(fanfare.Email, person(1).Email), "counted anew")
			w.balanced()
		})
	}
}

// TestRefusalsOfSettlesAtOnceDoNotDeadlock settles calls of two publications at once whose
// providers refuse the same addresses, in another order: somebody else is at one of them.
func TestRefusalsOfSettlesAtOnceDoNotDeadlock(t *testing.T) {
	t.Parallel()
	w := newWorld(t, every)
	w.topic("writer-1")
	w.imported(1, 3, phoned)
	var refs []fanfare.BatchRef
	var settled [][]fanfare.Settlement
	for n, order := range [][]int{{1, 2, 3}, {3, 2, 1}} {
		ref := w.runningOn(fanfare.SMS, fmt.Sprint("article-", n), fanfare.Bulk)
		calls := w.singles(ref, 3)
		all := make([]fanfare.Settlement, 3)
		for i, who := range order {
			r := result(fanfare.OutcomeRejected)
			r.Suppress = []fanfare.Refused{{Address: phoned(who).Phone, Reason: fanfare.SuppressedInvalid}}
			all[i] = fanfare.Settlement{Call: calls[who-1].ID, Result: r}
		}
		refs, settled = append(refs, ref), append(settled, all)
	}
	release := w.hold(`INSERT INTO suppressions (channel, address_hash, reason) VALUES ('sms', address_hash($1), 'manual')`, phoned(2).Phone)
	var both errgroup.Group
	for i := range refs {
		both.Go(func() error { return w.SettleAll(t.Context(), refs[i], settled[i]) })
	}
	w.waitingFor(2)
	release()
	require.NoError(t, both.Wait())
	list, err := w.Suppressions(t.Context(), fanfare.SuppressionQuery{Channel: fanfare.SMS, Limit: 10})
	require.NoError(t, err)
	require.Len(t, list, 3)
	for _, s := range list {
		require.Equal(t, "twilio", s.Provider)
	}
	w.balanced()
}

// TestADeadTokenWaitsForNobodyWhoRegistersIt: the settle holds a batch that a claim waits for,
// and whoever writes an address that turns out to be shared waits for the claim.
func TestADeadTokenWaitsForNobodyWhoRegistersIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, every)
	w.topic("writer-1")
	w.imported(1, 2, phoned)
	ref := w.runningOn(fanfare.Push, "article-1", fanfare.Bulk)
	call := w.singles(ref, 1)[0]
	token := phoned(1).Devices[0]
	refused := result(fanfare.OutcomeRejected)
	refused.Suppress = []fanfare.Refused{{Address: token.Token, Reason: fanfare.SuppressedDeadToken}}
	release := w.hold(`INSERT INTO suppressions (channel, address_hash, reason) VALUES ('push', address_hash($1), 'manual')`, token.Token)
	var all errgroup.Group
	all.Go(func() error {
		return w.SettleAll(t.Context(), ref, []fanfare.Settlement{{Call: call.ID, Result: refused}})
	})
	w.waitingFor(1)
	all.Go(func() error {
		_, err := w.ClaimNew(t.Context(), ref, fanfare.Wanted{Provider: "fcm", Limit: 1, Single: true})
		return err
	})
	w.waitingFor(2)
	all.Go(func() error {
		_, err := w.PutSubscriber(t.Context(), fanfare.Subscriber{ID: reader(3), Phone: phoned(2).Phone, Devices: []fanfare.Device{token}})
		return err
	})
	w.waitingFor(3)
	release()
	require.NoError(t, all.Wait())
	require.Equal(t, fanfare.SuppressedDeadToken, w.suppressed(fanfare.Push, token.Token)[token.Token])
	require.Equal(t, "failed twilio:400", w.state(ref, 1))
	w.balanced()
}

// TestAppliersAtOnceDoNotMissTheLastBounce applies two soft bounces of one address at once,
// neither of which sees the other: the deliveries of both are held for a moment.
func TestAppliersAtOnceDoNotMissTheLastBounce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(1)
	w.bounced(false, time.Now().Add(-time.Hour), "a")
	for _, key := range []string{"b", "c"} {
		ref := w.running(key, 10)
		w.sendAll(ref, 10)
		e := event(fanfare.EventBounced, ref, 1, "")
		e.Address, e.Permanent = person(1).Email, false
		w.take(digested(e))
	}
	release := w.hold(`SELECT FROM deliveries FOR UPDATE`)
	var both errgroup.Group
	for range 2 {
		both.Go(func() error {
			_, err := w.ApplyEvents(t.Context(), 1)
			return err
		})
	}
	w.waitingFor(2)
	release()
	require.NoError(t, both.Wait())
	require.Equal(t, 3, one[int](w, `SELECT count(*) FROM soft_bounces`))
	require.Equal(t, fanfare.SuppressedSoftBounces, w.suppressed(fanfare.Email, person(1).Email)[person(1).Email])
}

func TestLeavingAtTheProviderSuppresses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(2)
	ref := w.running("article-1", 10)
	w.sendAll(ref, 10)
	call := one[string](w, `SELECT call_id::text FROM deliveries WHERE subscriber_number = 1`)
	e := event(fanfare.EventUnsubscribed, ref, 1, fanfare.CallID(call))
	e.Address = person(1).Email
	require.NoError(t, w.TakeEvents(t.Context(), []fanfare.ProviderEvent{e}))
	_, err := w.ApplyEvents(t.Context(), 10)
	require.NoError(t, err)
	list, err := w.Suppressions(t.Context(), fanfare.SuppressionQuery{Limit: 10})
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.Equal(t, fanfare.SuppressedUnsubscribed, list[0].Reason)
	require.Equal(t, e.Provider, list[0].Provider)
	require.Equal(t, "delivered", w.state(ref, 1), "who leaves by a message has it")
}

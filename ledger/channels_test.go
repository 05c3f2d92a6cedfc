package ledger_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/ledger"
)

// every is all channels, without a default.
func every(c *ledger.Config) {
	c.Channels = []fanfare.Channel{fanfare.Email, fanfare.SMS, fanfare.Push, fanfare.InApp}
	c.DoubtPolicy = map[fanfare.Channel]ledger.Policy{fanfare.SMS: ledger.Hold, fanfare.Push: ledger.Resend}
	c.Ladder = make([]time.Duration, 2)
}

// runningOn starts a publication of a class on every channel and returns its first
// batch on one of them.
func (w *world) runningOn(channel fanfare.Channel, key string, class fanfare.Class) fanfare.BatchRef {
	w.t.Helper()
	d := draft(key)
	d.Class, d.Channels = class, []fanfare.Channel{fanfare.Email, fanfare.SMS, fanfare.Push, fanfare.InApp}
	p, err := w.Accept(w.t.Context(), d, "")
	require.NoError(w.t, err)
	require.NoError(w.t, w.Start(w.t.Context(), p.ID))
	w.planned(p.ID, 1000)
	return fanfare.BatchRef{Publication: p.ID, Channel: channel, N: 1}
}

// singles claims calls of one recipient each.
func (w *world) singles(ref fanfare.BatchRef, limit int) []fanfare.ClaimedCall {
	w.t.Helper()
	c, err := w.ClaimNew(w.t.Context(), ref, fanfare.Wanted{Provider: "twilio", Limit: limit, Single: true})
	require.NoError(w.t, err)
	for _, call := range c.Calls {
		require.Len(w.t, call.Recipients, 1)
	}
	return c.Calls
}

func (w *world) settleAll(ref fanfare.BatchRef, all ...fanfare.Settlement) fanfare.BatchTally {
	w.t.Helper()
	require.NoError(w.t, w.SettleAll(w.t.Context(), ref, all))
	return w.tally(ref)
}

func phoned(i int) fanfare.Subscriber {
	return fanfare.Subscriber{ID: reader(i), Phone: fmt.Sprintf("+346000000%02d", i), Devices: []fanfare.Device{{Token: fmt.Sprint("Token-", i), Platform: "ios"}}}
}

func TestOneMessageCallsAreSettledEachByTheirOwnEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t, every)
	w.subscribed(8)
	for i := 1; i <= 7; i++ {
		w.put(phoned(i))
	}
	ref := w.runningOn(fanfare.SMS, "article-1", "")
	calls := w.singles(ref, 64)
	require.Len(t, calls, 7)
	ids := map[fanfare.CallID]bool{}
	var settled []fanfare.Settlement
	for i, kind := range []fanfare.OutcomeKind{
		fanfare.OutcomeAccepted, fanfare.OutcomeRejected, fanfare.OutcomeThrottled, fanfare.OutcomeUnavailable, fanfare.OutcomeAmbiguous, fanfare.OutcomeReleased,
	} {
		require.Equal(t, fanfare.Claimed{Number: fanfare.SubscriberNumber(i + 1), Address: phoned(i + 1).Phone}, calls[i].Recipients[0])
		ids[calls[i].ID] = true
		r := result(kind)
		r.Outcome.Code, r.Outcome.RetryAfter = fmt.Sprint("c-", i+1), time.Duration(i)*time.Hour
		if kind == fanfare.OutcomeAccepted {
			r.ProviderID = "SM1"
		}
		settled = append(settled, fanfare.Settlement{Call: calls[i].ID, Result: r})
	}
	require.Len(t, ids, 6, "each has a call of its own")
	for range 2 { // settling again changes nothing
		tally := w.settleAll(ref, settled...)
		require.Equal(t, fanfare.Totals{Intended: 8, Pending: 3, Sending: 1, InDoubt: 1, Sent: 1, Failed: 1, Skipped: 1}, tally.Totals)
	}
	for i, want := range []string{"sent", "failed twilio:c-2", "pending", "pending", "in_doubt", "pending", "sending", "skipped no_address"} {
		require.Equal(t, want, w.state(ref, i+1))
	}
	require.Equal(t, []string{"2h", "3h", "5h"}, waits(w, ref))
	require.Equal(t, []string{string(calls[4].ID)}, all[string](w, `SELECT call_id::text FROM doubts`), "only whose call may have begun")
	require.Equal(t, 1, w.row(ref, 3).Attempts)
	require.Equal(t, 0, w.row(ref, 4).Attempts)

	free, err := w.Unattached(t.Context(), []string{"SM1", "SM2"})
	require.NoError(t, err)
	require.Equal(t, []string{"SM2"}, free)
	doubts, _, err := w.Doubts(t.Context(), ref.Publication, fanfare.SMS, 10)
	require.NoError(t, err)
	require.Len(t, doubts, 1)
	require.Equal(t, phoned(5).Phone, doubts[0].Address)
	require.Equal(t, calls[0].ID, doubts[0].Witness)
	require.Equal(t, phoned(1).Phone, doubts[0].WitnessAbout.Address)
	require.Equal(t, "SM1", doubts[0].WitnessMessage)

	// A lapse puts each of them in doubt by itself, and the policy holds that one only.
	w.age(calls[6].ID, time.Minute)
	_, err = w.DoubtLapsed(t.Context(), ref)
	require.NoError(t, err)
	require.NoError(t, w.ApplyPolicy(t.Context(), fanfare.Doubt{Ref: ref, Call: calls[6].ID}))
	require.Equal(t, "in_doubt", w.state(ref, 5))
	require.Equal(t, "dead doubt_held", w.state(ref, 7))
	w.balanced()
}

// waits are the hours that the pending wait.
func waits(w *world, ref fanfare.BatchRef) []string {
	return all[string](w, `
		SELECT round(extract(epoch FROM due_at - changed_at) / 3600) || 'h' FROM deliveries
		WHERE publication_id = $1 AND channel = $2 AND state = 'pending' ORDER BY subscriber_number`, ref.Publication, ref.Channel)
}

func TestAPushGoesToTheDevicesThatAreLeft(t *testing.T) {
	t.Parallel()
	w := newWorld(t, every)
	w.subscribed(5)
	many := phoned(1)
	many.Devices = append(many.Devices, fanfare.Device{Token: "Tablet-1"}, fanfare.Device{Token: "Watch-1", Platform: "android"})
	w.put(many)
	for i := 2; i <= 4; i++ {
		w.put(phoned(i))
	}
	stolen := phoned(4) // signs in on the phone of reader-3
	stolen.Devices = append(stolen.Devices, phoned(3).Devices...)
	w.put(stolen)
	w.exec(`INSERT INTO suppressions (channel, address_hash, reason) SELECT 'push', address_hash(token), 'dead_token' FROM unnest($1::text[]) AS t (token)`,
		[]string{"Tablet-1", "Token-2"})

	ref := w.runningOn(fanfare.Push, "article-1", "")
	calls := w.singles(ref, 64)
	got := map[fanfare.SubscriberNumber][]fanfare.Device{}
	for _, c := range calls {
		require.Empty(t, c.Recipients[0].Address)
		got[c.Recipients[0].Number] = c.Recipients[0].Devices
	}
	for _, devices := range got {
		slices.SortFunc(devices, func(a, b fanfare.Device) int { return len(a.Token) - len(b.Token) })
	}
	require.Empty(t, cmp.Diff(map[fanfare.SubscriberNumber][]fanfare.Device{
		1: {{Token: "Token-1", Platform: "ios"}, {Token: "Watch-1", Platform: "android"}},
		4: {{Token: "Token-4", Platform: "ios"}, {Token: "Token-3", Platform: "ios"}},
	}, got, cmp.Transformer("set", func(d []fanfare.Device) map[string]string {
		set := map[string]string{}
		for _, each := range d {
			set[each.Token] = each.Platform
		}
		return set
	})))
	for number, want := range map[int]string{2: "skipped suppressed", 3: "skipped no_address", 5: "skipped no_address"} {
		require.Equal(t, want, w.state(ref, number))
	}

	// What became of each device is kept, and dead ones are never used again.
	detail := []fanfare.DeviceResult{
		{Device: "aaaaaaaaaaaa", Platform: "ios", Outcome: fanfare.OutcomeRejected, Code: "UNREGISTERED"},
		{Device: "bbbbbbbbbbbb", Platform: "android", Outcome: fanfare.OutcomeAccepted, ProviderID: "p-1"},
	}
	r := result(fanfare.OutcomeAccepted)
	r.Devices, r.Suppress = detail, []fanfare.Refused{{Address: "Token-1", Reason: fanfare.SuppressedDeadToken}}
	w.settleAll(ref, fanfare.Settlement{Call: calls[0].ID, Result: r})
	d, err := w.Delivery(t.Context(), fanfare.DeliveryID{Publication: ref.Publication, Channel: fanfare.Push, Number: 1})
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(detail, d.Attempts[0].Devices))
	s, err := w.Subscriber(t.Context(), reader(1))
	require.NoError(t, err)
	require.Len(t, s.Devices, 2)
	second := w.singles(w.runningOn(fanfare.Push, "article-2", ""), 64)
	require.Equal(t, []fanfare.Device{{Token: "Watch-1", Platform: "android"}}, second[0].Recipients[0].Devices)
	w.balanced()
}

func TestTheClaimKnowsWhatPeopleWant(t *testing.T) {
	t.Parallel()
	said := []string{"nothing", "yes", "no"}
	for _, off := range []bool{false, true} {
		for _, class := range []fanfare.Class{fanfare.Bulk, fanfare.Transactional} {
			t.Run(fmt.Sprint(class, ", off by default ", off), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, every)
				const gone, stopped = 10, 11
				w.subscribed(stopped)
				for i := 1; i <= stopped; i++ {
					w.put(phoned(i))
				}
				w.exec(`UPDATE topics SET off_by_default = CASE WHEN $1 THEN '{sms}'::channel[] ELSE '{email,push}' END`, off)
				w.exec(`INSERT INTO topic_preferences VALUES ($1, 1, 'sms', true)`, gone)
				w.exec(`INSERT INTO topic_preferences VALUES ($1, 1, 'sms', true)`, stopped)
				w.exec(`INSERT INTO suppressions (channel, address_hash, reason) SELECT 'sms', address_hash($1), 'stopped'`, phoned(stopped).Phone)
				want := map[int]string{gone: "skipped unsubscribed", stopped: "skipped suppressed"}
				for i := range 9 {
					channel, topic := said[i/3], said[i%3]
					if channel != "nothing" { // and the opposite of another channel
						w.exec(`INSERT INTO channel_preferences VALUES ($1, 'sms', $2), ($1, 'email', NOT $2)`, i+1, channel == "yes")
					}
					if topic != "nothing" {
						w.exec(`INSERT INTO topic_preferences VALUES ($1, 1, 'sms', $2), ($1, 1, 'push', NOT $2)`, i+1, topic == "yes")
					}
					wanted := topic == "yes" || topic == "nothing" && !off
					want[i+1] = map[bool]string{true: "sending", false: "skipped opted_out"}[wanted && channel != "no"]
				}
				if class == fanfare.Transactional {
					for i := range gone {
						want[i+1] = "sending"
					}
				}
				ref := w.runningOn(fanfare.SMS, "article-1", class)
				w.unsubscribe(gone)
				w.singles(ref, 64)
				got := map[int]string{}
				for i := 1; i <= stopped; i++ {
					got[i] = w.state(ref, i)
				}
				require.Empty(t, cmp.Diff(want, got))
				w.balanced()
			})
		}
	}
}

func TestASharedPhoneGetsOneMessage(t *testing.T) {
	t.Parallel()
	w := newWorld(t, every)
	w.subscribed(3)
	for i := 1; i <= 3; i++ {
		s := phoned(i)
		s.Phone = phoned(1).Phone
		w.put(s)
	}
	w.exec(`INSERT INTO channel_preferences VALUES (1, 'sms', false)`)
	ref := w.runningOn(fanfare.SMS, "article-1", "")
	require.Len(t, w.singles(ref, 64), 1)
	require.Equal(t, "skipped opted_out", w.state(ref, 1))
	require.Equal(t, "sending", w.state(ref, 2), "the first who wants it")
	require.Equal(t, "skipped duplicate_address", w.state(ref, 3))
}

func TestWhoReadsAnotherLocaleGetsAnotherCall(t *testing.T) {
	t.Parallel()
	w := newWorld(t, every)
	w.subscribed(7)
	for i, locale := range []string{"es", "pt_BR", "en", "", "ES-mx", "pt-PT", "xx"} {
		s := person(i + 1)
		s.Locale = locale
		w.put(s)
	}
	ref := w.runningOn(fanfare.Email, "article-1", "")
	wanted := fanfare.Wanted{Provider: "sendgrid", Limit: 100, Locales: []string{"en", "es", "pt-br"}}
	texts := map[string]fanfare.TemplateText{"en": {}, "es": {}, "pt-br": {}}
	template := &fanfare.Template{DefaultLocale: "en", Texts: map[fanfare.Channel]map[string]fanfare.TemplateText{fanfare.Email: texts}}
	for round, claim := range []func() (fanfare.Claim, error){
		func() (fanfare.Claim, error) { return w.ClaimNew(t.Context(), ref, wanted) },
		func() (fanfare.Claim, error) { return w.ClaimDue(t.Context(), ref, wanted, everyone) },
	} {
		c, err := claim()
		require.NoError(t, err)
		got := map[string][]fanfare.SubscriberNumber{}
		for _, call := range c.Calls {
			for _, r := range call.Recipients {
				got[call.Locale] = append(got[call.Locale], r.Number)
			}
		}
		require.Empty(t, cmp.Diff(map[string][]fanfare.SubscriberNumber{"es": {1, 5}, "pt-br": {2}, "en": {3, 4, 6, 7}}, got))
		for locale, numbers := range got {
			for _, n := range numbers {
				s, err := w.Subscriber(t.Context(), reader(int(n)))
				require.NoError(t, err)
				require.Equal(t, locale, template.LocaleFor(fanfare.Email, s.Locale), "as the message is chosen elsewhere")
			}
		}
		var settled []fanfare.Settlement
		for _, call := range c.Calls {
			settled = append(settled, fanfare.Settlement{Call: call.ID, Result: result([]fanfare.OutcomeKind{fanfare.OutcomeReleased, fanfare.OutcomeAccepted}[round])})
		}
		w.settleAll(ref, settled...)
	}
	require.EqualValues(t, 7, w.publication(ref.Publication).ByChannel[fanfare.Email].Sent)
	w.balanced()
}

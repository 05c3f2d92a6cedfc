package ledger_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/ledger"
)

// canary is somebody whose every personal field holds a word that stands nowhere else.
// A device's platform says what kind of thing it is and is nobody's.
func canary() fanfare.Subscriber {
	return fanfare.Subscriber{
		ID: "Canary-reader", Email: "Canary@mail.example", Phone: "+34612345678", Locale: "x-canary", TimeZone: "Canary/Zone",
		Devices: []fanfare.Device{{Token: "Canary-token-1", Platform: "ios"}, {Token: "Canary-token-2"}}, Attributes: map[string]string{"canary": "Canary"},
	}
}

// traces are what the canary leaves, as a row written as JSON shows it: words in text and,
// in bytes, in hexadecimal; the hashes of addresses.
func traces() map[string]string {
	s := canary()
	found := map[string]string{"the word": "canary", "the phone": strings.TrimPrefix(s.Phone, "+"), "the word in bytes": hex.EncodeToString([]byte("anary"))}
	for name, address := range map[string]string{"the email's hash": s.Email, "the phone's hash": s.Phone, "a token's hash": s.Devices[0].Token} {
		sum := sha256.Sum256([]byte(strings.ToLower(address)))
		found[name] = hex.EncodeToString(sum[:])
	}
	return found
}

// whereabouts lists "table.column: trace" for every column of every table that there is.
func (w *world) whereabouts() []string {
	w.t.Helper()
	var list []string
	for _, table := range all[string](w, `
		SELECT table_name FROM information_schema.tables t WHERE table_schema = current_schema() AND table_type = 'BASE TABLE'
		  AND NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = to_regclass(quote_ident(t.table_name))) ORDER BY table_name`) {
		for name, trace := range traces() {
			for _, column := range all[string](w, fmt.Sprintf(`
				SELECT DISTINCT c.key FROM %q x CROSS JOIN LATERAL jsonb_each_text(to_jsonb(x)) c WHERE c.value ILIKE '%%' || $1 || '%%'`, table), trace) {
				list = append(list, table+"."+column+": "+name)
			}
		}
	}
	slices.Sort(list)
	return list
}

// numbered lists the tables that have rows of a number.
func (w *world) numbered(number int) []string {
	w.t.Helper()
	var list []string
	for _, table := range all[string](w, `
		SELECT table_name FROM information_schema.columns c WHERE table_schema = current_schema() AND column_name = 'subscriber_number'
		  AND NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = to_regclass(quote_ident(c.table_name))) ORDER BY table_name`) {
		if one[bool](w, fmt.Sprintf(`SELECT EXISTS (SELECT FROM %q WHERE subscriber_number = $1)`, table), number) {
			list = append(list, table)
		}
	}
	return list
}

// live gives the canary, number 1, everything a subscriber can have: messages on every channel,
// a doubtful one among them, events, bounces, an inbox, preferences, and suppressions to come.
func (w *world) live() (email fanfare.BatchRef, call fanfare.CallID) {
	w.t.Helper()
	w.topic("writer-1")
	w.put(canary())
	_, err := w.Subscribe(w.t.Context(), "writer-1", canary().ID)
	require.NoError(w.t, err)
	twin := canary() // shares the email and the phone
	twin.ID, twin.Devices, twin.Locale, twin.TimeZone, twin.Attributes = "twin", nil, "", "", nil
	w.put(twin)
	_, err = w.Subscribe(w.t.Context(), "writer-1", twin.ID)
	require.NoError(w.t, err)
	w.prefer(1, fanfare.Preferences{Channels: byChannel{fanfare.Email: true}, Topics: byTopic{"writer-1": {fanfare.SMS: true}}})

	email = w.runningOn(fanfare.Email, "article-1", fanfare.Bulk)
	c := w.claimNew(email, 10)
	require.Equal(w.t, []int{1}, numbers(c), "the other has the same address")
	w.settle(email, c.Call, fanfare.OutcomeAccepted)
	sms, push, inApp := email, email, email
	sms.Channel, push.Channel, inApp.Channel = fanfare.SMS, fanfare.Push, fanfare.InApp
	texts := w.singles(sms, 10)
	require.Len(w.t, texts, 1)
	doubtful := result(fanfare.OutcomeAmbiguous)
	doubtful.Outcome.Detail = "cut"
	w.settleAll(sms, fanfare.Settlement{Call: texts[0].ID, Result: doubtful})
	pushes := w.singles(push, 10)
	require.Len(w.t, pushes, 1)
	sum := sha256.Sum256([]byte(strings.ToLower(canary().Devices[0].Token)))
	w.settleAll(push, fanfare.Settlement{Call: pushes[0].ID, Result: fanfare.Result{
		Outcome: fanfare.Outcome{Kind: fanfare.OutcomeAccepted},
		Devices: []fanfare.DeviceResult{{Device: hex.EncodeToString(sum[:6]), Platform: "ios", Outcome: fanfare.OutcomeAccepted, ProviderID: "m-2"}},
	}})
	_, _, err = w.Post(w.t.Context(), inApp, wanted(10), map[string]fanfare.Message{"": {Subject: "Hello", Text: "Tides", URL: "https://blog.example"}})
	require.NoError(w.t, err)

	w.take(fanfare.ProviderEvent{Provider: "twilio", Type: fanfare.EventResubscribed, At: time.Now(), Address: canary().Phone, Channel: fanfare.SMS})
	w.report(w.softBounce(email, c.Call, 1), w.about(fanfare.EventOpened, email, c.Call))
	w.take(w.softBounce(email, c.Call, 2), w.about(fanfare.EventClicked, email, c.Call)) // not applied yet
	return email, c.Call
}

// about is an event of the canary's email.
func (w *world) about(kind fanfare.EventType, ref fanfare.BatchRef, call fanfare.CallID) fanfare.ProviderEvent {
	e := event(kind, ref, 1, call)
	e.Address = canary().Email
	return digested(e)
}

func (w *world) softBounce(ref fanfare.BatchRef, call fanfare.CallID, n int) fanfare.ProviderEvent {
	e := w.about(fanfare.EventBounced, ref, call)
	e.Permanent, e.Code, e.At = false, "4.2.2", e.At.Add(time.Duration(n)*time.Second)
	return digested(e)
}

// TestErasureLeavesNothingPersonal looks for somebody in every column of every table before
// they are erased and after. Before, the list is whole: a new column that keeps something
// of them shows there first, and says with its name that this test knows it.
func TestErasureLeavesNothingPersonal(t *testing.T) {
	t.Parallel()
	w := newWorld(t, every)
	email, call := w.live()
	require.Equal(t, []string{
		"address_events.address_hash: the phone's hash",
		"devices.token: the word", "devices.token_hash: a token's hash", "event_inbox.address_hash: the email's hash",
		"shared_addresses.address_hash: the email's hash", "shared_addresses.address_hash: the phone's hash", "soft_bounces.address_hash: the email's hash",
		"subscribers.attributes: the word", "subscribers.email: the word", "subscribers.email_hash: the email's hash", "subscribers.external_id: the word",
		"subscribers.locale: the word", "subscribers.phone: the phone", "subscribers.phone_hash: the phone's hash", "subscribers.time_zone: the word",
	}, w.whereabouts())
	require.Equal(t, []string{
		"attempts", "attention", "channel_preferences", "deliveries", "devices", "event_inbox", "events", "inbox_items", "inboxes",
		"preference_changes", "shared_addresses", "soft_bounces", "subscribers", "subscriptions", "topic_preferences",
	}, w.numbered(1), "every table that can have rows of a subscriber")

	require.NoError(t, w.EraseSubscriber(t.Context(), "twin"))
	require.NoError(t, w.EraseSubscriber(t.Context(), canary().ID))
	w.applyAll()
	require.Empty(t, w.whereabouts())
	require.Equal(t, []string{"attempts", "attention", "deliveries", "events", "inboxes", "subscribers", "subscriptions"}, w.numbered(1),
		"what the books are made of, and that the inbox is closed")
	w.balanced()

	// What comes later brings nothing back but the suppression of an address.
	bounce := w.about(fanfare.EventBounced, email, call)
	w.report(w.softBounce(email, call, 3), bounce)
	_, err := w.Suppress(t.Context(), fanfare.SMS, []fanfare.Refused{{Address: canary().Phone, Reason: fanfare.SuppressedManual}})
	require.NoError(t, err)
	require.Equal(t, []string{"suppressions.address_hash: the email's hash", "suppressions.address_hash: the phone's hash"}, w.whereabouts())
	w.balanced()

	w.put(canary())
	number, err := w.SubscriberNumber(t.Context(), canary().ID)
	require.NoError(t, err)
	require.EqualValues(t, 3, number, "who comes back is somebody new")
	standing, err := w.Preferences(t.Context(), number)
	require.NoError(t, err)
	require.Empty(t, standing.Channels)
	require.Empty(t, w.changes(1))
}

// TestErasureKeepsWhatOthersNeed erases one of two who share an address: whose turn it was
// is not forgotten as long as the other is there, who is not sent to a second time.
func TestErasureKeepsWhatOthersNeed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.topic("writer-1")
	w.imported(1, 2, sharer)
	ref := w.running("article-1", 10)
	first := w.claimNew(ref, 1)
	require.Equal(t, []int{1}, numbers(first))
	w.settle(ref, first.Call, fanfare.OutcomeAccepted)
	w.report(w.sharedBounce(ref, first.Call))
	require.NoError(t, w.EraseSubscriber(t.Context(), reader(1)))
	require.Empty(t, w.claimNew(ref, 1).Recipients)
	require.Equal(t, "skipped duplicate_address", w.state(ref, 2))
	require.Zero(t, one[int](w, `SELECT count(*) FROM soft_bounces`), "a bounce is its reader's own")
	require.Equal(t, 1, one[int](w, `SELECT count(*) FROM shared_addresses`))
	require.NoError(t, w.EraseSubscriber(t.Context(), reader(2)))
	require.Zero(t, one[int](w, `SELECT count(*) FROM shared_addresses`), "nobody has it any more")
	w.balanced()
}

// TestErasureForgetsFormerAddresses: of an address that somebody had before, too, nothing is
// said under their number; whose turn it was is forgotten when it is no question any more.
func TestErasureForgetsFormerAddresses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.topic("writer-1")
	w.imported(1, 2, sharer)
	ref := w.running("article-1", 10)
	first := w.claimNew(ref, 1)
	w.settle(ref, first.Call, fanfare.OutcomeAccepted)
	w.report(w.sharedBounce(ref, first.Call))
	for i := 1; i <= 2; i++ {
		w.put(person(i))
	}
	require.NoError(t, w.EraseSubscriber(t.Context(), reader(1)))
	require.Zero(t, one[int](w, `SELECT count(*) FROM soft_bounces`))
	require.Equal(t, 1, one[int](w, `SELECT count(*) FROM shared_addresses`), "the publication runs")
	w.sendAll(ref, 10)
	require.NotNil(t, w.finish(ref.Publication).FinishedAt)
	require.Zero(t, one[int](w, `SELECT count(*) FROM shared_addresses`))
	w.balanced()
}

// TestWhoSharesAnAddressIsNotSentToAfterTheEnd: whose turn it was is forgotten then, and who
// is taken back must not be sent to beside one who was.
func TestWhoSharesAnAddressIsNotSentToAfterTheEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(cfg *ledger.Config) { cfg.Ladder = nil })
	w.topic("writer-1")
	for i := 1; i <= 2; i++ {
		w.put(person(i))
		w.subscribe(i)
	}
	ref := w.running("article-1", 10)
	c := w.claimNew(ref, 1)
	w.settle(ref, c.Call, fanfare.OutcomeThrottled) // dead at once
	w.sendAll(ref, 10)
	require.NotNil(t, w.finish(ref.Publication).FinishedAt)
	w.put(fanfare.Subscriber{ID: reader(1), Email: person(2).Email})
	n, _, err := w.Reopen(t.Context(), ref, "run-2")
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
	require.Empty(t, w.claimDue(ref, 10).Recipients)
	require.Equal(t, "skipped duplicate_address", w.state(ref, 1))
}

// sharer has the same address as every other.
func sharer(i int) fanfare.Subscriber {
	return fanfare.Subscriber{ID: reader(i), Email: "both@mail.example"}
}

func (w *world) sharedBounce(ref fanfare.BatchRef, call fanfare.CallID) fanfare.ProviderEvent {
	e := event(fanfare.EventBounced, ref, 1, call)
	e.Address, e.Permanent = "both@mail.example", false
	return digested(e)
}

// TestErasuresOfSharersAtOnce: the last one out takes the address with them, whoever it is.
func TestErasuresOfSharersAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.topic("writer-1")
	const sharers = 8
	for i := 1; i <= sharers; i++ {
		w.put(fanfare.Subscriber{ID: reader(i), Email: "all@mail.example"})
		w.subscribe(i)
	}
	ref := w.running("article-1", 10)
	require.Len(t, w.claimNew(ref, 10).Recipients, 1)
	require.Equal(t, 1, one[int](w, `SELECT count(*) FROM shared_addresses`))
	atOnce(t, sharers, func(i int) error { return w.EraseSubscriber(t.Context(), reader(i+1)) })
	require.Zero(t, one[int](w, `SELECT count(*) FROM shared_addresses`))
	w.balanced()
}

// TestErasureWhileAFanOutRuns claims from the first number up, while every third is erased
// from the last number down. Whoever was claimed first is sent to, everybody else is skipped as
// erased, and the books balance.
func TestErasureWhileAFanOutRuns(t *testing.T) {
	t.Parallel()
	const people, erasers, chunk = 600, 3, 20
	w := newWorld(t)
	w.subscribed(people)
	ref := w.running("article-1", people)
	atOnce(t, 1+erasers, func(i int) error {
		if i == erasers {
			return w.send(ref, chunk)
		}
		for n := people - 3*i; n > 0; n -= 3 * erasers {
			if err := w.EraseSubscriber(t.Context(), reader(n)); err != nil {
				return err
			}
		}
		return nil
	})
	p := w.finish(ref.Publication)
	require.Equal(t, fanfare.Completed, p.State)
	require.EqualValues(t, people, p.Totals.Sent+p.Totals.Skipped)
	require.NotZero(t, p.Totals.Skipped, "the erasures came too late")
	require.Equal(t, p.Totals.Skipped, p.SkippedByReason[fanfare.ReasonErased])
	require.Zero(t, one[int](w, `
		SELECT count(*) FROM deliveries d JOIN subscribers s USING (subscriber_number) WHERE d.state = 'skipped' AND s.erased_at IS NULL`))
	w.balanced()
	require.EqualValues(t, people-people/3, w.publication(w.running("article-2", people).Publication).Totals.Intended)
}

// TestErasureKeepsNoDoubtOpen: who was erased cannot be asked about any more, neither for
// their own call nor as the witness of another's. Both end all the same.
func TestErasureKeepsNoDoubtOpen(t *testing.T) {
	t.Parallel()
	w := newWorld(t, every)
	w.topic("writer-1")
	w.imported(1, 4, phoned)
	ref := w.runningOn(fanfare.SMS, "article-1", "")
	calls := w.singles(ref, 64)
	require.Len(t, calls, 4)
	var settled []fanfare.Settlement
	for i, kind := range []fanfare.OutcomeKind{fanfare.OutcomeAccepted, fanfare.OutcomeAmbiguous, fanfare.OutcomeAccepted, fanfare.OutcomeAmbiguous} {
		r := result(kind)
		r.ProviderID = fmt.Sprint("SM", i+1)
		settled = append(settled, fanfare.Settlement{Call: calls[i].ID, Result: r})
	}
	w.settleAll(ref, settled...)
	asked := func() (own map[fanfare.CallID]string, witnesses []string) {
		due, _, err := w.Doubts(t.Context(), ref.Publication, fanfare.SMS, 10)
		require.NoError(t, err)
		own = map[fanfare.CallID]string{}
		for _, d := range due {
			own[d.Call], witnesses = d.Address, append(witnesses, d.WitnessAbout.Address)
			require.Equal(t, d.Witness == "", d.WitnessAbout.Address == "")
		}
		return own, witnesses
	}
	second, fourth := calls[1].ID, calls[3].ID
	own, _ := asked()
	require.Equal(t, map[fanfare.CallID]string{second: phoned(2).Phone, fourth: phoned(4).Phone}, own)
	require.NoError(t, w.EraseSubscriber(t.Context(), reader(3)))
	require.NoError(t, w.EraseSubscriber(t.Context(), reader(4)))
	own, witnesses := asked()
	require.Equal(t, map[fanfare.CallID]string{second: phoned(2).Phone, fourth: ""}, own)
	require.Equal(t, []string{phoned(1).Phone, phoned(1).Phone}, witnesses, "who is there bears witness")
	require.NoError(t, w.EraseSubscriber(t.Context(), reader(1)))
	_, witnesses = asked()
	require.Equal(t, []string{"", ""}, witnesses)
	for _, call := range []fanfare.CallID{second, fourth} {
		require.NoError(t, w.ApplyPolicy(t.Context(), fanfare.Doubt{Ref: ref, Call: call}))
	}
	require.Equal(t, "dead doubt_held", w.state(ref, 4))
	replay, err := w.AcceptReplay(t.Context(), fanfare.ReplayFilter{Publication: string(ref.Publication), Reason: "doubt_held"}, "")
	require.NoError(t, err)
	require.EqualValues(t, 2, replay.Count)
	_, err = w.ReopenForReplay(t.Context(), replay.ID, ref)
	require.NoError(t, err)
	again, err := w.ClaimDue(t.Context(), ref, fanfare.Wanted{Provider: "twilio", Limit: 64, Single: true}, everyone)
	require.NoError(t, err)
	require.Len(t, again.Calls, 1)
	require.Equal(t, phoned(2).Phone, again.Calls[0].Recipients[0].Address)
	require.Equal(t, "dead doubt_held", w.state(ref, 4), "nobody is sent to whose place is empty")
	w.balanced()
}

// TestErasureWhileCallsAreUnderWay: whatever becomes of calls that had begun brings nothing
// back but suppressions, and nobody is sent to again.
func TestErasureWhileCallsAreUnderWay(t *testing.T) {
	t.Parallel()
	w := newWorld(t, every, func(c *ledger.Config) { c.DoubtPolicy[fanfare.Email] = ledger.Resend })
	w.topic("writer-1")
	w.put(canary())
	_, err := w.Subscribe(t.Context(), "writer-1", canary().ID)
	require.NoError(t, err)
	calls := map[fanfare.BatchRef]fanfare.CallID{}
	claim := func(key string, channel fanfare.Channel) fanfare.BatchRef {
		ref := w.runningOn(channel, key, fanfare.Bulk)
		c := w.singles(ref, 1)
		require.Len(t, c, 1)
		calls[ref] = c[0].ID
		return ref
	}
	doubtful, bounced, throttled := claim("a", fanfare.Email), claim("b", fanfare.Email), claim("c", fanfare.Email)
	unknown, dead := claim("d", fanfare.SMS), claim("e", fanfare.Push)
	require.NoError(t, w.EraseSubscriber(t.Context(), canary().ID))
	require.Empty(t, w.whereabouts())

	w.settle(doubtful, calls[doubtful], fanfare.OutcomeAmbiguous)
	w.settle(throttled, calls[throttled], fanfare.OutcomeThrottled)
	w.settle(unknown, calls[unknown], fanfare.OutcomeAmbiguous)
	require.Empty(t, w.whereabouts())
	w.settle(bounced, calls[bounced], fanfare.OutcomeAccepted)
	refused := result(fanfare.OutcomeRejected)
	refused.Suppress = []fanfare.Refused{{Address: canary().Devices[0].Token, Reason: fanfare.SuppressedDeadToken}}
	w.settleWith(dead, calls[dead], refused)
	w.report(w.about(fanfare.EventBounced, bounced, calls[bounced]), w.softBounce(throttled, calls[throttled], 1))
	for _, ref := range []fanfare.BatchRef{doubtful, unknown} {
		require.NoError(t, w.ApplyPolicy(t.Context(), fanfare.Doubt{Ref: ref, Call: calls[ref]}))
	}
	for ref := range calls {
		c, err := w.ClaimDue(t.Context(), ref, fanfare.Wanted{Provider: "sendgrid", Limit: 10, Single: true}, everyone)
		require.NoError(t, err)
		require.Empty(t, c.Calls)
	}
	require.Equal(t, "dead doubt_held", w.state(doubtful, 1), "who may have been sent to is not skipped")
	require.Equal(t, "failed sendgrid:5.1.1", w.state(bounced, 1))
	require.Equal(t, "dead doubt_held", w.state(unknown, 1))
	require.Equal(t, "failed twilio:400", w.state(dead, 1))
	require.Equal(t, []string{"suppressions.address_hash: a token's hash", "suppressions.address_hash: the email's hash"}, w.whereabouts())
	w.balanced()
}

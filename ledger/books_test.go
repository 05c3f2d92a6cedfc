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

// mixed is a publication by email and in-app that has recipients in every state.
func (w *world) mixed() fanfare.BatchRef {
	w.t.Helper()
	w.subscribed(30)
	ref := w.running("article-1", 12)
	w.unsubscribe(4)
	sent := result(fanfare.OutcomeAccepted)
	sent.Named = map[fanfare.SubscriberNumber]fanfare.Outcome{2: {Kind: fanfare.OutcomeRejected, Code: "550"}}
	w.settleWith(ref, w.claimNew(ref, 5).Call, sent) // 1, 3, 5 sent, 2 failed, 4 skipped
	doubt := w.doubtful(ref, 1)                      // 6 dead
	w.exec(`UPDATE publications SET expires_at = clock_timestamp() + interval '1 ms'`)
	require.Eventually(w.t, func() bool { return w.publication(ref.Publication).ExpiresAt.Before(time.Now()) }, 5*time.Second, time.Millisecond)
	require.NoError(w.t, w.ApplyPolicy(w.t.Context(), doubt))
	w.exec(`UPDATE publications SET expires_at = now() + interval '1 h'`)
	w.settle(ref, w.claimNew(ref, 2).Call, fanfare.OutcomeAmbiguous) // 7, 8 in doubt
	w.settle(ref, w.claimNew(ref, 2).Call, fanfare.OutcomeThrottled) // 9, 10 wait
	w.claimNew(ref, 1)                                               // 11 sending, 12 never claimed
	w.exec(`UPDATE deliveries SET state = 'delivered' WHERE subscriber_number = 1`)
	inApp := ref
	inApp.Channel, inApp.N = fanfare.InApp, 2
	w.settle(inApp, w.claimNew(inApp, 3).Call, fanfare.OutcomeAccepted) // 13, 14, 15 on in-app
	return ref
}

func inAppAndEmail(c *ledger.Config) { c.Channels = []fanfare.Channel{fanfare.InApp, fanfare.Email} }

func TestAPublicationReadsWithItsBooks(t *testing.T) {
	t.Parallel()
	w := newWorld(t, inAppAndEmail)
	ref := w.mixed()
	p := w.publication(ref.Publication)
	byEmail := fanfare.Totals{Intended: 30, Pending: 21, Sending: 1, InDoubt: 2, Sent: 2, Delivered: 1, Failed: 1, Skipped: 1, Dead: 1}
	byInApp := fanfare.Totals{Intended: 30, Pending: 27, Sent: 3}
	require.Empty(t, cmp.Diff(map[fanfare.Channel]fanfare.Totals{fanfare.Email: byEmail, fanfare.InApp: byInApp}, p.ByChannel))
	require.Equal(t, byEmail.Add(byInApp), p.Totals)
	require.Empty(t, cmp.Diff(map[string]int64{"unsubscribed": 1}, p.SkippedByReason))
	require.Empty(t, cmp.Diff(map[string]int64{"sendgrid:550": 1}, p.FailedByCode))
	require.Positive(t, p.RatePerSecond)
	require.NotNil(t, p.ETA)
	require.WithinDuration(t, time.Now().Add(time.Duration(float64(p.Totals.Unfinished())/p.RatePerSecond*1e9)), *p.ETA, 3*time.Second)
	w.balanced()
}

func TestTheRateCountsTheLastTenSeconds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(100)
	ref := w.running("article-1", 100)
	require.Zero(t, w.publication(ref.Publication).RatePerSecond)
	require.Nil(t, w.publication(ref.Publication).ETA, "nobody knows")
	w.settle(ref, w.claimNew(ref, 40).Call, fanfare.OutcomeAccepted)
	w.settle(ref, w.claimNew(ref, 20).Call, fanfare.OutcomeThrottled)
	old := w.claimNew(ref, 10)
	w.settle(ref, old.Call, fanfare.OutcomeAccepted)
	w.age(old.Call, 11*time.Second)
	w.exec(`UPDATE publications SET started_at = started_at - interval '1 min'`)
	require.InDelta(t, 4, w.publication(ref.Publication).RatePerSecond, 0.01, "40 in 10 s: neither the throttled nor the old")
	w.exec(`UPDATE publications SET started_at = clock_timestamp() - interval '2 s'`)
	require.InDelta(t, 20, w.publication(ref.Publication).RatePerSecond, 5, "it began 2 s ago")
}

func TestTheRateOfManyCallsIsThatOfTheNewest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(1)
	ref := w.running("article-1", 100)
	w.exec(`
		INSERT INTO calls (publication_id, call_id, channel, batch, first_number, last_number, size, provider, claimed_at, begin_by, call_until, ended_at, outcome)
		SELECT $1, uuid_v7(at), 'email', 1, 1, 1, 1, 'sendgrid', at, at + interval '1 s', at + interval '15 s', at, 'accepted'
		FROM (SELECT clock_timestamp() - make_interval(secs => n / 10000.0) AS at FROM generate_series(1, 14000) n) n`, ref.Publication)
	require.Greater(t, w.publication(ref.Publication).RatePerSecond, 2000.0, "not 14,000 in 10 s, but 10,000 in one, and a while until it is asked")
}

func TestListsGiveEveryRecipientOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, inAppAndEmail)
	ref := w.mixed()
	want := map[fanfare.State][]int{
		fanfare.Pending: {9, 10, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30},
		fanfare.Sending: {11}, fanfare.InDoubt: {7, 8}, fanfare.Sent: {3, 5}, fanfare.Delivered: {1}, fanfare.Failed: {2}, fanfare.Skipped: {4}, fanfare.Dead: {6},
	}
	states := map[string]fanfare.State{}
	var everybody []string
	id := func(c fanfare.Channel, n int) string {
		return fanfare.DeliveryID{Publication: ref.Publication, Channel: c, Number: fanfare.SubscriberNumber(n)}.String()
	}
	for n := 1; n <= 30; n++ {
		everybody = append(everybody, id(fanfare.Email, n))
	}
	for state, list := range want {
		for _, n := range list {
			states[id(fanfare.Email, n)] = state
		}
	}
	for n := 1; n <= 30; n++ {
		everybody = append(everybody, id(fanfare.InApp, n))
		states[id(fanfare.InApp, n)] = fanfare.Pending
		if n >= 13 && n <= 15 {
			states[id(fanfare.InApp, n)] = fanfare.Sent
		}
	}
	for _, q := range []fanfare.DeliveryQuery{
		{},
		{Channel: fanfare.Email},
		{Channel: fanfare.InApp},
		{Channel: fanfare.SMS},
		{State: fanfare.Pending},
		{State: fanfare.Sending},
		{State: fanfare.InDoubt},
		{State: fanfare.Sent},
		{State: fanfare.Delivered},
		{State: fanfare.Failed},
		{State: fanfare.Skipped},
		{State: fanfare.Dead},
		{State: fanfare.Sent, Channel: fanfare.InApp},
	} {
		q.Publication = ref.Publication
		wanted := slices.DeleteFunc(slices.Clone(everybody), func(id string) bool {
			d, err := fanfare.ParseDeliveryID(id)
			require.NoError(t, err)
			return q.Channel != "" && d.Channel != q.Channel || q.State != "" && states[id] != q.State
		})
		for _, size := range []int{1, 7, 100} {
			q.Limit, q.After = size, nil
			got := []string{}
			for {
				page, err := w.Deliveries(t.Context(), q)
				require.NoError(t, err)
				require.LessOrEqual(t, len(page), size)
				for _, d := range page {
					got = append(got, d.ID)
					require.Equal(t, states[d.ID], d.State)
				}
				if len(page) < size {
					break
				}
				last, err := fanfare.ParseDeliveryID(page[len(page)-1].ID)
				require.NoError(t, err)
				q.After = &last
			}
			require.Empty(t, cmp.Diff(append([]string{}, wanted...), got), "%+v in pages of %d", q, size)
		}
	}
	_, err := w.Deliveries(t.Context(), fanfare.DeliveryQuery{Publication: ref.Publication, State: "lost", Limit: 10})
	require.ErrorIs(t, err, fanfare.ErrInvalid)
	_, err = w.Deliveries(t.Context(), fanfare.DeliveryQuery{Publication: "018cc251-f400-7000-8000-000000000000", Limit: 10})
	require.ErrorIs(t, err, fanfare.ErrNotFound)
}

func TestWhatIsNotPlannedIsListedAsPending(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(7)
	id := w.accept("article-1").ID
	for _, planned := range []int{0, 1} {
		_, _, err := w.Plan(t.Context(), id, 3, planned)
		require.NoError(t, err)
		list, err := w.Deliveries(t.Context(), fanfare.DeliveryQuery{Publication: id, State: fanfare.Pending, Limit: 100})
		require.NoError(t, err)
		require.Len(t, list, 7, "%d batches are planned", planned)
	}
}

func TestADeliveryReadsWithEveryAttempt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(4)
	ref := w.running("article-1", 10)
	read := func(n int) fanfare.Delivery {
		d, err := w.Delivery(t.Context(), fanfare.DeliveryID{Publication: ref.Publication, Channel: fanfare.Email, Number: fanfare.SubscriberNumber(n)})
		require.NoError(t, err)
		return d
	}
	d := read(1)
	require.Equal(t, fanfare.Pending, d.State, "not claimed yet")
	require.Empty(t, d.Attempts)
	require.Zero(t, d.Batch)

	w.suppress("reader-2@mail.example")
	c := w.claimNew(ref, 2)
	d = read(1)
	require.Equal(t, fanfare.Sending, d.State)
	require.Equal(t, 1, d.Batch)
	require.Equal(t, "sendgrid", d.Provider)
	require.Len(t, d.Attempts, 1)
	require.Empty(t, d.Attempts[0].Outcome, "under way")
	require.Nil(t, d.Attempts[0].EndedAt)
	skipped := read(2)
	require.Equal(t, fanfare.Skipped, skipped.State)
	require.Equal(t, "suppressed", skipped.Reason)
	require.Empty(t, skipped.Attempts)

	calls := []fanfare.CallID{c.Call}
	for _, kind := range []fanfare.OutcomeKind{fanfare.OutcomeThrottled, fanfare.OutcomeUnavailable, fanfare.OutcomeAccepted} {
		w.settle(ref, calls[len(calls)-1], kind)
		if kind != fanfare.OutcomeAccepted {
			calls = append(calls, w.claimDue(ref, 1).Call)
		}
	}
	d = read(1)
	require.Equal(t, fanfare.Sent, d.State)
	require.Equal(t, reader(1), d.Subscriber)
	require.Len(t, d.Attempts, 3)
	for i, want := range []string{"1 throttled sendgrid:429", "2 unavailable sendgrid:503", "3 accepted sendgrid:202"} {
		a := d.Attempts[i]
		require.Equal(t, want, fmt.Sprint(a.N, " ", a.Outcome, " ", a.Code))
		require.Equal(t, calls[i], a.Call)
		require.Equal(t, "sendgrid", a.Provider)
		require.NotNil(t, a.EndedAt)
		require.False(t, a.EndedAt.Before(a.StartedAt))
	}

	w.settle(ref, w.claimNew(ref, 1).Call, fanfare.OutcomeAccepted)
	require.Len(t, read(3).Attempts, 1, "accepted at the first attempt")

	for _, id := range []fanfare.DeliveryID{
		{Publication: ref.Publication, Channel: fanfare.Email, Number: 99},
		{Publication: ref.Publication, Channel: fanfare.SMS, Number: 1},
		{Publication: "018cc251-f400-7000-8000-000000000000", Channel: fanfare.Email, Number: 1},
	} {
		_, err := w.Delivery(t.Context(), id)
		require.ErrorIs(t, err, fanfare.ErrNotFound)
	}
}

func TestPublicationsAreListedNewestFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.topic("writer-1")
	w.topic("writer-2")
	var keys []fanfare.Key
	for i := range 7 {
		d := draft(fmt.Sprint("article-", i))
		d.Topic = fanfare.Topic(fmt.Sprint("writer-", 1+i%2))
		p, err := w.Accept(t.Context(), d, "")
		require.NoError(t, err)
		keys = append([]fanfare.Key{p.Key}, keys...)
		if i == 3 {
			require.NoError(t, w.Start(t.Context(), p.ID))
		}
		before := one[time.Time](w, `SELECT max(accepted_at) FROM publications`)
		require.Eventually(t, func() bool { return one[time.Time](w, `SELECT clock_timestamp()`).Sub(before) > time.Millisecond }, time.Second, time.Millisecond)
	}
	list := func(q fanfare.PublicationQuery) (got []fanfare.Key) {
		for q.Limit = 3; ; {
			page, err := w.Publications(t.Context(), q)
			require.NoError(t, err)
			for _, p := range page {
				got = append(got, p.Key)
				q.Before = p.ID
			}
			if len(page) < q.Limit {
				return got
			}
		}
	}
	require.Equal(t, keys, list(fanfare.PublicationQuery{}))
	require.Equal(t, []fanfare.Key{"article-5", "article-3", "article-1"}, list(fanfare.PublicationQuery{Topic: "writer-2"}))
	require.Equal(t, []fanfare.Key{"article-3"}, list(fanfare.PublicationQuery{State: fanfare.Running}))
	require.Empty(t, list(fanfare.PublicationQuery{State: fanfare.Running, Topic: "writer-1"}))
	require.Empty(t, list(fanfare.PublicationQuery{Topic: "writer-3"}))
}

package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
)

func TestATopicIsPutOnceAndThenRenamed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	exists, err := w.TopicExists(t.Context(), "writer-1")
	require.NoError(t, err)
	require.False(t, exists)
	for i, name := range []string{"One", "Uno", "Uno"} {
		_, created, err := w.PutTopic(t.Context(), "writer-1", name, nil)
		require.NoError(t, err)
		require.Equal(t, i == 0, created)
		require.Equal(t, name, one[string](w, `SELECT name FROM topics`))
	}
	exists, err = w.TopicExists(t.Context(), "writer-1")
	require.NoError(t, err)
	require.True(t, exists)

	name, err := w.LinkTopic(t.Context(), fanfare.UnsubscribeLink{Topic: 1, Number: 1})
	require.NoError(t, err)
	require.Equal(t, "Uno", name)
	_, err = w.LinkTopic(t.Context(), fanfare.UnsubscribeLink{Topic: 2, Number: 1})
	require.ErrorIs(t, err, fanfare.ErrNotFound)
}

func TestASubscriberIsPutAndReplaced(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	full := fanfare.Subscriber{
		ID: "reader-1", Email: "Ana@Mail.example", Phone: "+34600000000", Locale: "es", TimeZone: "Europe/Madrid",
		Devices: []fanfare.Device{{Token: "t-1", Platform: "android"}}, Attributes: map[string]string{"plan": "ñ"},
	}
	bare := fanfare.Subscriber{ID: "reader-1"}
	for i, s := range []fanfare.Subscriber{bare, full, bare} {
		created, err := w.PutSubscriber(t.Context(), s)
		require.NoError(t, err)
		require.Equal(t, i == 0, created)
		read, err := w.Subscriber(t.Context(), "reader-1")
		require.NoError(t, err)
		require.Empty(t, cmp.Diff(s, read), "what is left out is gone")
	}
	_, err := w.Subscriber(t.Context(), "reader-2")
	require.ErrorIs(t, err, fanfare.ErrNotFound)
}

func TestNumbersStayDense(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.topic("writer-1")
	w.put(person(1))
	w.put(person(1))
	w.imported(1, 5, person)
	w.imported(3, 6, person)
	w.put(person(2))
	w.put(person(7))
	require.Equal(t, []int64{1, 2, 3, 4, 5, 6, 7}, all[int64](w, `SELECT subscriber_number FROM subscribers ORDER BY 1`))
}

func TestOneSubscriberPutByManyAtOnceIsCreatedOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	created := make([]bool, 50)
	atOnce(t, 50, func(i int) (err error) {
		s := person(1)
		s.Email = fmt.Sprintf("%d@mail.example", i%5)
		created[i], err = w.PutSubscriber(t.Context(), s)
		return err
	})
	n := 0
	for _, c := range created {
		if c {
			n++
		}
	}
	require.Equal(t, 1, n)
	require.Equal(t, 1, one[int](w, `SELECT count(*) FROM subscribers`))
}

func TestASubscriptionIsEndedAndBegunAnewAndNeverOverwritten(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.topic("writer-1")
	w.put(person(1))
	for range 3 {
		for i := range 2 { // the second time changes nothing
			created, err := w.Subscribe(t.Context(), "writer-1", "reader-1")
			require.NoError(t, err)
			require.Equal(t, i == 0, created)
		}
		for range 2 {
			w.unsubscribe(1)
		}
	}
	w.imported(1, 1, person)
	const intervals = `SELECT began_cut || '-' || COALESCE(ended_cut::text, '') FROM subscriptions ORDER BY began_cut`
	before := all[string](w, intervals)
	require.Len(t, before, 4)
	require.Equal(t, 3, one[int](w, `SELECT count(*) FROM subscriptions WHERE ended_cut > began_cut AND ended_at >= began_at`))
	require.True(t, one[bool](w, `
		SELECT bool_and(began_cut > before) FROM (SELECT began_cut, lag(ended_cut) OVER (ORDER BY began_cut) AS before FROM subscriptions) s WHERE before IS NOT NULL`),
		"the intervals follow each other")
	w.imported(1, 1, person)
	require.Equal(t, before, all[string](w, intervals), "importing again leaves an open subscription alone")
}

func TestSubscribingNeedsATopicAndASubscriber(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.topic("writer-1")
	w.put(person(1))
	_, err := w.Subscribe(t.Context(), "writer-2", "reader-1")
	require.ErrorIs(t, err, fanfare.ErrUnknownTopic)
	_, err = w.Subscribe(t.Context(), "writer-1", "reader-2")
	require.ErrorIs(t, err, fanfare.ErrNotFound)
	require.ErrorIs(t, w.Unsubscribe(t.Context(), "writer-2", "reader-1"), fanfare.ErrUnknownTopic)
	require.ErrorIs(t, w.Unsubscribe(t.Context(), "writer-1", "reader-2"), fanfare.ErrNotFound)
	_, err = w.Import(t.Context(), "writer-2", chunks(1, 1, 1, person))
	require.ErrorIs(t, err, fanfare.ErrUnknownTopic)
}

func TestAnUnsubscribeLinkEndsItsSubscription(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(2)
	for range 2 {
		require.NoError(t, w.EndSubscription(t.Context(), fanfare.UnsubscribeLink{Topic: 1, Number: 2}))
		require.Equal(t, []int64{1}, all[int64](w, `SELECT subscriber_number FROM subscriptions WHERE ended_cut IS NULL`))
	}
}

func TestErasureKeepsTheBooks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(4)
	w.topic("writer-2")
	_, err := w.Subscribe(t.Context(), "writer-2", "reader-2")
	require.NoError(t, err)
	ref := w.running("article-1", 10)
	w.settle(ref, w.claimNew(ref, 1).Call, fanfare.OutcomeAccepted)
	w.settle(ref, w.claimNew(ref, 1).Call, fanfare.OutcomeReleased)

	for i := 1; i <= 3; i++ {
		require.NoError(t, w.EraseSubscriber(t.Context(), reader(i)))
		require.ErrorIs(t, w.EraseSubscriber(t.Context(), reader(i)), fanfare.ErrNotFound)
	}
	require.Equal(t, 3, one[int](w, `
		SELECT count(*) FROM subscribers WHERE erased_at IS NOT NULL AND external_id IS NULL AND email IS NULL AND email_hash IS NULL AND phone IS NULL
		AND NOT EXISTS (SELECT FROM devices) AND locale IS NULL AND time_zone IS NULL AND attributes IS NULL`))
	require.Equal(t, []int64{4}, all[int64](w, `SELECT subscriber_number FROM subscriptions WHERE ended_cut IS NULL`), "all their subscriptions have ended")

	w.claimDue(ref, 10)
	require.Equal(t, []int{4}, numbers(w.claimNew(ref, 10)))
	require.Equal(t, "sent", w.state(ref, 1), "what was sent stays sent")
	require.Equal(t, "skipped erased", w.state(ref, 2), "who waited is skipped")
	require.Equal(t, "skipped erased", w.state(ref, 3), "and so is who was never claimed")
	d, err := w.Delivery(t.Context(), fanfare.DeliveryID{Publication: ref.Publication, Channel: fanfare.Email, Number: 1})
	require.NoError(t, err)
	require.Empty(t, d.Subscriber)
	w.balanced()

	created, err := w.PutSubscriber(t.Context(), person(2))
	require.NoError(t, err)
	require.True(t, created, "the id may be used again, by a new person")
	require.Equal(t, 5, one[int](w, `SELECT subscriber_number FROM subscribers WHERE external_id = 'reader-2'`))
	require.Equal(t, "skipped erased", w.state(ref, 2))
}

// shared are the ids of all whose address may be another's too.
func (w *world) shared() []string {
	return all[string](w, `SELECT external_id FROM subscribers WHERE email_shared ORDER BY 1`)
}

func TestSharedAddressesAreMarkedByPutAndImport(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(6)
	as := func(i int, email string) fanfare.Subscriber { return fanfare.Subscriber{ID: reader(i), Email: email} }
	require.Empty(t, w.shared())
	w.put(as(7, "READER-1@mail.EXAMPLE"))
	require.Equal(t, []string{"reader-1", "reader-7"}, w.shared(), "a new person with another's address, in other letters")
	w.put(as(2, "reader-3@mail.example"))
	require.Equal(t, []string{"reader-1", "reader-2", "reader-3", "reader-7"}, w.shared(), "a person who takes another's address")
	w.imported(4, 4, func(int) fanfare.Subscriber { return as(8, "Reader-4@mail.example") })
	require.Equal(t, []string{"reader-1", "reader-2", "reader-3", "reader-4", "reader-7", "reader-8"}, w.shared(), "an imported person with another's address")
	w.imported(1, 2, func(i int) fanfare.Subscriber { return as(8+i, "new@mail.example") })
	require.Equal(t, []string{"reader-1", "reader-10", "reader-2", "reader-3", "reader-4", "reader-7", "reader-8", "reader-9"}, w.shared(), "two lines of one chunk")
	w.put(as(1, "alone@mail.example"))
	require.Contains(t, w.shared(), "reader-1", "it means 'may be shared' and stays")
	w.imported(1, 1, func(int) fanfare.Subscriber { return as(5, "reader-6@mail.example") })
	require.Len(t, w.shared(), 10, "a change by import")
	w.put(as(11, ""))
	w.put(as(12, ""))
	require.Len(t, w.shared(), 10, "to have no address is not to share one")
}

func TestWritersAtOnceMissNoSharedAddress(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.topic("writer-1")
	const rounds = 60
	for round := range rounds {
		atOnce(t, 2, func(i int) error {
			s := fanfare.Subscriber{ID: reader(2*round + i), Email: fmt.Sprintf("%d@mail.example", round)}
			if i == 0 && round%2 == 0 {
				_, err := w.Import(t.Context(), "writer-1", chunks(1, 1, 1, func(int) fanfare.Subscriber { return s }))
				return err
			}
			_, err := w.PutSubscriber(t.Context(), s)
			return err
		})
	}
	require.Len(t, w.shared(), 2*rounds)
}

func TestPeopleWhoExchangeAddressesDoNotDeadlock(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for round := range 50 {
		w.put(fanfare.Subscriber{ID: "ana", Email: fmt.Sprintf("a-%d@mail.example", round)})
		w.put(fanfare.Subscriber{ID: "ben", Email: fmt.Sprintf("b-%d@mail.example", round)})
		w.exec(`UPDATE subscribers SET email_shared = false`)
		exchanged := []fanfare.Subscriber{
			{ID: "ana", Email: fmt.Sprintf("b-%d@mail.example", round)},
			{ID: "ben", Email: fmt.Sprintf("a-%d@mail.example", round)},
		}
		atOnce(t, 2, func(i int) error {
			_, err := w.PutSubscriber(t.Context(), exchanged[i])
			return err
		})
	}
}

// Erasing, importing, subscribing and accepting take the same locks; none of
// them may find the others in its way for ever.
func TestWritersOfAnAudienceDoNotDeadlock(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(30)
	atOnce(t, 10, func(i int) error {
		random := rand.New(rand.NewPCG(uint64(i), 1))
		for n := range 30 {
			var err error
			switch id := 1 + random.IntN(30); random.IntN(6) {
			case 0:
				_, err = w.Import(t.Context(), "writer-1", chunks(1, 30, 15, person))
			case 1:
				err = w.EraseSubscriber(t.Context(), reader(id))
			case 2:
				_, err = w.Accept(t.Context(), draft(fmt.Sprintf("article-%d-%d", i, n)), "")
			case 3:
				err = w.Unsubscribe(t.Context(), "writer-1", reader(id))
			case 4:
				err = w.EndSubscription(t.Context(), fanfare.UnsubscribeLink{Topic: 1, Number: fanfare.SubscriberNumber(id)})
			default:
				_, err = w.Subscribe(t.Context(), "writer-1", reader(id))
			}
			if err != nil && !errors.Is(err, fanfare.ErrNotFound) {
				return err
			}
		}
		return nil
	})
	w.balanced()
	require.Zero(t, one[int](w, `
		SELECT count(*) FROM subscriptions JOIN subscribers USING (subscriber_number) WHERE ended_cut IS NULL AND erased_at IS NOT NULL`),
		"nobody is subscribed again after their erasure")
}

// A writer who makes an address shared waits for the claims that took it for
// one person's.
func TestAnAddressThatBecomesSharedWaitsForClaimsInFlight(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(2)
	for name, share := range map[string]func(context.Context) error{
		"put": func(ctx context.Context) error {
			_, err := w.PutSubscriber(ctx, fanfare.Subscriber{ID: reader(2), Email: "READER-1@mail.example"})
			return err
		},
		"import": func(ctx context.Context) error {
			_, err := w.Import(ctx, "writer-1", chunks(2, 2, 1, func(int) fanfare.Subscriber {
				return fanfare.Subscriber{ID: reader(2), Email: "READER-1@mail.example"}
			}))
			return err
		},
	} {
		w.exec(`UPDATE subscribers SET email = external_id || '@mail.example', email_shared = false`)
		ref := w.running(name, 1) // each of them is in a batch
		second := fanfare.BatchRef{Publication: ref.Publication, Channel: fanfare.Email, N: 2}
		release := w.hold(`SELECT FROM batches WHERE publication_id = $1 AND n = 1 FOR UPDATE`, ref.Publication)
		claims := make(chan claimed, 1)
		go func() {
			c, _ := tryNew(context.WithoutCancel(t.Context()), w.Ledger, ref, 1)
			claims <- c
		}()
		w.waitingFor(1)
		done := make(chan error, 1)
		go func() { done <- share(context.WithoutCancel(t.Context())) }()
		w.waitingFor(2)
		release()
		require.Len(t, (<-claims).Recipients, 1)
		require.NoError(t, <-done)
		require.Empty(t, w.claimNew(second, 1).Recipients, name)
		require.Equal(t, "skipped duplicate_address", w.state(second, 2))
	}
}

package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/ledger"
)

func TestAcceptedIsDurable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(3)
	p := w.accept("article-1")
	require.Equal(t, fanfare.Key("article-1"), p.Key)
	require.Equal(t, fanfare.Topic("writer-1"), p.Topic)
	require.Equal(t, fanfare.Accepted, p.State)
	require.Equal(t, fanfare.Bulk, p.Class, "the default of publications")
	require.Equal(t, []fanfare.Channel{fanfare.Email}, p.Channels, "the default is email")
	require.Equal(t, fanfare.Totals{Intended: 3, Pending: 3}, p.Totals)
	require.Empty(t, cmp.Diff(map[fanfare.Channel]fanfare.Totals{fanfare.Email: {Intended: 3, Pending: 3}}, p.ByChannel))
	require.WithinDuration(t, p.AcceptedAt.Add(24*time.Hour), p.ExpiresAt, 0, "the default life of a publication")
	require.Nil(t, p.ScheduledAt)
	require.Equal(t, []string{string(p.ID)}, all[string](w, `SELECT publication_id::text FROM outbox WHERE kind = 'start'`))

	byKey, err := w.FindPublication(t.Context(), "article-1")
	require.NoError(t, err)
	byID, err := w.FindPublication(t.Context(), string(p.ID))
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(p, byKey))
	require.Empty(t, cmp.Diff(p, byID))
	for _, none := range []string{"article-2", "018cc251-f400-7000-8000-000000000000"} {
		_, err = w.FindPublication(t.Context(), none)
		require.ErrorIs(t, err, fanfare.ErrNotFound)
	}
}

func TestAnUnknownTopicIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, err := w.Accept(t.Context(), draft("article-1"), "request-1")
	require.ErrorIs(t, err, fanfare.ErrUnknownTopic)
	require.Zero(t, one[int](w, `SELECT (SELECT count(*) FROM publications) + (SELECT count(*) FROM outbox) + (SELECT count(*) FROM idempotency_keys)`))

	w.topic("writer-1")
	_, err = w.Accept(t.Context(), draft("article-1"), "request-1")
	require.NoError(t, err, "the refused request left nothing behind")
}

func TestTheSameRequestIsTheSamePublication(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(2)
	at := time.Now().Add(time.Hour).Truncate(time.Microsecond)
	expires := at.Add(time.Hour)
	d := draft("article-1")
	d.Channels = []fanfare.Channel{fanfare.SMS, fanfare.Email}
	d.Content.Body, d.Content.Summary = "First.\n\nSecond <b> & \u2028 \\ \"", "ñandú"
	d.ScheduledAt, d.ExpiresAt = &at, &expires
	first, err := w.Accept(t.Context(), d, "")
	require.NoError(t, err)

	w.subscribe(1)
	w.unsubscribe(2)
	same := d
	elsewhere, nano := at.In(time.FixedZone("", 3600)), expires.Add(time.Nanosecond)
	same.ScheduledAt, same.ExpiresAt = &elsewhere, &nano
	same.Channels = []fanfare.Channel{fanfare.Email, fanfare.SMS, fanfare.Email}
	again, err := w.Accept(t.Context(), same, "")
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(first, again), "the same instant in another zone and the channels in another order are the same words")
	require.Equal(t, []fanfare.Channel{fanfare.SMS, fanfare.Email}, d.Channels, "the caller's draft is left alone")
	require.Equal(t, 1, one[int](w, `SELECT count(*) FROM outbox`))

	_, err = w.Cancel(t.Context(), first.ID)
	require.NoError(t, err)
	again, err = w.Accept(t.Context(), d, "")
	require.NoError(t, err)
	require.Equal(t, fanfare.Cancelled, again.State, "a repeat answers the current state")
}

// A changed default must not turn a repeat into a conflict.
func TestSamenessIsJudgedBeforeDefaults(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.topic("writer-1")
	first := w.accept("article-1")
	other := w.open(ledger.Config{Channels: []fanfare.Channel{fanfare.Email, fanfare.SMS}, Expires: time.Hour})
	again, err := other.Accept(t.Context(), draft("article-1"), "")
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(first, again))

	said := draft("article-1")
	said.Class = fanfare.Bulk
	_, err = w.Accept(t.Context(), said, "")
	require.ErrorIs(t, err, fanfare.ErrConflict, "what was said is not what was left out")
}

func TestAConflictNamesEveryFieldThatDiffers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.topic("writer-1")
	w.topic("writer-2")
	at := time.Now().Add(time.Hour)
	later := at.Add(time.Hour)
	base := draft("article-1")
	base.ScheduledAt = &at
	first, err := w.Accept(t.Context(), base, "")
	require.NoError(t, err)

	for name, change := range map[string]func(*fanfare.Draft){
		"topic":           func(d *fanfare.Draft) { d.Topic = "writer-2" },
		"channels":        func(d *fanfare.Draft) { d.Channels = []fanfare.Channel{fanfare.Email} },
		"content.title":   func(d *fanfare.Draft) { d.Content.Title += "!" },
		"content.url":     func(d *fanfare.Draft) { d.Content.URL += "?a=b" },
		"content.summary": func(d *fanfare.Draft) { d.Content.Summary = "new" },
		"content.body":    func(d *fanfare.Draft) { d.Content.Body = "new" },
		"class":           func(d *fanfare.Draft) { d.Class = fanfare.Transactional },
		"scheduled_at":    func(d *fanfare.Draft) { d.ScheduledAt = nil },
		"expires_at":      func(d *fanfare.Draft) { d.ExpiresAt = &later },
	} {
		d := base
		change(&d)
		_, err := w.Accept(t.Context(), d, "")
		var conflict *fanfare.ConflictError
		require.ErrorAs(t, err, &conflict, name)
		require.Equal(t, []string{name}, conflict.Fields)
		require.Equal(t, first.ID, conflict.ID)
		require.Equal(t, fanfare.Key("article-1"), conflict.Key)
	}

	several := draft("article-1")
	several.Topic, several.Content.Title = "writer-unknown", "Other"
	_, err = w.Accept(t.Context(), several, "")
	var conflict *fanfare.ConflictError
	require.ErrorAs(t, err, &conflict)
	require.Equal(t, []string{"topic", "content.title", "scheduled_at"}, conflict.Fields)
}

func TestAHundredIdenticalRequestsAtOnceMakeOnePublication(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(50)
	for _, idempotencyKey := range []string{"", "request-1"} {
		d := draft("article-" + idempotencyKey)
		ids := make([]fanfare.PublicationID, 100)
		atOnce(t, 100, func(i int) error {
			p, err := w.Accept(t.Context(), d, idempotencyKey)
			ids[i] = p.ID
			return err
		})
		require.Len(t, slices.Compact(ids), 1)
		require.Equal(t, 1, one[int](w, `SELECT count(*) FROM publications WHERE key = $1`, d.Key))
		require.Equal(t, 1, one[int](w, `SELECT count(*) FROM outbox WHERE publication_id = $1`, ids[0]))
	}
	w.balanced()
}

func TestOfAHundredDifferentRequestsWithOneKeyOneWins(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.topic("writer-0")
	w.topic("writer-1")
	var mu sync.Mutex
	var won []fanfare.Publication
	atOnce(t, 100, func(i int) error {
		d := draft("article-1")
		d.Topic = fanfare.Topic(fmt.Sprintf("writer-%d", i%2)) // also when they do not share a topic's lock
		d.Content.Title = fmt.Sprint("Title ", i)
		p, err := w.Accept(t.Context(), d, "")
		if err == nil {
			mu.Lock()
			defer mu.Unlock()
			won = append(won, p)
			return nil
		}
		var conflict *fanfare.ConflictError
		if !errors.As(err, &conflict) || !slices.Contains(conflict.Fields, "content.title") {
			return err
		}
		return nil
	})
	require.Len(t, won, 1)
	require.Equal(t, []string{string(won[0].ID)}, all[string](w, `SELECT publication_id::text FROM publications`))
	require.Equal(t, 1, one[int](w, `SELECT count(*) FROM outbox`))
}

func TestAnIdempotencyKeyStandsForOneRequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.topic("writer-1")
	first, err := w.Accept(t.Context(), draft("article-1"), "request-1")
	require.NoError(t, err)
	again, err := w.Accept(t.Context(), draft("article-1"), "request-1")
	require.NoError(t, err)
	require.Equal(t, first.ID, again.ID)
	again, err = w.Accept(t.Context(), draft("article-1"), "request-2")
	require.NoError(t, err, "another idempotency key may repeat the request")
	require.Equal(t, first.ID, again.ID)

	_, err = w.Accept(t.Context(), draft("article-2"), "request-1")
	require.ErrorIs(t, err, fanfare.ErrKeyReused)
	other := draft("article-1")
	other.Content.Title = "Other"
	_, err = w.Accept(t.Context(), other, "request-1")
	require.ErrorIs(t, err, fanfare.ErrKeyReused, "it is told before the conflict of the publication's key")
	_, err = w.Accept(t.Context(), other, "request-3")
	require.ErrorIs(t, err, fanfare.ErrConflict)
	_, err = w.Accept(t.Context(), draft("article-3"), "request-3")
	require.NoError(t, err, "a request that was refused did not use its idempotency key up")
}

func TestOfAHundredRequestsWithOneIdempotencyKeyOneWins(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.topic("writer-1")
	var mu sync.Mutex
	won := 0
	atOnce(t, 100, func(i int) error {
		_, err := w.Accept(t.Context(), draft(fmt.Sprint("article-", i)), "request-1")
		if err == nil {
			mu.Lock()
			defer mu.Unlock()
			won++
			return nil
		}
		if !errors.Is(err, fanfare.ErrKeyReused) {
			return err
		}
		return nil
	})
	require.Equal(t, 1, won)
	require.Equal(t, 1, one[int](w, `SELECT count(*) FROM publications`))
}

func TestAPublicationIsScheduledUntilItsTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(1)
	now := one[time.Time](w, `SELECT clock_timestamp()`)
	soon, past := now.Add(time.Hour), now.Add(-time.Minute)
	for _, c := range []struct {
		name      string
		scheduled *time.Time
		state     fanfare.PublicationState
		expires   time.Time
		started   fanfare.PublicationState
	}{
		{"at once", nil, fanfare.Accepted, now.Add(24 * time.Hour), fanfare.Running},
		{"later", &soon, fanfare.Scheduled, soon.Add(24 * time.Hour), fanfare.Scheduled},
		{"past", &past, fanfare.Accepted, now.Add(24 * time.Hour), fanfare.Running},
	} {
		d := draft("key-" + c.name[:2])
		d.ScheduledAt = c.scheduled
		p, err := w.Accept(t.Context(), d, "")
		require.NoError(t, err)
		require.Equal(t, c.state, p.State, c.name)
		require.WithinDuration(t, c.expires, p.ExpiresAt, time.Minute, c.name)
		require.Nil(t, p.StartedAt)

		require.NoError(t, w.Start(t.Context(), p.ID))
		p = w.publication(p.ID)
		require.Equal(t, c.started, p.State, c.name)
		require.Equal(t, c.started == fanfare.Running, p.StartedAt != nil)
	}

	w.exec(`UPDATE publications SET scheduled_at = clock_timestamp() WHERE state = 'scheduled'`)
	id := fanfare.PublicationID(one[string](w, `SELECT publication_id::text FROM publications WHERE state = 'scheduled'`))
	require.NoError(t, w.Start(t.Context(), id))
	started := w.publication(id)
	require.Equal(t, fanfare.Running, started.State)
	require.NoError(t, w.Start(t.Context(), id))
	require.Equal(t, started.StartedAt, w.publication(id).StartedAt, "starting again changes nothing")
}

func TestTimesThatTheDatabaseRefusesAreInvalid(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.topic("writer-1")
	past := time.Now().Add(-time.Minute)
	d := draft("article-1")
	d.ExpiresAt = &past
	_, err := w.Accept(t.Context(), d, "")
	var invalid *fanfare.InvalidError
	require.ErrorAs(t, err, &invalid)
	require.Equal(t, "expires_at", invalid.Violations[0].Field)
}

func TestAnEmptyTopicCompletesWithNobodyIntended(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.topic("writer-1")
	id := w.accept("article-1").ID
	require.Equal(t, fanfare.Accepted, w.finish(id).State, "what has not begun is not completed")
	require.NoError(t, w.Start(t.Context(), id))
	require.Zero(t, w.planned(id, 100))
	p := w.finish(id)
	require.Equal(t, fanfare.Completed, p.State)
	require.Zero(t, p.Totals)
	require.NotNil(t, p.FinishedAt)
	w.balanced()
}

func TestTheAudienceIsWhoWasSubscribedAtAcceptance(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(5)
	w.unsubscribe(1)
	w.unsubscribe(2)
	w.subscribe(2)
	ref := w.running("article-1", 100)
	w.unsubscribe(3)
	w.unsubscribe(4)
	w.subscribe(4)
	w.subscribe(1)
	w.put(person(6))
	w.subscribe(6)

	require.EqualValues(t, 4, w.publication(ref.Publication).Totals.Intended)
	require.Equal(t, []int{2, 4, 5}, numbers(w.claimNew(ref, 100)))
	require.Equal(t, "skipped unsubscribed", w.state(ref, 3))
	w.balanced()
}

// Writers of subscriptions and acceptances run together; for every publication
// the audience that was counted must be the members at its cut.
func TestTheCutIsExact(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(40)
	for i := 41; i <= 60; i++ {
		w.put(person(i))
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var writers sync.WaitGroup
	errs := make(chan error, 100)
	for i := range 8 {
		writers.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 0))
			for ctx.Err() == nil {
				var err error
				switch id := 1 + random.IntN(60); random.IntN(5) {
				case 0:
					_, err = w.Import(ctx, "writer-1", chunks(id, id+5, 3, person))
				case 1, 2:
					_, err = w.Subscribe(ctx, "writer-1", reader(id))
				default:
					err = w.Unsubscribe(ctx, "writer-1", reader(id))
				}
				if err != nil && ctx.Err() == nil && !errors.Is(err, fanfare.ErrNotFound) {
					errs <- err
					return
				}
			}
		})
	}
	audiences := make([]int64, 40)
	atOnce(t, 4, func(i int) error {
		for n := range 10 {
			p, err := w.Accept(t.Context(), draft(fmt.Sprintf("article-%d-%d", i, n)), "")
			if err != nil {
				return err
			}
			audiences[i*10+n] = p.Totals.Intended
		}
		return nil
	})
	stop()
	writers.Wait()
	require.Empty(t, errs)
	slices.Sort(audiences)
	require.Greater(t, len(slices.Compact(audiences)), 3, "the audience changed meanwhile")
	require.Equal(t, 40, w.balanced().Checked)
}

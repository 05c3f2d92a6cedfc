package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/ledger"
	"github.com/fanfare-dev/fanfare/local/localtest"
	"github.com/fanfare-dev/fanfare/schema"
)

func (w *world) lease(limit int, span time.Duration) []fanfare.Order {
	w.t.Helper()
	orders, err := w.LeaseOrders(w.t.Context(), limit, span)
	require.NoError(w.t, err)
	return orders
}

func TestOrdersAreLeasedOldestFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.topic("writer-1")
	require.Empty(t, w.lease(10, time.Minute))
	var ids []fanfare.PublicationID
	for i := range 5 {
		ids = append(ids, w.accept(fmt.Sprint("article-", i)).ID)
	}
	_, err := w.Pause(t.Context(), ids[0])
	require.NoError(t, err)

	var leased []fanfare.Order
	for _, n := range []int{2, 2, 2, 0} {
		page := w.lease(2, time.Minute)
		require.Len(t, page, n)
		leased = append(leased, page...)
	}
	for i, o := range leased {
		require.Equal(t, ids[i%5], o.Publication)
		require.Equal(t, map[bool]fanfare.OrderKind{true: fanfare.OrderWake, false: fanfare.OrderStart}[i == 5], o.Kind)
	}
	require.NoError(t, w.DoneOrders(t.Context(), []int64{leased[0].ID, leased[5].ID}))
	require.NoError(t, w.DoneOrders(t.Context(), []int64{leased[0].ID}), "again changes nothing")
	require.Equal(t, 4, one[int](w, `SELECT count(*) FROM outbox`))
}

func TestALapsedLeaseComesAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.topic("writer-1")
	id := w.accept("article-1").ID
	first := w.lease(10, time.Minute)
	require.Len(t, first, 1)
	require.Empty(t, w.lease(10, time.Minute), "it is leased")
	w.exec(`UPDATE outbox SET leased_until = clock_timestamp() - interval '1 ms'`)
	require.Equal(t, []fanfare.Order{{ID: first[0].ID, Publication: id, Kind: fanfare.OrderStart}}, w.lease(10, time.Minute))
	require.NoError(t, w.DoneOrders(t.Context(), []int64{first[0].ID}), "the first relay was slow, not dead")
	w.exec(`UPDATE outbox SET leased_until = clock_timestamp() - interval '1 ms'`)
	require.Empty(t, w.lease(10, time.Minute))
}

func TestRelaysNeverLeaseTheSameOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec(`INSERT INTO outbox (publication_id, kind) SELECT gen_random_uuid(), 'start' FROM generate_series(1, 500)`)
	var mu sync.Mutex
	taken := map[int64]int{}
	atOnce(t, 8, func(int) error {
		for {
			orders, err := w.LeaseOrders(t.Context(), 7, time.Minute)
			if err != nil {
				return err
			}
			mu.Lock()
			for _, o := range orders {
				taken[o.ID]++
			}
			all := len(taken) == 500
			mu.Unlock()
			if all {
				return nil
			}
		}
	})
	for id, times := range taken {
		require.Equal(t, 1, times, id)
	}
}

func TestAWakeReachesEveryListener(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, stop := context.WithCancel(t.Context())
	var woken [3]atomic.Int64
	var wg sync.WaitGroup
	ended := make([]error, len(woken))
	for i := range woken {
		wg.Go(func() { ended[i] = w.Listen(ctx, func() { woken[i].Add(1) }) })
	}
	all := func(n int64) func() bool {
		return func() bool { return woken[0].Load() >= n && woken[1].Load() >= n && woken[2].Load() >= n }
	}
	require.Eventually(t, all(1), 10*time.Second, time.Millisecond, "each looks once when it begins to listen")
	for n := range 3 {
		require.NoError(t, w.Wake(t.Context()))
		require.Eventually(t, all(int64(n+2)), 10*time.Second, time.Millisecond)
	}
	stop()
	wg.Wait()
	for _, err := range ended {
		require.ErrorIs(t, err, context.Canceled)
	}
	require.NoError(t, w.Ping(t.Context()), "a connection that listened does not go back to the pool")
}

func TestListeningEndsWhenTheConnectionBreaks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	listening := make(chan struct{}, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- w.Listen(context.WithoutCancel(t.Context()), func() {
			select {
			case listening <- struct{}{}:
			default:
			}
		})
	}()
	<-listening
	w.exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
	require.ErrorIs(t, <-ended, fanfare.ErrUnavailable)
	require.Eventually(t, func() bool { return w.Wake(t.Context()) == nil }, 10*time.Second, 10*time.Millisecond, "the ledger recovers by itself")
}

func TestOneIsElected(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	inOffice := make(chan struct{})
	over := make(chan struct{})
	result := make(chan error, 1)
	go func() {
		elected, err := w.Elect(context.WithoutCancel(t.Context()), "sweep", func(context.Context) error {
			close(inOffice)
			<-over
			return nil
		})
		if err == nil && !elected {
			err = errors.New("the first was not elected")
		}
		result <- err
	}()
	<-inOffice
	other := w.open(ledger.Config{})
	elected, err := other.Elect(t.Context(), "sweep", func(context.Context) error { return errors.New("two at once") })
	require.NoError(t, err)
	require.False(t, elected)
	elected, err = other.Elect(t.Context(), "partitions", func(context.Context) error { return nil })
	require.NoError(t, err)
	require.True(t, elected, "another office")
	close(over)
	require.NoError(t, <-result)

	failed := errors.New("it failed")
	elected, err = other.Elect(t.Context(), "sweep", func(context.Context) error { return failed })
	require.ErrorIs(t, err, failed)
	require.True(t, elected, "the office is free again")
}

func TestUnfinishedPublicationsAreListedInPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.topic("writer-1")
	var want []fanfare.PublicationID
	for i := range 5 {
		id := w.accept(fmt.Sprint("article-", i)).ID
		if i == 2 {
			require.NoError(t, w.Start(t.Context(), id))
			require.Equal(t, fanfare.Completed, w.finish(id).State)
			continue
		}
		want = append(want, id)
	}
	var got []fanfare.PublicationID
	for after := fanfare.PublicationID(""); ; after = got[len(got)-1] {
		page, err := w.Unfinished(t.Context(), after, 3)
		require.NoError(t, err)
		got = append(got, page...)
		if len(page) < 3 {
			break
		}
	}
	require.ElementsMatch(t, want, got)
}

func TestPartitionsAreMade(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec(`DROP TABLE deliveries_` + one[string](w, `SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC' + interval '1 month', 'YYYY_MM')`))
	for range 2 {
		require.NoError(t, w.MakePartitions(t.Context()))
		require.Equal(t, 12, one[int](w, `SELECT count(*) FROM pg_class WHERE relispartition AND relkind = 'r'`))
	}
}

func TestTheLedgerSaysWhenTheDatabaseIsNotReady(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	require.NoError(t, w.Ping(t.Context()))
	_, err := schema.Down(t.Context(), w.url)
	require.NoError(t, err)
	empty, err := ledger.Open(t.Context(), localtest.EmptyDatabase(t), 2, ledger.Config{})
	require.NoError(t, err)
	t.Cleanup(empty.Close)
	for _, l := range []*ledger.Ledger{w.Ledger, empty} {
		err = l.Ping(t.Context())
		require.ErrorIs(t, err, fanfare.ErrUnavailable, "without its newest tables, too")
		require.ErrorContains(t, err, "fanfare migrate up")
	}
	_, err = schema.Up(t.Context(), w.url)
	require.NoError(t, err)
	require.NoError(t, w.Ping(t.Context()))
	w.exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (99999, true)`)
	require.NoError(t, w.Ping(t.Context()), "the servers of before an upgrade go on until they are replaced")

	away, err := ledger.Open(t.Context(), "postgres://nobody@127.0.0.1:1/none", 2, ledger.Config{})
	require.NoError(t, err, "it is opened while PostgreSQL is away")
	t.Cleanup(away.Close)
	require.ErrorIs(t, away.Ping(t.Context()), fanfare.ErrUnavailable)
	_, err = away.Accept(t.Context(), draft("article-1"), "")
	require.ErrorIs(t, err, fanfare.ErrUnavailable)

	_, err = ledger.Open(t.Context(), "postgres://ana:secret@[", 2, ledger.Config{})
	require.Error(t, err)
	require.NotContains(t, err.Error(), "secret")
}

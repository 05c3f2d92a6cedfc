package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
)

func TestImportCountsCreatedUpdatedAndUnchanged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.topic("writer-2")
	w.subscribed(4)
	w.unsubscribe(4)
	w.put(person(5))
	w.put(person(6))

	report := w.imported(1, 9, func(i int) fanfare.Subscriber {
		s := person(i)
		if i == 2 || i == 6 {
			s.Locale = "es"
		}
		return s
	})
	require.Empty(t, cmp.Diff(fanfare.ImportReport{
		Created:   3, // 7, 8, 9
		Updated:   4, // 2 has other data, 4 and 5 were not subscribed, 6 both
		Unchanged: 2, // 1, 3
	}, report))
	require.Equal(t, 9, one[int](w, `SELECT count(*) FROM subscriptions WHERE ended_cut IS NULL AND topic_id = (SELECT topic_id FROM topics WHERE topic = 'writer-1')`))
	s, err := w.Subscriber(t.Context(), "reader-2")
	require.NoError(t, err)
	require.Equal(t, "es", s.Locale)
}

// TestAnImportBringsNobodyBackWhoLeavesMeanwhile: somebody leaves by the link while the chunk
// that they stand in is written.
func TestAnImportBringsNobodyBackWhoLeavesMeanwhile(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(2)
	leaves, err := w.db.Begin(t.Context())
	require.NoError(t, err)
	_, err = leaves.Exec(t.Context(), `
		UPDATE subscriptions SET ended_cut = nextval('cuts'), ended_at = clock_timestamp(), ended_by_reader = true WHERE subscriber_number = 2`)
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() {
		_, err := w.Import(t.Context(), "writer-1", chunks(1, 3, 10, person))
		done <- err
	}()
	waits := func() bool {
		var waiting int
		require.NoError(t, leaves.QueryRow(t.Context(), `
			SELECT count(*) FROM pg_locks WHERE NOT granted AND transactionid = pg_current_xact_id()::xid`).Scan(&waiting))
		return waiting > 0
	}
	require.Eventually(t, func() bool { return len(done) > 0 || waits() }, 10*time.Second, time.Millisecond)
	require.NoError(t, leaves.Commit(t.Context()))
	require.NoError(t, <-done)
	require.Equal(t, []int64{1, 3}, all[int64](w, `SELECT subscriber_number FROM subscriptions WHERE ended_cut IS NULL ORDER BY 1`))
}

// TestAnImportBringsNobodyBackWhoLeft: whoever unsubscribed by the link stays so, whatever
// list is imported and whoever ended the subscription before, until they are subscribed by name.
func TestAnImportBringsNobodyBackWhoLeft(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(4)
	leave := func(n fanfare.SubscriberNumber) {
		require.NoError(t, w.EndSubscription(t.Context(), fanfare.UnsubscribeLink{Topic: 1, Number: n}))
	}
	open := func() []int64 {
		return all[int64](w, `SELECT subscriber_number FROM subscriptions WHERE ended_cut IS NULL ORDER BY subscriber_number`)
	}
	leave(1)
	leave(1)
	leave(2)
	w.unsubscribe(3)
	leave(3) // there is nothing left to end, and still they want no more
	moved := func(i int) fanfare.Subscriber {
		s := person(i)
		if i == 2 {
			s.Locale = "es"
		}
		return s
	}
	for _, want := range []fanfare.ImportReport{{Updated: 1, Unchanged: 3, Unsubscribed: 3}, {Unchanged: 4, Unsubscribed: 3}} {
		require.Empty(t, cmp.Diff(want, w.imported(1, 4, moved)))
		require.Equal(t, []int64{4}, open())
	}
	s, err := w.Subscriber(t.Context(), "reader-2")
	require.NoError(t, err)
	require.Equal(t, "es", s.Locale, "what is known of them is taken")

	w.topic("writer-2")
	report, err := w.Import(t.Context(), "writer-2", chunks(1, 4, 10, moved))
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(fanfare.ImportReport{Updated: 4}, report), "they left the other one")

	w.subscribe(1)
	require.Equal(t, []int64{1, 1, 2, 3, 4, 4}, open(), "who is subscribed by name asked for it")
	w.unsubscribe(1)
	require.Empty(t, cmp.Diff(fanfare.ImportReport{Updated: 1}, w.imported(1, 1, moved)), "what the publisher ended, an import begins anew")
}

func TestImportTakesEverythingAPersonHas(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.topic("writer-1")
	full := fanfare.Subscriber{
		ID: "reader-1", Email: `"a\b"@Mail.example`, Phone: "+34600000000", Locale: "es", TimeZone: "Europe/Madrid",
		Devices: []fanfare.Device{{Token: "t-1", Platform: "android"}, {Token: "t-2"}}, Attributes: map[string]string{"plan": "ñ", "b": `"\`},
	}
	bare := fanfare.Subscriber{ID: "reader-1"}
	for i, s := range []fanfare.Subscriber{full, full, bare, bare} {
		report := w.imported(1, 1, func(int) fanfare.Subscriber { return s })
		require.Equal(t, []int64{[]int64{1, 0, 0, 0}[i], []int64{0, 0, 1, 0}[i], []int64{0, 1, 0, 1}[i]}, []int64{report.Created, report.Updated, report.Unchanged})
		read, err := w.Subscriber(t.Context(), "reader-1")
		require.NoError(t, err)
		require.Empty(t, cmp.Diff(s, read))
	}
}

func TestImportingAgainWritesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.topic("writer-1")
	people := func(i int) fanfare.Subscriber {
		s := person(i)
		s.Email = person(i / 2).Email // most addresses are shared
		s.Devices = []fanfare.Device{{Token: fmt.Sprint("t-", i), Platform: "ios"}}
		s.Attributes = map[string]string{"b": "2", "a": "1"}
		return s
	}
	w.imported(1, 50, people)
	const versions = `
		SELECT format('%s %s %s %s', 'subscriber', subscriber_number, xmin, ctid) FROM subscribers
		UNION ALL SELECT format('%s %s %s %s', 'subscription', subscriber_number, xmin, ctid) FROM subscriptions
		UNION ALL SELECT format('%s %s', 'number', last_value) FROM subscriber_numbers ORDER BY 1`
	before := all[string](w, versions)
	report, err := w.Import(t.Context(), "writer-1", chunks(1, 50, 7, people))
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(fanfare.ImportReport{Unchanged: 50}, report))
	require.Equal(t, before, all[string](w, versions), "no row has a new version")
}

func TestOfSeveralLinesWithOneIDTheFirstIsTaken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.topic("writer-1")
	ids := []int{1, 2, 1, 3, 1, 2, 4, 1}    // lines 3, 5, 6 and 8 repeat an id
	for _, size := range []int{100, 3, 1} { // in one chunk, and in several
		report, err := w.Import(t.Context(), "writer-1", chunks(1, len(ids), size, func(i int) fanfare.Subscriber {
			s := person(ids[i-1])
			s.Locale = []string{"", "a", "b", "c", "d", "e", "f", "g", "h"}[i]
			return s
		}))
		require.NoError(t, err)
		require.EqualValues(t, 4, report.RejectedCount)
		rejected := make([]int, 0, 4)
		for _, r := range report.Rejected {
			rejected = append(rejected, r.Line)
			require.NotEmpty(t, r.Error)
		}
		require.Equal(t, []int{3, 5, 6, 8}, rejected)
		require.EqualValues(t, len(ids), report.Created+report.Updated+report.Unchanged+report.RejectedCount, "the counts add up to the lines")
		require.Equal(t, []string{"a", "b", "d", "g"}, all[string](w, `SELECT locale FROM subscribers ORDER BY subscriber_number`))
	}
}

func TestAnImportThatIsCutKeepsItsCommittedChunks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.topic("writer-1")
	broken := errors.New("the connection was cut")
	lines := chunks(1, 100, 10, person)
	calls := 0
	report, err := w.Import(t.Context(), "writer-1", func(ctx context.Context) ([]fanfare.ImportLine, error) {
		if calls++; calls > 3 {
			return nil, broken
		}
		return lines(ctx)
	})
	require.ErrorIs(t, err, broken)
	require.Empty(t, cmp.Diff(fanfare.ImportReport{Created: 30}, report))
	require.Equal(t, 30, one[int](w, `SELECT count(*) FROM subscriptions`))
	require.Empty(t, cmp.Diff(fanfare.ImportReport{Created: 70, Unchanged: 30}, w.imported(1, 100, person)), "a repeat completes it")
}

func TestLinesThatComeWithAnErrorAreTakenToo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.topic("writer-1")
	for name, last := range map[string]error{"the end": io.EOF, "an error": errors.New("cut")} {
		report, err := w.Import(t.Context(), "writer-1", func(context.Context) ([]fanfare.ImportLine, error) {
			return []fanfare.ImportLine{{Line: 1, Subscriber: fanfare.Subscriber{ID: fanfare.SubscriberID(name[4:])}}}, last
		})
		require.Equal(t, errors.Is(last, io.EOF), err == nil)
		require.EqualValues(t, 1, report.Created, name)
	}
	report, err := w.Import(t.Context(), "writer-1", func(context.Context) ([]fanfare.ImportLine, error) { return nil, io.EOF })
	require.NoError(t, err, "an empty file")
	require.Zero(t, report)
}

func TestAChunkThatFailsLeavesTheReportAndTheConnectionWhole(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.topic("writer-1")
	bad := func(i int) fanfare.Subscriber {
		s := person(i)
		if i == 5 {
			s.ID = "not an id"
		}
		return s
	}
	for range 3 { // the tables of the import must be gone from the pooled connection
		report, err := w.Import(t.Context(), "writer-1", chunks(1, 6, 2, bad))
		require.Error(t, err)
		require.EqualValues(t, 4, report.Created+report.Unchanged)
	}
	require.Equal(t, 4, one[int](w, `SELECT count(*) FROM subscribers`))
	require.Empty(t, w.shared())
	require.Equal(t, fanfare.ImportReport{Created: 1, Unchanged: 4}, w.imported(1, 5, person))
}

func TestAnImportWhoseCallerLeavesEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.topic("writer-1")
	ctx, leave := context.WithCancel(t.Context())
	lines := chunks(1, 100, 10, person)
	_, err := w.Import(ctx, "writer-1", func(ctx context.Context) ([]fanfare.ImportLine, error) {
		defer leave()
		return lines(ctx)
	})
	require.ErrorIs(t, err, context.Canceled)
	report := w.imported(1, 10, person)
	require.EqualValues(t, 10, report.Created+report.Unchanged, "the ledger works on")
}

func TestImportsOfTwoTopicsAtOnceAgree(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.topic("writer-1")
	w.topic("writer-2")
	reports := make([]fanfare.ImportReport, 4)
	atOnce(t, len(reports), func(i int) (err error) {
		reports[i], err = w.Import(t.Context(), []fanfare.Topic{"writer-1", "writer-2"}[i%2], chunks(1, 60, 20, person))
		return err
	})
	var created, all64 int64
	for _, r := range reports {
		created += r.Created
		all64 += r.Created + r.Updated + r.Unchanged
	}
	require.EqualValues(t, 60, created, "each person is created once")
	require.EqualValues(t, 240, all64)
	require.Equal(t, 120, one[int](w, `SELECT count(*) FROM subscriptions`))
	want := make([]int64, 60)
	for i := range want {
		want[i] = int64(i + 1)
	}
	numbers := all[int64](w, `SELECT subscriber_number FROM subscribers`)
	slices.Sort(numbers)
	require.Equal(t, want, numbers)
}

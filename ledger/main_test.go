package ledger_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/ledger"
	"github.com/fanfare-dev/fanfare/local/localtest"
)

func TestMain(m *testing.M) { os.Exit(localtest.Main(m)) }

// world is a migrated database with a ledger over it, and a connection for looking.
type world struct {
	*ledger.Ledger
	t        testing.TB
	url      string
	db       *pgx.Conn
	channels []fanfare.Channel // that are on
}

func newWorld(t testing.TB, change ...func(*ledger.Config)) *world {
	t.Helper()
	w := &world{t: t, url: localtest.Database(t)}
	cfg := ledger.Config{
		Channels: []fanfare.Channel{fanfare.Email}, Expires: 24 * time.Hour, DoubtDeadline: time.Minute, Ladder: make([]time.Duration, 8),
		DoubtPolicy: map[fanfare.Channel]ledger.Policy{fanfare.Email: ledger.Resend},
	}
	for _, c := range change {
		c(&cfg)
	}
	w.Ledger, w.channels = w.open(cfg), cfg.Channels
	var err error
	w.db, err = pgx.Connect(t.Context(), w.url)
	require.NoError(t, err)
	t.Cleanup(func() { w.db.Close(context.Background()) })
	return w
}

// open opens another ledger on the same database, as another process would.
func (w *world) open(cfg ledger.Config) *ledger.Ledger {
	w.t.Helper()
	l, err := ledger.Open(w.t.Context(), w.url, 16, cfg)
	require.NoError(w.t, err)
	w.t.Cleanup(l.Close)
	return l
}

// exec runs SQL behind the ledger's back and returns how many rows it changed.
func (w *world) exec(sql string, args ...any) int64 {
	w.t.Helper()
	tag, err := w.db.Exec(w.t.Context(), sql, args...)
	require.NoError(w.t, err, sql)
	return tag.RowsAffected()
}

// one reads one value.
func one[T any](w *world, sql string, args ...any) T {
	w.t.Helper()
	var v T
	require.NoError(w.t, w.db.QueryRow(w.t.Context(), sql, args...).Scan(&v), sql)
	return v
}

// all reads a column.
func all[T any](w *world, sql string, args ...any) []T {
	w.t.Helper()
	rows, err := w.db.Query(w.t.Context(), sql, args...)
	require.NoError(w.t, err, sql)
	list, err := pgx.CollectRows(rows, pgx.RowTo[T])
	require.NoError(w.t, err, sql)
	return list
}

// hold takes locks in a session of its own until release is called.
func (w *world) hold(sql string, args ...any) (release func()) {
	w.t.Helper()
	conn, err := pgx.Connect(w.t.Context(), w.url)
	require.NoError(w.t, err)
	w.t.Cleanup(func() { conn.Close(context.Background()) })
	tx, err := conn.Begin(w.t.Context())
	require.NoError(w.t, err)
	_, err = tx.Exec(w.t.Context(), sql, args...)
	require.NoError(w.t, err)
	return func() {
		w.t.Helper()
		require.NoError(w.t, tx.Rollback(w.t.Context()))
	}
}

// waitingFor waits until n sessions wait for a lock.
func (w *world) waitingFor(n int) {
	w.t.Helper()
	require.Eventually(w.t, func() bool {
		return one[int](w, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`) == n
	}, 10*time.Second, time.Millisecond)
}

// atOnce runs do n times at once, for i from 0, and fails with the first error.
func atOnce(t testing.TB, n int, do func(i int) error) {
	t.Helper()
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = do(i) })
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
}

func reader(i int) fanfare.SubscriberID {
	return fanfare.SubscriberID(fmt.Sprintf("reader-%d", i))
}

// person is the subscriber that stands on line i of an import.
func person(i int) fanfare.Subscriber {
	return fanfare.Subscriber{ID: reader(i), Email: fmt.Sprintf("reader-%d@mail.example", i)}
}

// subscribed makes the topic "writer-1" with n subscribers, reader-1 to
// reader-n, whose numbers are 1 to n.
func (w *world) subscribed(n int) {
	w.t.Helper()
	w.topic("writer-1")
	w.imported(1, n, person)
}

func (w *world) topic(topic fanfare.Topic) {
	w.t.Helper()
	_, _, err := w.PutTopic(w.t.Context(), topic, "The name of "+string(topic), nil)
	require.NoError(w.t, err)
}

func (w *world) put(s fanfare.Subscriber) {
	w.t.Helper()
	_, err := w.PutSubscriber(w.t.Context(), s)
	require.NoError(w.t, err)
}

func (w *world) subscribe(i int) {
	w.t.Helper()
	_, err := w.Subscribe(w.t.Context(), "writer-1", reader(i))
	require.NoError(w.t, err)
}

func (w *world) unsubscribe(i int) {
	w.t.Helper()
	require.NoError(w.t, w.Unsubscribe(w.t.Context(), "writer-1", reader(i)))
}

func (w *world) suppress(email string) {
	w.t.Helper()
	w.exec(`INSERT INTO suppressions (channel, address_hash, reason) VALUES ('email', address_hash($1), 'bounced')`, email)
}

// imported imports lines from to to, made by subscriber, in chunks of 10,000.
func (w *world) imported(from, to int, subscriber func(int) fanfare.Subscriber) fanfare.ImportReport {
	w.t.Helper()
	report, err := w.Import(w.t.Context(), "writer-1", chunks(from, to, 10000, subscriber))
	require.NoError(w.t, err)
	return report
}

// chunks makes the lines of an import, size at a time.
func chunks(from, to, size int, subscriber func(int) fanfare.Subscriber) func(context.Context) ([]fanfare.ImportLine, error) {
	i := from
	return func(context.Context) ([]fanfare.ImportLine, error) {
		var lines []fanfare.ImportLine
		for ; i <= to && len(lines) < size; i++ {
			lines = append(lines, fanfare.ImportLine{Line: i, Subscriber: subscriber(i)})
		}
		if i > to {
			return lines, io.EOF
		}
		return lines, nil
	}
}

// draft is a publication of writer-1.
func draft(key string) fanfare.Draft {
	return fanfare.Draft{Key: fanfare.Key(key), Topic: "writer-1", Content: fanfare.Content{Title: "Hello", URL: "https://blog.example/" + key}}
}

// accept accepts a publication of writer-1, on all channels where there are several.
func (w *world) accept(key string) fanfare.Publication {
	w.t.Helper()
	d := draft(key)
	if len(w.channels) > 1 {
		d.Channels = w.channels
	}
	p, err := w.Accept(w.t.Context(), d, "")
	require.NoError(w.t, err)
	return p
}

// running accepts and starts a publication, plans all of it in batches of size,
// and returns the first.
func (w *world) running(key string, size int) fanfare.BatchRef {
	w.t.Helper()
	p := w.accept(key)
	require.NoError(w.t, w.Start(w.t.Context(), p.ID))
	w.planned(p.ID, size)
	return fanfare.BatchRef{Publication: p.ID, Channel: fanfare.Email, N: 1}
}

func (w *world) planned(id fanfare.PublicationID, size int) (batches int) {
	w.t.Helper()
	batches, complete, err := w.Plan(w.t.Context(), id, size, 1000)
	require.NoError(w.t, err)
	require.True(w.t, complete)
	return batches
}

var everyone = fanfare.Range{First: 0, Last: 1<<63 - 1}

// wanted is a claim of so many for one call of SendGrid.
func wanted(limit int) fanfare.Wanted { return fanfare.Wanted{Provider: "sendgrid", Limit: limit} }

// claimed is a claim that has one call at most.
type claimed struct {
	fanfare.Claim
	Call       fanfare.CallID
	Recipients []fanfare.Claimed
}

func tryNew(ctx context.Context, l *ledger.Ledger, ref fanfare.BatchRef, limit int) (claimed, error) {
	return oneCall(l.ClaimNew(ctx, ref, wanted(limit)))
}

func tryDue(ctx context.Context, l *ledger.Ledger, ref fanfare.BatchRef, limit int, within fanfare.Range) (claimed, error) {
	return oneCall(l.ClaimDue(ctx, ref, wanted(limit), within))
}

func oneCall(c fanfare.Claim, err error) (claimed, error) {
	switch {
	case err != nil || len(c.Calls) == 0:
		return claimed{Claim: c}, err
	case len(c.Calls) > 1:
		return claimed{}, fmt.Errorf("%d calls, want 1", len(c.Calls))
	}
	return claimed{Claim: c, Call: c.Calls[0].ID, Recipients: c.Calls[0].Recipients}, nil
}

func (w *world) claimNew(ref fanfare.BatchRef, limit int) claimed {
	w.t.Helper()
	c, err := tryNew(w.t.Context(), w.Ledger, ref, limit)
	require.NoError(w.t, err)
	return c
}

func (w *world) claimDue(ref fanfare.BatchRef, limit int) claimed {
	w.t.Helper()
	c, err := tryDue(w.t.Context(), w.Ledger, ref, limit, everyone)
	require.NoError(w.t, err)
	return c
}

// numbers are the subscribers' numbers of a claim.
func numbers(c claimed) []int {
	list := make([]int, 0, len(c.Recipients))
	for _, r := range c.Recipients {
		list = append(list, int(r.Number))
	}
	return list
}

// result is the answer to a call.
func result(kind fanfare.OutcomeKind) fanfare.Result {
	r := fanfare.Result{Outcome: fanfare.Outcome{Kind: kind, Detail: "as the provider said"}}
	switch kind {
	case fanfare.OutcomeAccepted:
		r.Outcome.Code, r.ProviderID = "202", "m-1"
	case fanfare.OutcomeRejected:
		r.Outcome.Code = "400"
	case fanfare.OutcomeThrottled:
		r.Outcome.Code = "429"
	case fanfare.OutcomeUnavailable:
		r.Outcome.Code = "503"
	}
	return r
}

func (w *world) settle(ref fanfare.BatchRef, call fanfare.CallID, kind fanfare.OutcomeKind) fanfare.BatchTally {
	w.t.Helper()
	return w.settleWith(ref, call, result(kind))
}

func (w *world) settleWith(ref fanfare.BatchRef, call fanfare.CallID, r fanfare.Result) fanfare.BatchTally {
	w.t.Helper()
	require.NoError(w.t, w.Settle(w.t.Context(), ref, call, r))
	return w.tally(ref)
}

func (w *world) tally(ref fanfare.BatchRef) fanfare.BatchTally {
	w.t.Helper()
	tally, err := w.Tally(w.t.Context(), ref)
	require.NoError(w.t, err)
	return tally
}

// age moves a call into the past, as if it had been claimed so much earlier.
func (w *world) age(call fanfare.CallID, by time.Duration) {
	w.t.Helper()
	require.EqualValues(w.t, 1, w.exec(`
		UPDATE calls SET claimed_at = claimed_at - $2::interval, begin_by = begin_by - $2::interval, call_until = call_until - $2::interval, ended_at = ended_at - $2::interval
		WHERE call_id = $1`, call, by))
}

// row is a delivery as the table has it.
type row struct {
	State, Reason, Code, Call string
	Attempts, Resends         int
}

func (w *world) row(ref fanfare.BatchRef, number int) row {
	w.t.Helper()
	var r row
	require.NoError(w.t, w.db.QueryRow(w.t.Context(), `
		SELECT state, COALESCE(reason, ''), COALESCE(code, ''), COALESCE(call_id::text, ''), attempts, resends FROM deliveries
		WHERE publication_id = $1 AND channel = $2 AND subscriber_number = $3`, ref.Publication, ref.Channel, number).
		Scan(&r.State, &r.Reason, &r.Code, &r.Call, &r.Attempts, &r.Resends))
	return r
}

// state is a delivery's state and, where it has one, its reason or code.
func (w *world) state(ref fanfare.BatchRef, number int) string {
	w.t.Helper()
	r := w.row(ref, number)
	switch {
	case r.Reason != "":
		return r.State + " " + r.Reason
	case r.Code != "":
		return r.State + " " + r.Code
	}
	return r.State
}

func (w *world) publication(id fanfare.PublicationID) fanfare.Publication {
	w.t.Helper()
	p, err := w.Publication(w.t.Context(), id)
	require.NoError(w.t, err)
	return p
}

func (w *world) finish(id fanfare.PublicationID) fanfare.Publication {
	w.t.Helper()
	p, err := w.Finish(w.t.Context(), id)
	require.NoError(w.t, err)
	return p
}

// sendAll claims and settles every batch of a publication, several at once,
// chunk by chunk.
func (w *world) sendAll(ref fanfare.BatchRef, chunk int) {
	w.t.Helper()
	const owners = 4
	batches, err := w.OpenBatches(w.t.Context(), ref.Publication, ref.Channel, 0, 1000)
	require.NoError(w.t, err)
	next := make(chan fanfare.BatchRef, len(batches))
	for _, batch := range batches {
		next <- batch.BatchRef
	}
	close(next)
	errs := make([]error, owners)
	var wg sync.WaitGroup
	for i := range owners {
		wg.Go(func() {
			for batch := range next {
				if errs[i] = w.send(batch, chunk); errs[i] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(w.t, err)
	}
}

func (w *world) send(ref fanfare.BatchRef, chunk int) error {
	for {
		c, err := tryNew(w.t.Context(), w.Ledger, ref, chunk)
		if err != nil || len(c.Recipients) == 0 {
			return err
		}
		if err := w.Settle(w.t.Context(), ref, c.Call, result(fanfare.OutcomeAccepted)); err != nil {
			return err
		}
	}
}

// balanced checks the books row by row.
func (w *world) balanced() fanfare.Verification {
	w.t.Helper()
	v, err := w.Verify(w.t.Context(), "", nil)
	require.NoError(w.t, err)
	require.Empty(w.t, v.Problems)
	require.True(w.t, v.OK)
	return v
}

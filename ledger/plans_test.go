package ledger_test

import (
	"context"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/ledger"
)

// A statement about a chunk must read the chunk, however large the tables are
// and however little the planner knows of a publication that is new: the statistics are
// those of another one.
func TestNoStatementReadsMoreThanItsChunk(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			const people, size, chunk, rounds = 30000, 5000, 500, 8
			w := newWorld(t)
			w.crowd(people)
			ref := w.running("article-1", size)
			w.Close()

			ctx := t.Context()
			var open, second, accepted []claimed
			var events []fanfare.ProviderEvent
			var doubts []fanfare.Doubt
			// Each is done as often as it says, with so many recipients every time.
			for _, step := range []step{
				{"claim new", 2 * rounds, func(l *ledger.Ledger) error {
					ref.N = 1 + len(open)/(size/chunk)
					c, err := tryNew(ctx, l, ref, chunk)
					open = append(open, c)
					return err
				}},
				{"settle as throttled", 2 * rounds, func(l *ledger.Ledger) error {
					ref.N = 1 + (2*rounds-len(open))/(size/chunk)
					c := open[0]
					open = open[1:]
					return l.Settle(ctx, ref, c.Call, result(fanfare.OutcomeThrottled))
				}},
				{"claim due", rounds, func(l *ledger.Ledger) error {
					ref.N = 1
					c, err := tryDue(ctx, l, ref, chunk, everyone)
					second = append(second, c)
					return err
				}},
				{"settle as accepted", rounds / 2, func(l *ledger.Ledger) error {
					c := second[0]
					second, accepted = second[1:], append(accepted, c)
					return l.Settle(ctx, ref, c.Call, result(fanfare.OutcomeAccepted))
				}},
				{"settle as ambiguous", rounds / 2, func(l *ledger.Ledger) error {
					c := second[0]
					second = second[1:]
					return l.Settle(ctx, ref, c.Call, result(fanfare.OutcomeAmbiguous))
				}},
				// Twice as many as recipients: chunks of them, from everywhere.
				{"take events", rounds, func(l *ledger.Ledger) error {
					if events == nil {
						events = eventsOf(ref, accepted)
					}
					chunk := events[:chunk]
					events = events[len(chunk):]
					return l.TakeEvents(ctx, chunk)
				}},
				{"apply events", rounds, func(l *ledger.Ledger) error {
					n, err := l.ApplyEvents(ctx, chunk)
					require.Equal(t, chunk, n)
					return err
				}},
				{"doubts", 1, func(l *ledger.Ledger) (err error) {
					doubts, _, err = l.Doubts(ctx, ref.Publication, fanfare.Email, 100)
					return err
				}},
				{"policy", rounds / 2, func(l *ledger.Ledger) error {
					d := doubts[0]
					doubts = doubts[1:]
					return l.ApplyPolicy(ctx, d)
				}},
				{"list the pending", 1, func(l *ledger.Ledger) error {
					_, err := l.Deliveries(ctx, fanfare.DeliveryQuery{Publication: ref.Publication, State: fanfare.Pending, Limit: chunk / 5})
					return err
				}},
				{"list what is skipped", 1, func(l *ledger.Ledger) error {
					_, err := l.Deliveries(ctx, fanfare.DeliveryQuery{Publication: ref.Publication, State: fanfare.Skipped, Limit: chunk / 5})
					return err
				}},
				{"cancel", 1, func(l *ledger.Ledger) error {
					_, err := l.Cancel(ctx, ref.Publication)
					return err
				}},
				{"close those never claimed", rounds, func(l *ledger.Ledger) error {
					ref.N = 4
					_, err := l.CloseBatch(ctx, ref, chunk)
					return err
				}},
				{"tally", rounds, func(l *ledger.Ledger) error {
					_, err := l.Tally(ctx, ref)
					return err
				}},
			} {
				w.readsAtMost(6*chunk*step.times, step, mode)
			}
		})
	}
}

// Nor may one about calls with one message each read all of a batch's.
func TestNoStatementReadsMoreThanItsCalls(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			const people, size, chunk, rounds = 10000, 2000, 50, 20
			w := newWorld(t, every)
			w.crowd(people)
			w.exec(`UPDATE subscribers SET phone = '+346' || lpad(subscriber_number::text, 8, '0')`)
			w.exec(`VACUUM ANALYZE subscribers`)
			d := draft("article-1")
			d.Channels = []fanfare.Channel{fanfare.SMS}
			p, err := w.Accept(t.Context(), d, "")
			require.NoError(t, err)
			require.NoError(t, w.Start(t.Context(), p.ID))
			w.planned(p.ID, size)
			ref := fanfare.BatchRef{Publication: p.ID, Channel: fanfare.SMS, N: 1}
			w.Close()

			ctx := t.Context()
			wanted := fanfare.Wanted{Provider: "twilio", Limit: chunk, Single: true}
			var open [][]fanfare.ClaimedCall
			settleNext := func(l *ledger.Ledger, kind fanfare.OutcomeKind) error {
				var all []fanfare.Settlement
				for _, call := range open[0] {
					all = append(all, fanfare.Settlement{Call: call.ID, Result: result(kind)})
				}
				open = open[1:]
				return l.SettleAll(ctx, ref, all)
			}
			for _, step := range []step{
				{"claim new", rounds, func(l *ledger.Ledger) error {
					c, err := l.ClaimNew(ctx, ref, wanted)
					open = append(open, c.Calls)
					return err
				}},
				{"settle as accepted", rounds / 2, func(l *ledger.Ledger) error { return settleNext(l, fanfare.OutcomeAccepted) }},
				{"settle as throttled", rounds / 2, func(l *ledger.Ledger) error { return settleNext(l, fanfare.OutcomeThrottled) }},
				{"claim due", rounds / 2, func(l *ledger.Ledger) error {
					c, err := l.ClaimDue(ctx, ref, wanted, everyone)
					open = append(open, c.Calls)
					return err
				}},
				{"settle the due", rounds / 2, func(l *ledger.Ledger) error { return settleNext(l, fanfare.OutcomeAccepted) }},
				{"claim nobody due", rounds, func(l *ledger.Ledger) error {
					c, err := l.ClaimDue(ctx, ref, wanted, everyone)
					require.Empty(t, c.Calls)
					return err
				}},
			} {
				w.readsAtMost(6*chunk*step.times, step, mode)
			}
		})
	}
}

// eventsOf are two for each recipient, shuffled: one in ten bounces.
func eventsOf(ref fanfare.BatchRef, claims []claimed) (events []fanfare.ProviderEvent) {
	for _, c := range claims {
		for _, r := range c.Recipients {
			last := fanfare.EventDelivered
			if r.Number%10 == 0 {
				last = fanfare.EventBounced
			}
			events = append(events, event(fanfare.EventProcessed, ref, int(r.Number), c.Call), event(last, ref, int(r.Number), c.Call))
		}
	}
	rand.Shuffle(len(events), func(i, j int) { events[i], events[j] = events[j], events[i] })
	return events
}

// crowd makes writer-1 with n subscribers, some of whom left and came back and
// some of whom left, and an earlier publication that went to as many: all the statistics
// know of.
func (w *world) crowd(n int) {
	w.t.Helper()
	w.topic("writer-1")
	w.exec(`
		INSERT INTO subscribers (subscriber_number, external_id, email, email_shared)
		SELECT n, 'reader-' || n, 'reader-' || n || '@mail.example', n % 10 = 0 FROM generate_series(1, $1::int) n`, n)
	w.exec(`
		INSERT INTO subscriptions (topic_id, subscriber_number, began_cut, ended_cut, ended_at)
		SELECT 1, n, nextval('cuts'), nextval('cuts') + 1, now() FROM generate_series(1, $1::int) n WHERE n % 4 = 0`, n)
	w.exec(`INSERT INTO subscriptions (topic_id, subscriber_number, began_cut) SELECT 1, n, nextval('cuts') FROM generate_series(1, $1::int) n WHERE n % 8 <> 0`, n)
	w.exec(`SET session_replication_role = replica`)
	w.exec(`
		WITH old AS MATERIALIZED (SELECT uuid_v7() AS id, uuid_v7() AS call)
		INSERT INTO deliveries (publication_id, subscriber_number, channel, batch, state, call_id, code)
		SELECT id, n, 'email', n / 5000 + 1, 'failed', call, 'sendgrid:400' FROM old, generate_series(1, $1::int) n`, n)
	w.exec(`INSERT INTO attention SELECT publication_id, channel, state, subscriber_number, batch FROM deliveries`)
	w.exec(`
		INSERT INTO attempts (publication_id, subscriber_number, channel, call_id, outcome)
		SELECT publication_id, subscriber_number, channel, call_id, 'rejected' FROM deliveries`)
	w.exec(`
		INSERT INTO calls (publication_id, call_id, channel, batch, first_number, last_number, size, provider, claimed_at, begin_by, call_until)
		SELECT publication_id, uuid_v7(), channel, batch, 1, 1, 1, 'sendgrid', now(), now() + interval '1 s', now() + interval '15 s' FROM deliveries`)
	w.exec(`SET session_replication_role = origin`)
	w.exec(`VACUUM ANALYZE`)
}

// step is something that the ledger does so many times.
type step struct {
	name  string
	times int
	do    func(l *ledger.Ledger) error
}

// readsAtMost does a step in a session of its own, which plans in one way, and holds how
// many rows of each table that reads.
func (w *world) readsAtMost(most int, s step, planMode string) {
	w.t.Helper()
	before := w.read()
	l, err := ledger.Open(w.t.Context(), w.url+"&plan_cache_mode="+planMode, 1, ledger.Config{Ladder: make([]time.Duration, 8), DoubtPolicy: map[fanfare.Channel]ledger.Policy{fanfare.Email: ledger.Resend}})
	require.NoError(w.t, err)
	for range s.times {
		require.NoError(w.t, s.do(l), s.name)
	}
	l.Close()
	for table, rows := range w.read() {
		// A recipient's row may be read by several parts of a statement, and its page's
		// dead versions with it. One reading of a whole table is a multiple of this.
		require.LessOrEqual(w.t, rows-before[table], int64(most), "%s: rows of %s", s.name, table)
	}
}

// read is how many rows of each table all sessions that have ended have read.
func (w *world) read() map[string]int64 {
	w.t.Helper()
	require.Eventually(w.t, func() bool {
		return one[int](w, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`) == 0
	}, 10*time.Second, time.Millisecond)
	w.exec(`SELECT pg_stat_force_next_flush()`) // what this session read itself
	rows, err := w.db.Query(context.Background(), `SELECT relname, COALESCE(seq_tup_read, 0) + COALESCE(idx_tup_fetch, 0) FROM pg_stat_user_tables`)
	require.NoError(w.t, err)
	defer rows.Close()
	read := map[string]int64{}
	for rows.Next() {
		var table string
		var n int64
		require.NoError(w.t, rows.Scan(&table, &n))
		table, _, _ = strings.Cut(table, "_20") // partitions count together
		read[table] += n
	}
	return read
}

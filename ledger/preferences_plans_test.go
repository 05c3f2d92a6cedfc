package ledger_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/ledger"
)

// What one person asks for reads what is theirs, however many others there are. Counted in
// pages: an index that is read from end to end for one entry counts as one row.
func TestWhatOnePersonAsksForReadsWhatIsTheirs(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			const people, times = 60000, 20
			w := newWorld(t)
			w.crowd(people)
			w.exec(`INSERT INTO topics (topic, name) SELECT 'topic-' || n, 'A name' FROM generate_series(1, 2000) n`)
			w.exec(`INSERT INTO channel_preferences SELECT n, 'sms', n % 2 = 0 FROM generate_series(1, $1::int) n`, people)
			w.exec(`INSERT INTO topic_preferences SELECT n, 1, 'email', n % 2 = 0 FROM generate_series(1, $1::int) n`, people)
			w.exec(`INSERT INTO preference_changes (subscriber_number, channel, became) SELECT n, 'sms', true FROM generate_series(1, $1::int) n`, people)
			w.exec(`INSERT INTO shared_addresses SELECT uuid_v7(), 'email', address_hash('reader-' || n || '@mail.example'), n FROM generate_series(1, $1::int) n`, people)
			w.exec(`INSERT INTO soft_bounces SELECT 'email', address_hash('reader-' || n || '@mail.example'), uuid_v7(), n, now() FROM generate_series(1, $1::int) n`, people)
			w.exec(`VACUUM ANALYZE`)
			w.Close()
			ctx := t.Context()
			for name, do := range map[string]func(l *ledger.Ledger, n int) error{
				"read": func(l *ledger.Ledger, n int) error {
					_, err := l.Preferences(ctx, fanfare.SubscriberNumber(n))
					return err
				},
				"put": func(l *ledger.Ledger, n int) error {
					_, err := l.PutPreferences(ctx, fanfare.SubscriberNumber(n), fanfare.Preferences{Channels: allOn(), Topics: byTopic{"writer-1": allOn()}})
					return err
				},
				"open a link": func(l *ledger.Ledger, n int) error {
					_, err := l.LinkedPreferences(ctx, fanfare.PreferencesLink{Topic: 1, Number: fanfare.SubscriberNumber(n)})
					return err
				},
				"read the changes": func(l *ledger.Ledger, n int) error {
					_, err := l.PreferenceChanges(ctx, fanfare.SubscriberNumber(n), 0, 100)
					return err
				},
				"erase": func(l *ledger.Ledger, n int) error { return l.EraseSubscriber(ctx, reader(people-n)) },
			} {
				before := w.pages()
				l, err := ledger.Open(ctx, w.url+"&plan_cache_mode="+mode, 1, ledger.Config{})
				require.NoError(t, err)
				for n := range times {
					require.NoError(t, do(l, n+1), name)
				}
				l.Close()
				for table, pages := range w.pages() {
					require.LessOrEqual(t, pages-before[table], int64(120*times), "%s: pages of %s", name, table)
				}
			}
		})
	}
}

// pages is how many pages of each table and its indexes all sessions that have ended have read.
func (w *world) pages() map[string]int64 {
	w.t.Helper()
	w.read() // waits for their end
	rows, err := w.db.Query(w.t.Context(), `
		SELECT relname, COALESCE(heap_blks_hit, 0) + COALESCE(heap_blks_read, 0) + COALESCE(idx_blks_hit, 0) + COALESCE(idx_blks_read, 0) FROM pg_statio_user_tables`)
	require.NoError(w.t, err)
	read := map[string]int64{}
	var table string
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&table, &n}, func() error { read[table] = n; return nil })
	require.NoError(w.t, err)
	return read
}

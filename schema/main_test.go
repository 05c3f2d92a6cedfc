package schema_test

import (
	"context"
	"os"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare/local/localtest"
)

func TestMain(m *testing.M) { os.Exit(localtest.Main(m)) }

// tables is a connection to a migrated database.
type tables struct {
	*pgx.Conn
	t *testing.T
}

func migrated(t *testing.T) *tables {
	t.Helper()
	return connect(t, localtest.Database(t))
}

func connect(t *testing.T, url string) *tables {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close(context.Background()) })
	return &tables{Conn: conn, t: t}
}

func (db *tables) exec(sql string, args ...any) {
	db.t.Helper()
	_, err := db.Exec(db.t.Context(), sql, args...)
	require.NoError(db.t, err, sql)
}

// one reads one value.
func one[T any](db *tables, sql string, args ...any) T {
	db.t.Helper()
	var v T
	require.NoError(db.t, db.QueryRow(db.t.Context(), sql, args...).Scan(&v), sql)
	return v
}

// all reads a column.
func all[T any](db *tables, sql string, args ...any) []T {
	db.t.Helper()
	rows, err := db.Query(db.t.Context(), sql, args...)
	require.NoError(db.t, err, sql)
	list, err := pgx.CollectRows(rows, pgx.RowTo[T])
	require.NoError(db.t, err, sql)
	return list
}

// refused runs a statement that must break a constraint, and returns the
// constraint's name.
func (db *tables) refused(sql string, args ...any) string {
	db.t.Helper()
	tx, err := db.Begin(db.t.Context())
	require.NoError(db.t, err)
	defer func() { require.NoError(db.t, tx.Rollback(db.t.Context())) }()
	_, err = tx.Exec(db.t.Context(), sql, args...)
	var pg *pgconn.PgError
	require.ErrorAs(db.t, err, &pg, sql)
	return pg.ConstraintName
}

// publication makes a topic, ten subscribers and a running publication by
// email and push, with two batches of five recipients on each channel and no delivery yet.
func (db *tables) publication() (id string) {
	db.t.Helper()
	db.exec(`INSERT INTO topics (topic, name) VALUES ('writer-1', 'Writer One')`)
	db.exec(`INSERT INTO subscribers (subscriber_number, external_id, email) SELECT n, 'reader-' || n, n || '@mail.example' FROM generate_series(1, 10) n`)
	db.exec(`INSERT INTO subscriptions (topic_id, subscriber_number, began_cut) SELECT 1, n, nextval('cuts') FROM generate_series(1, 10) n`)
	id = one[string](db, `
		INSERT INTO publications (publication_id, key, topic_id, class, channels, content, request, state, cut, audience, expires_at)
		VALUES (uuid_v7(), 'article-1', 1, 'bulk', '{email,push}', '{}', '{}', 'running', nextval('cuts'), 10, now() + interval '1 day')
		RETURNING publication_id::text`)
	db.exec(`
		INSERT INTO batches (publication_id, channel, n, first_number, last_number, claimed_through, intended)
		SELECT $1, c, n, 5 * n - 4, 5 * n, 5 * n - 5, 5 FROM unnest('{email,push}'::channel[]) c, generate_series(1, 2) n`, id)
	return id
}

// delivery writes one delivery in a state, with what the state asks for.
const delivery = `
INSERT INTO deliveries (publication_id, subscriber_number, channel, batch, state, call_id, due_at, reason, code)
SELECT $1, $2, $3::channel, ($2::bigint + 4) / 5, s.state, CASE WHEN s.state <> 'skipped' THEN gen_random_uuid() END,
  CASE WHEN s.state IN ('pending', 'in_doubt') THEN now() END,
  CASE WHEN s.state IN ('skipped', 'dead') THEN 'reason' END, CASE WHEN s.state = 'failed' THEN 'sendgrid:400' END
FROM (SELECT $4::text::delivery_state AS state) s`

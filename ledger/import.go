package ledger

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	fanfare "github.com/fanfare-dev/fanfare"
)

// Import subscribes many people to a topic. It calls next for chunk after chunk
// until io.EOF and commits each of them, so that an import cut in the middle
// keeps what it has and a repeat completes it. Of several lines with one id the
// first is taken, and the others are rejected.
//
// When next fails, the report of what was committed comes back with the error.
func (l *Ledger) Import(ctx context.Context, topic fanfare.Topic, next func(context.Context) ([]fanfare.ImportLine, error)) (fanfare.ImportReport, error) {
	var report fanfare.ImportReport
	op := "import into " + string(topic)
	id, err := topicID(ctx, l.pool, topic)
	if err != nil {
		return report, failed(op, err)
	}
	conn, err := l.pool.Acquire(ctx)
	if err != nil {
		return report, failed(op, err)
	}
	defer conn.Release()
	if err := openImport(ctx, conn); err != nil {
		return report, failed(op, err)
	}
	defer closeImport(conn)
	for {
		lines, err := next(ctx)
		if len(lines) > 0 {
			if err := importChunk(ctx, conn, id, lines, &report); err != nil {
				return report, failed(op, err)
			}
		}
		if errors.Is(err, io.EOF) {
			return report, nil
		}
		if err != nil {
			return report, fmt.Errorf("%s: %w", op, err)
		}
	}
}

// openImport makes the two tables of one import, private to its connection:
// the chunk's lines, and the ids seen so far, which find an id's second line
// however far it is from the first.
func openImport(ctx context.Context, conn *pgxpool.Conn) error {
	_, err := conn.Exec(ctx, `
		CREATE TEMP TABLE import_lines (line bigint, external_id text, email text, phone text, devices jsonb, locale text,
		  time_zone text, attributes jsonb, is_new boolean NOT NULL DEFAULT false);
		CREATE TEMP TABLE import_seen (external_id text PRIMARY KEY)`)
	return err
}

func closeImport(conn *pgxpool.Conn) {
	// The caller's context may be over; the tables must not outlive the import
	// on a pooled connection. If this fails the connection is not reused.
	if _, err := conn.Exec(context.Background(), `DROP TABLE IF EXISTS import_lines, import_seen`); err != nil {
		conn.Conn().Close(context.Background())
	}
}

func importChunk(ctx context.Context, conn *pgxpool.Conn, topic fanfare.TopicID, lines []fanfare.ImportLine, report *fanfare.ImportReport) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if err := copyLines(ctx, tx, lines); err != nil {
			return err
		}
		twice, err := rejectRepeats(ctx, tx)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(`+addressLock+`)`); err != nil {
			return err
		}
		created, changed, err := mergeSubscribers(ctx, tx)
		if err != nil {
			return err
		}
		touched, err := mergeSubscriptions(ctx, tx, topic, changed)
		if err != nil {
			return err
		}
		report.Created += created
		report.Updated += touched
		report.Unchanged += int64(len(lines)) - int64(len(twice)) - created - touched
		for _, line := range twice {
			report.Reject(line, "the id stands on an earlier line already")
		}
		return nil
	})
}

func copyLines(ctx context.Context, tx pgx.Tx, lines []fanfare.ImportLine) error {
	if _, err := tx.Exec(ctx, `TRUNCATE import_lines`); err != nil {
		return err
	}
	columns := []string{"line", "external_id", "email", "phone", "devices", "locale", "time_zone", "attributes"}
	_, err := tx.CopyFrom(ctx, pgx.Identifier{"import_lines"}, columns, pgx.CopyFromSlice(len(lines), func(i int) ([]any, error) {
		s := lines[i].Subscriber
		return []any{
			lines[i].Line, s.ID, textOrNull(s.Email), textOrNull(s.Phone), jsonOrNull(s.Devices),
			textOrNull(s.Locale), textOrNull(s.TimeZone), jsonOrNull(s.Attributes),
		}, nil
	}))
	return err
}

// rejectRepeats removes and returns the lines whose id an earlier line had.
func rejectRepeats(ctx context.Context, tx pgx.Tx) ([]int, error) {
	rows, err := tx.Query(ctx, `
		WITH repeated AS (
		  DELETE FROM import_lines i USING (
		    SELECT line, row_number() OVER (PARTITION BY external_id ORDER BY line) AS place FROM import_lines) p
		  WHERE p.line = i.line AND (p.place > 1 OR EXISTS (SELECT FROM import_seen s WHERE s.external_id = i.external_id))
		  RETURNING i.line
		) SELECT line FROM repeated ORDER BY line`)
	if err != nil {
		return nil, err
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		return nil, err
	}
	_, err = tx.Exec(ctx, `INSERT INTO import_seen SELECT external_id FROM import_lines`)
	return lines, err
}

// mergeSubscribers writes the chunk's people. Only rows that differ are
// written, so importing the same file again changes nothing. It
// returns how many were created and the numbers of those that were changed.
func mergeSubscribers(ctx context.Context, tx pgx.Tx) (created int64, changed []int64, err error) {
	rows, err := tx.Query(ctx, `
		UPDATE subscribers s SET email = i.email, phone = i.phone, devices = i.devices, locale = i.locale,
		  time_zone = i.time_zone, attributes = i.attributes, updated_at = clock_timestamp()
		FROM import_lines i WHERE s.external_id = i.external_id
		  AND (s.email, s.phone, s.devices, s.locale, s.time_zone, s.attributes)
		    IS DISTINCT FROM (i.email, i.phone, i.devices, i.locale, i.time_zone, i.attributes)
		RETURNING s.subscriber_number`)
	if err != nil {
		return 0, nil, err
	}
	if changed, err = pgx.CollectRows(rows, pgx.RowTo[int64]); err != nil {
		return 0, nil, err
	}
	// Numbers are taken only for those that are new, so that they stay dense.
	if _, err = tx.Exec(ctx, `
		UPDATE import_lines i SET is_new = true WHERE NOT EXISTS (SELECT FROM subscribers s WHERE s.external_id = i.external_id)`); err != nil {
		return 0, nil, err
	}
	tag, err := tx.Exec(ctx, `
		INSERT INTO subscribers (subscriber_number, external_id, email, phone, devices, locale, time_zone, attributes)
		SELECT nextval('subscriber_numbers'), i.external_id, i.email, i.phone, i.devices, i.locale, i.time_zone, i.attributes
		FROM (SELECT * FROM import_lines WHERE is_new ORDER BY line) i
		ON CONFLICT (external_id) DO NOTHING`)
	if err != nil {
		return 0, nil, err
	}
	_, err = tx.Exec(ctx, `
		WITH written AS (SELECT DISTINCT address_hash(email) AS email_hash FROM import_lines WHERE email IS NOT NULL),
		shared AS (
		  SELECT w.email_hash FROM written w
		  CROSS JOIN LATERAL (SELECT count(*) AS holders FROM subscribers s WHERE s.email_hash = w.email_hash) h
		  WHERE h.holders > 1
		)
		UPDATE subscribers s SET email_shared = true FROM shared WHERE s.email_hash = shared.email_hash AND NOT s.email_shared`)
	return tag.RowsAffected(), changed, err
}

// mergeSubscriptions opens the missing subscriptions and returns how many
// subscribers that were there before have changed, in data or in subscription.
func mergeSubscriptions(ctx context.Context, tx pgx.Tx, topic fanfare.TopicID, changed []int64) (touched int64, err error) {
	if err := shareTopic(ctx, tx, topic); err != nil {
		return 0, err
	}
	err = tx.QueryRow(ctx, `
		WITH cut AS MATERIALIZED (SELECT nextval('cuts') AS cut),
		person AS MATERIALIZED (
		  SELECT s.subscriber_number, i.is_new FROM import_lines i JOIN subscribers s USING (external_id)
		), opened AS (
		  INSERT INTO subscriptions (topic_id, subscriber_number, began_cut)
		  SELECT $1, p.subscriber_number, cut.cut FROM person p, cut ORDER BY p.subscriber_number
		  ON CONFLICT (topic_id, subscriber_number) WHERE ended_cut IS NULL DO NOTHING
		  RETURNING subscriber_number
		)
		SELECT count(*) FROM (SELECT unnest($2::bigint[]) UNION SELECT subscriber_number FROM opened) t (number)
		WHERE number NOT IN (SELECT subscriber_number FROM person WHERE is_new)`, topic, changed).Scan(&touched)
	return touched, err
}

func textOrNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

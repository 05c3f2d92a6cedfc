package ledger

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

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
	// The caller's context may be over; the tables must not outlive the import on
	// a pooled connection.
	defer closeImport(context.WithoutCancel(ctx), conn)
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
		CREATE TEMP TABLE import_lines (line bigint, external_id text COLLATE "C", email text, phone text, devices jsonb, locale text,
		  time_zone text, attributes jsonb);
		CREATE TEMP TABLE import_seen (external_id text COLLATE "C" PRIMARY KEY, line bigint)`)
	return err
}

func closeImport(ctx context.Context, conn *pgxpool.Conn) {
	// If this fails the connection is not reused.
	if _, err := conn.Exec(ctx, `DROP TABLE IF EXISTS import_lines, import_seen`); err != nil {
		conn.Conn().Close(ctx)
	}
}

func importChunk(ctx context.Context, conn *pgxpool.Conn, topic fanfare.TopicID, lines []fanfare.ImportLine, report *fanfare.ImportReport) error {
	var repeats []int
	var m merged
	var opened, left int64
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) (err error) {
		if err = copyLines(ctx, tx, lines); err != nil {
			return err
		}
		if repeats, err = takeRepeats(ctx, tx, len(lines)); err != nil {
			return err
		}
		if _, err = tx.Exec(ctx, `SELECT pg_advisory_xact_lock(`+addressLock+`)`); err != nil {
			return err
		}
		if m, err = mergeSubscribers(ctx, tx); err != nil {
			return err
		}
		if err := importDevices(ctx, tx, lines, m); err != nil {
			return err
		}
		marked, err := markShared(ctx, tx, m.written())
		if err != nil {
			return err
		}
		if opened, left, err = openSubscriptions(ctx, tx, topic, m); err != nil || marked == 0 {
			return err
		}
		return waitForClaims(ctx, tx)
	})
	if err != nil {
		return err
	}
	report.Created += int64(len(m.created))
	report.Updated += int64(len(m.changed)) + opened
	report.Unchanged += int64(len(m.same)) - opened
	report.Unsubscribed += left
	for _, line := range repeats {
		report.Reject(line, "the id stands on an earlier line already")
	}
	return nil
}

func copyLines(ctx context.Context, tx pgx.Tx, lines []fanfare.ImportLine) error {
	// Whatever the tables' sizes seem to be when a plan is made: a chunk's rows
	// are found by index, or every chunk would read all subscribers.
	if _, err := tx.Exec(ctx, `SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; TRUNCATE import_lines`); err != nil {
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

// takeRepeats removes and returns the lines whose id an earlier line had.
func takeRepeats(ctx context.Context, tx pgx.Tx, lines int) ([]int, error) {
	tag, err := tx.Exec(ctx, `
		INSERT INTO import_seen (external_id, line) SELECT external_id, line FROM import_lines ORDER BY line ON CONFLICT DO NOTHING`)
	if err != nil || tag.RowsAffected() == int64(lines) {
		return nil, err
	}
	rows, err := tx.Query(ctx, `
		WITH repeated AS (
		  DELETE FROM import_lines i USING import_seen s WHERE s.external_id = i.external_id AND s.line <> i.line RETURNING i.line
		) SELECT line FROM repeated ORDER BY line`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[int])
}

// merged are the numbers of a chunk's people.
type merged struct {
	created []int64
	changed []int64 // were there with other data
	same    []int64 // were there already
}

func (m merged) written() []int64 { return slices.Concat(m.created, m.changed) }

// mergeSubscribers writes the chunk's people. Only rows that differ are
// written, so importing the same file again changes nothing. Numbers are taken
// only for those that are new, so that they stay dense.
func mergeSubscribers(ctx context.Context, tx pgx.Tx) (merged, error) {
	rows, err := tx.Query(ctx, `
		WITH line AS MATERIALIZED (
		  SELECT i.*, s.subscriber_number, s.differs FROM import_lines i LEFT JOIN LATERAL (
		    SELECT s.subscriber_number, (s.email, s.phone, s.locale, s.time_zone, s.attributes)
		      IS DISTINCT FROM (i.email, i.phone, i.locale, i.time_zone, i.attributes) OR `+devicesOf+` IS DISTINCT FROM (
		        SELECT jsonb_agg(jsonb_strip_nulls(jsonb_build_object('token', d.token, 'platform', NULLIF(d.platform, ''))) ORDER BY address_hash(d.token))
		        FROM jsonb_to_recordset(i.devices) AS d (token text, platform text)) AS differs
		    FROM subscribers s WHERE s.external_id = i.external_id) s ON true
		), created AS (
		  INSERT INTO subscribers (subscriber_number, external_id, email, phone, locale, time_zone, attributes)
		  SELECT nextval('subscriber_numbers'), i.external_id, i.email, i.phone, i.locale, i.time_zone, i.attributes
		  FROM (SELECT * FROM line WHERE subscriber_number IS NULL ORDER BY line) i
		  RETURNING subscriber_number
		), changed AS (
		  UPDATE subscribers s SET email = i.email, phone = i.phone, locale = i.locale,
		    time_zone = i.time_zone, attributes = i.attributes, updated_at = clock_timestamp()
		  FROM line i WHERE i.differs AND s.subscriber_number = i.subscriber_number
		  RETURNING s.subscriber_number
		)
		SELECT subscriber_number, true, false FROM created
		UNION ALL SELECT subscriber_number, false, true FROM changed
		UNION ALL SELECT subscriber_number, false, false FROM line WHERE NOT differs`)
	if err != nil {
		return merged{}, err
	}
	var m merged
	var number int64
	var created, changed bool
	_, err = pgx.ForEachRow(rows, []any{&number, &created, &changed}, func() error {
		switch {
		case created:
			m.created = append(m.created, number)
		case changed:
			m.changed = append(m.changed, number)
		default:
			m.same = append(m.same, number)
		}
		return nil
	})
	return m, err
}

// importDevices gives those written the devices on their lines. Most imports have none.
func importDevices(ctx context.Context, tx pgx.Tx, lines []fanfare.ImportLine, m merged) error {
	if len(m.changed) == 0 && !slices.ContainsFunc(lines, func(l fanfare.ImportLine) bool { return len(l.Subscriber.Devices) > 0 }) {
		return nil
	}
	_, err := tx.Exec(ctx, devicesSQL(`
		SELECT s.subscriber_number, i.devices FROM import_lines i CROSS JOIN LATERAL (
		  SELECT s.subscriber_number FROM subscribers s WHERE s.external_id = i.external_id OFFSET 0) s
		WHERE i.devices IS NOT NULL`), m.written())
	return err
}

// markShared marks everyone who has an email address or a phone number in common with
// one of those written, and returns how many that were not marked before.
func markShared(ctx context.Context, tx pgx.Tx, written []int64) (marked int64, err error) {
	for _, address := range []string{"email", "phone"} {
		tag, err := tx.Exec(ctx, fmt.Sprintf(`
			WITH shared AS MATERIALIZED (
			  SELECT DISTINCT s.%[1]s_hash AS hash FROM unnest($1::bigint[]) AS w (number) JOIN subscribers s ON s.subscriber_number = w.number
			  WHERE (SELECT count(*) FROM (SELECT FROM subscribers o WHERE o.%[1]s_hash = s.%[1]s_hash LIMIT 2) holders) > 1
			)
			UPDATE subscribers s SET %[1]s_shared = true FROM shared WHERE s.%[1]s_hash = shared.hash AND NOT s.%[1]s_shared`, address), written)
		if err != nil {
			return marked, err
		}
		marked += tag.RowsAffected()
	}
	return marked, nil
}

// openSubscriptions opens the missing subscriptions, but for those that their readers
// ended. It returns how many of those whose data is the same had none, and of all how many
// had left.
func openSubscriptions(ctx context.Context, tx pgx.Tx, topic fanfare.TopicID, m merged) (opened, left int64, err error) {
	if err := shareTopic(ctx, tx, topic); err != nil {
		return 0, 0, err
	}
	for _, numbers := range [][]int64{m.written(), m.same} {
		slices.Sort(numbers)
		var leavers int64
		err := tx.QueryRow(ctx, `
			WITH line AS MATERIALIZED (
			  SELECT number, last.ended_by_reader IS TRUE AS gone, last.open IS TRUE AS open FROM unnest($2::bigint[]) AS n (number) LEFT JOIN LATERAL (
			    SELECT s.ended_by_reader, s.ended_cut IS NULL AS open FROM subscriptions s WHERE s.topic_id = $1 AND s.subscriber_number = n.number
			    ORDER BY s.topic_id DESC, s.subscriber_number DESC, s.began_cut DESC LIMIT 1) last ON true
			), opened AS (
			  INSERT INTO subscriptions (topic_id, subscriber_number, began_cut)
			  SELECT $1, number, (SELECT nextval('cuts')) FROM line WHERE NOT gone AND NOT open -- who leaves meanwhile has left
			  ON CONFLICT (topic_id, subscriber_number) WHERE ended_cut IS NULL DO NOTHING RETURNING 1
			)
			SELECT (SELECT count(*) FROM opened), (SELECT count(*) FROM line WHERE gone)`, topic, numbers).Scan(&opened, &leavers)
		if err != nil {
			return 0, 0, err
		}
		left += leavers
	}
	return opened, left, nil
}

package ledger

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	fanfare "github.com/fanfare-dev/fanfare"
)

// outboxChannel is where NOTIFY tells relays that the outbox has something.
const outboxChannel = "fanfare_outbox"

// LeaseOrders takes up to limit orders of the outbox for a while, oldest first.
// An order not done by then is taken by the next relay that asks.
func (l *Ledger) LeaseOrders(ctx context.Context, limit int, lease time.Duration) ([]fanfare.Order, error) {
	rows, err := l.pool.Query(ctx, `
		WITH free AS (
		  SELECT outbox_id FROM outbox WHERE leased_until IS NULL OR leased_until < clock_timestamp()
		  ORDER BY outbox_id LIMIT $1 FOR UPDATE SKIP LOCKED
		), leased AS (
		  UPDATE outbox o SET leased_until = clock_timestamp() + make_interval(secs => $2) FROM free
		  WHERE o.outbox_id = free.outbox_id RETURNING o.outbox_id, COALESCE(o.publication_id::text, ''), COALESCE(o.replay_id::text, ''), o.kind
		)
		SELECT * FROM leased ORDER BY outbox_id`, limit, seconds(lease))
	if err != nil {
		return nil, failed("lease outbox", err)
	}
	orders, err := pgx.CollectRows(rows, pgx.RowToStructByPos[fanfare.Order])
	return orders, failed("lease outbox", err)
}

// DoneOrders removes orders that Temporal has taken.
func (l *Ledger) DoneOrders(ctx context.Context, ids []int64) error {
	_, err := l.pool.Exec(ctx, `DELETE FROM outbox WHERE outbox_id = ANY ($1)`, ids)
	return failed("empty outbox", err)
}

// Wake tells the relays that there is work. Outside the transaction that
// ordered it, because commits with a NOTIFY wait for each other; a lost one costs a relay's
// poll interval.
func (l *Ledger) Wake(ctx context.Context) error {
	_, err := l.pool.Exec(ctx, `SELECT pg_notify('`+outboxChannel+`', '')`)
	return failed("wake relays", err)
}

// Listen calls woken for every Wake until ctx ends or the connection breaks.
func (l *Ledger) Listen(ctx context.Context, woken func()) error {
	conn, err := l.pool.Acquire(ctx)
	if err != nil {
		return failed("listen", err)
	}
	// The connection keeps the LISTEN; it must not go back to the pool.
	c := conn.Hijack()
	defer c.Close(context.WithoutCancel(ctx))
	if _, err := c.Exec(ctx, `LISTEN `+outboxChannel); err != nil {
		return failed("listen", err)
	}
	woken() // for what was ordered while nobody listened
	for {
		if _, err := c.WaitForNotification(ctx); err != nil {
			return failed("listen", err)
		}
		woken()
	}
}

// Unfinished returns publications that are not finished, oldest first, behind
// the given one.
func (l *Ledger) Unfinished(ctx context.Context, after fanfare.PublicationID, limit int) ([]fanfare.PublicationID, error) {
	rows, err := l.pool.Query(ctx, `
		SELECT publication_id FROM publications
		WHERE finished_at IS NULL AND ($1::uuid IS NULL OR publication_id > $1::uuid)
		ORDER BY publication_id LIMIT $2`, textOrNull(string(after)), limit)
	if err != nil {
		return nil, failed("list unfinished", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[fanfare.PublicationID])
	return ids, failed("list unfinished", err)
}

// Elect runs do if no other process runs it under this name at the moment, and
// reports whether it did. The election lasts as long as the connection, so a
// dead process gives it up.
func (l *Ledger) Elect(ctx context.Context, name string, do func(context.Context) error) (elected bool, err error) {
	err = l.transact(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SET LOCAL idle_in_transaction_session_timeout = '10min'`); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, `SELECT pg_try_advisory_xact_lock(hashtextextended('fanfare elect ' || $1, 0))`, name).Scan(&elected); err != nil || !elected {
			return err
		}
		return do(ctx)
	})
	return elected, failed("elect "+name, err)
}

// MakePartitions makes the missing monthly partitions up to two months ahead.
func (l *Ledger) MakePartitions(ctx context.Context) error {
	_, err := l.pool.Exec(ctx, `SELECT make_partitions(2)`)
	return failed("make partitions", err)
}

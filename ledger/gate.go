package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	fanfare "github.com/fanfare-dev/fanfare"
)

const (
	// quietStep is how often a stop looks whether earlier claims have begun.
	quietStep = 20 * time.Millisecond
	// quietMargin is kept behind the last begin_by: a call that passed its last check at
	// that very moment reaches the provider a little later.
	quietMargin = 250 * time.Millisecond
	// quietLooksBack is how far behind the clock a claim in flight is looked for: by
	// more than a clock is ever stepped, and few enough calls to read again and again.
	quietLooksBack = time.Minute
)

// gateLock is the advisory lock of a publication ($1): claims share it, and who
// stops the publication holds it alone for a moment. It is not a lock on the
// row, because row locks are not fair: a stream of overlapping FOR SHARE, which a
// fan-out is, keeps an UPDATE waiting for seconds. Those who want this lock queue.
const gateLock = `hashtextextended('fanfare gate ' || $1::text, 0)`

// Cancel ends a publication for good. When it returns, no provider call for
// the publication begins any more, on any worker. Cancelling again is no error.
func (l *Ledger) Cancel(ctx context.Context, id fanfare.PublicationID) (fanfare.Publication, error) {
	return l.stop(ctx, "cancel", id, `
		UPDATE publications SET state = 'cancelled', stopped_at = clock_timestamp(), resume_state = NULL
		WHERE publication_id = $1 AND state IN ('accepted', 'scheduled', 'running', 'paused')`, fanfare.Cancelled)
}

// Pause holds a publication until Resume. When it returns, no provider call for
// the publication begins until then. Pausing again is no error.
func (l *Ledger) Pause(ctx context.Context, id fanfare.PublicationID) (fanfare.Publication, error) {
	return l.stop(ctx, "pause", id, `
		UPDATE publications SET state = 'paused', resume_state = state
		WHERE publication_id = $1 AND state IN ('accepted', 'scheduled', 'running')`, fanfare.Paused)
}

// Resume lets a paused publication go on. Resuming one that runs is no error.
func (l *Ledger) Resume(ctx context.Context, id fanfare.PublicationID) (fanfare.Publication, error) {
	return l.turn(ctx, "resume", id, `
		UPDATE publications SET state = resume_state, resume_state = NULL
		WHERE publication_id = $1 AND state = 'paused'`, fanfare.Running, fanfare.Accepted, fanfare.Scheduled)
}

func (l *Ledger) stop(ctx context.Context, op string, id fanfare.PublicationID, sql string, already fanfare.PublicationState) (fanfare.Publication, error) {
	if _, err := l.turn(ctx, op, id, sql, already); err != nil {
		return fanfare.Publication{}, err
	}
	if err := l.waitForQuiet(ctx, id); err != nil {
		return fanfare.Publication{}, failed(op+" "+string(id), err)
	}
	return l.Publication(ctx, id)
}

// turn changes a publication's state and orders its workflow to be woken, in
// one transaction. It waits for every claim in flight, and later claims wait for it.
func (l *Ledger) turn(ctx context.Context, op string, id fanfare.PublicationID, sql string, already ...fanfare.PublicationState) (fanfare.Publication, error) {
	err := l.transact(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(`+gateLock+`)`, id); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, sql, id)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 1 {
			_, err = tx.Exec(ctx, `INSERT INTO outbox (publication_id, kind) VALUES ($1, 'wake')`, id)
			return err
		}
		var state fanfare.PublicationState
		err = tx.QueryRow(ctx, `SELECT state FROM publications WHERE publication_id = $1`, id).Scan(&state)
		if errors.Is(err, pgx.ErrNoRows) {
			return fanfare.ErrNotFound
		}
		if err != nil {
			return err
		}
		if slices.Contains(already, state) {
			return nil
		}
		return fmt.Errorf("it is %s: %w", state, fanfare.ErrWrongState)
	})
	if err != nil {
		return fanfare.Publication{}, failed(op+" "+string(id), err)
	}
	return l.Publication(ctx, id)
}

// waitForQuiet returns once every earlier claim is settled or released, or past
// its time to begin: after beginWithin and quietMargin, counted here. That is no business
// of the database's clock, which may be set forward or be another server's since. Later
// claims, which there are when somebody resumes meanwhile, are not waited for.
func (l *Ledger) waitForQuiet(ctx context.Context, id fanfare.PublicationID) error {
	tick := time.NewTicker(quietStep)
	defer tick.Stop()
	for until := time.Now().Add(beginWithin + quietMargin); time.Now().Before(until); {
		var open bool
		err := l.pool.QueryRow(ctx, `
			SELECT EXISTS (SELECT FROM calls WHERE publication_id = $1 AND outcome IS NULL AND call_id BETWEEN `+callsSince("$2")+`)`,
			id, seconds(quietLooksBack)).Scan(&open)
		if err != nil || !open {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

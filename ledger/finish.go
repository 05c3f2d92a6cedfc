package ledger

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	fanfare "github.com/fanfare-dev/fanfare"
)

// Start moves an accepted or scheduled publication to running once its time has
// come. Starting one that runs already changes nothing.
func (l *Ledger) Start(ctx context.Context, id fanfare.PublicationID) error {
	_, err := l.pool.Exec(ctx, `
		UPDATE publications SET state = 'running', started_at = clock_timestamp()
		WHERE publication_id = $1 AND state IN ('accepted', 'scheduled') AND COALESCE(scheduled_at, accepted_at) <= clock_timestamp()`, id)
	return failed("start "+string(id), err)
}

// Expire stops a publication whose time is over while somebody in its audience
// has not come to an end. Nothing is sent late; what was sent in time is finished.
func (l *Ledger) Expire(ctx context.Context, id fanfare.PublicationID) error {
	_, err := l.pool.Exec(ctx, `
		UPDATE publications SET state = 'expired', stopped_at = clock_timestamp(), resume_state = NULL
		WHERE publication_id = $1 AND state IN ('accepted', 'scheduled', 'running', 'paused') AND expires_at <= clock_timestamp()
		  AND audience * cardinality(channels) > (
		    SELECT COALESCE(sum(sent + delivered + failed + skipped + dead), 0) FROM batches WHERE publication_id = $1)`, id)
	return failed("expire "+string(id), err)
}

// CloseBatch writes up to limit of the batch's recipients who were not sent to
// as skipped, when the publication was cancelled or has expired; in any other
// state that is fanfare.ErrWrongState. done is true when nobody is left who could still
// be sent to; calls under way settle by themselves.
func (l *Ledger) CloseBatch(ctx context.Context, ref fanfare.BatchRef, limit int) (done bool, err error) {
	b := &pgx.Batch{}
	b.Queue(lockBatchSQL, ref.Publication, ref.Channel, ref.N)
	b.Queue(closeNewSQL, ref.Publication, ref.Channel, ref.N, limit)
	b.Queue(closeWaitingSQL, ref.Publication, ref.Channel, ref.N)
	b.Queue(`
		SELECT b.claimed_through >= b.last_number, p.state FROM batches b JOIN publications p USING (publication_id)
		WHERE b.publication_id = $1 AND b.channel = $2 AND b.n = $3`, ref.Publication, ref.Channel, ref.N).
		QueryRow(func(row pgx.Row) error {
			var state fanfare.PublicationState
			err := row.Scan(&done, &state)
			switch {
			case errors.Is(err, pgx.ErrNoRows):
				return fanfare.ErrNotFound
			case err == nil && state != fanfare.Cancelled && state != fanfare.Expired:
				return fmt.Errorf("it is %s: %w", state, fanfare.ErrWrongState)
			}
			return err
		})
	return done, failed("close "+ref.WorkflowID(), l.pipeline(ctx, b))
}

const (
	stoppedSQL = `
WITH stopped AS MATERIALIZED (
  SELECT p.topic_id, p.cut, p.state::text AS reason FROM publications p
  WHERE p.publication_id = $1 AND p.state IN ('cancelled', 'expired')
)`

	closeNewSQL = stoppedSQL + `, slice AS MATERIALIZED (
  SELECT b.claimed_through, b.last_number FROM batches b, stopped
  WHERE b.publication_id = $1 AND b.channel = $2 AND b.n = $3 AND b.claimed_through < b.last_number
), member AS MATERIALIZED (
  SELECT s.subscriber_number FROM subscriptions s
  WHERE s.topic_id = (SELECT topic_id FROM stopped)
    AND s.subscriber_number > (SELECT claimed_through FROM slice) AND s.subscriber_number <= (SELECT last_number FROM slice)
    AND s.began_cut < (SELECT cut FROM stopped) AND (s.ended_cut IS NULL OR s.ended_cut > (SELECT cut FROM stopped))
  ORDER BY s.topic_id, s.subscriber_number LIMIT $4
), moved AS (
  UPDATE batches b SET claimed_through = CASE
    WHEN (SELECT count(*) FROM member) < $4 THEN b.last_number ELSE (SELECT max(subscriber_number) FROM member) END
  WHERE b.publication_id = $1 AND b.channel = $2 AND b.n = $3 AND EXISTS (SELECT FROM slice)
)
INSERT INTO deliveries (publication_id, subscriber_number, channel, batch, state, reason)
SELECT $1, m.subscriber_number, $2, $3, 'skipped', stopped.reason FROM member m, stopped`

	// Who waits to be sent to again without evidence may have been sent to: that
	// they were skipped would be a guess, and nothing could prove it wrong later.
	closeWaitingSQL = stoppedSQL + `, slice AS MATERIALIZED (
  SELECT b.first_number, b.claimed_through FROM batches b, stopped WHERE b.publication_id = $1 AND b.channel = $2 AND b.n = $3
), waiting AS MATERIALIZED (
  SELECT a.subscriber_number FROM attention a
  WHERE a.publication_id = $1 AND a.channel = $2 AND a.state = 'pending'
    AND a.subscriber_number >= (SELECT first_number FROM slice) AND a.subscriber_number <= (SELECT claimed_through FROM slice)
)
UPDATE deliveries d SET state = CASE WHEN d.resends > 0 THEN 'dead' ELSE 'skipped' END::delivery_state,
  reason = CASE WHEN d.resends > 0 THEN 'doubt_held' ELSE (SELECT reason FROM stopped) END, code = NULL, due_at = NULL, changed_at = clock_timestamp()
WHERE d.publication_id = $1 AND d.channel = $2 AND d.batch = $3 AND d.state = 'pending'
  AND d.subscriber_number >= (SELECT min(subscriber_number) FROM waiting) AND d.subscriber_number <= (SELECT max(subscriber_number) FROM waiting)`
)

// OpenBatches returns, in order, at most limit batches of a publication's
// channel behind the nth that have something left to do.
func (l *Ledger) OpenBatches(ctx context.Context, id fanfare.PublicationID, channel fanfare.Channel, after, limit int) ([]fanfare.Batch, error) {
	rows, err := l.pool.Query(ctx, `
		SELECT n, first_number, last_number, intended, claimed_through >= last_number FROM batches
		WHERE publication_id = $1 AND channel = $2 AND n > $3 AND sent + delivered + failed + skipped + dead < intended
		ORDER BY n LIMIT $4`, id, channel, after, limit)
	if err != nil {
		return nil, failed("open batches of "+string(id), err)
	}
	batches, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (fanfare.Batch, error) {
		b := fanfare.Batch{BatchRef: fanfare.BatchRef{Publication: id, Channel: channel}}
		err := row.Scan(&b.N, &b.First, &b.Last, &b.Intended, &b.AllClaimed)
		return b, err
	})
	return batches, failed("open batches of "+string(id), err)
}

// Finish closes a publication when, and only when, everyone in its audience has
// come to an end: pending + sending + in_doubt = 0. It returns the publication as it is then.
func (l *Ledger) Finish(ctx context.Context, id fanfare.PublicationID) (fanfare.Publication, error) {
	op := "finish " + string(id)
	p, err := l.Publication(ctx, id)
	// Looked at without a lock first: a publication under way is asked often,
	// and its row is shared by every claim.
	if err != nil || p.Totals.Unfinished() > 0 || p.FinishedAt != nil {
		return p, err
	}
	if err := l.transact(ctx, func(tx pgx.Tx) error { return finish(ctx, tx, id) }); err != nil {
		return fanfare.Publication{}, failed(op, err)
	}
	return l.Publication(ctx, id)
}

func finish(ctx context.Context, tx pgx.Tx, id fanfare.PublicationID) error {
	if _, err := tx.Exec(ctx, `SELECT FROM publications WHERE publication_id = $1 FOR UPDATE`, id); err != nil {
		return err
	}
	// Whose turn it was for an address is no question any more, and a hash of an address is
	// kept no longer than it is needed.
	_, err := tx.Exec(ctx, `
		WITH finished AS (
		  UPDATE publications p SET finished_at = clock_timestamp(),
		    state = CASE WHEN p.state <> 'running' THEN p.state WHEN books.bad > 0 THEN 'completed_with_failures' ELSE 'completed' END
		  FROM (
		    SELECT COALESCE(sum(sent + delivered + failed + skipped + dead), 0) AS ended, COALESCE(sum(failed + dead), 0) AS bad
		    FROM batches WHERE publication_id = $1) books
		  WHERE p.publication_id = $1 AND p.finished_at IS NULL AND p.state IN ('running', 'cancelled', 'expired')
		    AND books.ended = p.audience * cardinality(p.channels)
		  RETURNING p.publication_id
		)
		DELETE FROM shared_addresses WHERE publication_id = $1 AND EXISTS (SELECT FROM finished)`, id)
	return err
}

// BatchProblems names deliveries of a batch that did not go well, for people:
// at most limit ids, failed, dead and in doubt, with a count of the rest.
func (l *Ledger) BatchProblems(ctx context.Context, ref fanfare.BatchRef, limit int) (fanfare.BatchProblems, error) {
	p := fanfare.BatchProblems{Reasons: map[string]int64{}}
	rows, err := l.pool.Query(ctx, `
		SELECT state || ' ' || reason, count FROM batch_reasons
		WHERE publication_id = $1 AND channel = $2 AND n = $3 AND count > 0`, ref.Publication, ref.Channel, ref.N)
	if err != nil {
		return p, failed("problems of "+ref.WorkflowID(), err)
	}
	var reason string
	var count int64
	if _, err = pgx.ForEachRow(rows, []any{&reason, &count}, func() error { p.Reasons[reason] = count; return nil }); err != nil {
		return p, failed("problems of "+ref.WorkflowID(), err)
	}
	rows, err = l.pool.Query(ctx, `
		SELECT state, subscriber_number FROM attention
		WHERE publication_id = $1 AND channel = $2 AND batch = $3 AND state IN ('failed', 'dead', 'in_doubt')
		UNION ALL
		SELECT state, subscriber_number FROM deliveries
		WHERE publication_id = $1 AND channel = $2 AND batch = $3 AND state = 'skipped'
		  AND subscriber_number BETWEEN (SELECT first_number FROM batches WHERE publication_id = $1 AND channel = $2 AND n = $3)
		    AND (SELECT last_number FROM batches WHERE publication_id = $1 AND channel = $2 AND n = $3)
		LIMIT $4`, ref.Publication, ref.Channel, ref.N, limit)
	if err != nil {
		return p, failed("problems of "+ref.WorkflowID(), err)
	}
	var state fanfare.State
	id := fanfare.DeliveryID{Publication: ref.Publication, Channel: ref.Channel}
	_, err = pgx.ForEachRow(rows, []any{&state, &id.Number}, func() error {
		p.Deliveries = append(p.Deliveries, fmt.Sprintf("%s %s", state, id))
		return nil
	})
	return p, failed("problems of "+ref.WorkflowID(), err)
}

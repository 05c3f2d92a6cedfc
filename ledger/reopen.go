package ledger

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	fanfare "github.com/fanfare-dev/fanfare"
)

// Reopen takes the dead deliveries of a batch back to pending, with fresh
// attempts, for a workflow run that was reset; those that were held because of doubt
// stay. A run reopens a batch once, however often it is asked to. The publication runs
// again and expires anew, unless its publisher said when. Where nothing may be
// sent any more, or not yet, why says so.
func (l *Ledger) Reopen(ctx context.Context, ref fanfare.BatchRef, run string) (reopened int64, why string, err error) {
	b := &pgx.Batch{}
	b.Queue(enterGateSQL, ref.Publication)
	b.Queue(`SELECT pg_advisory_xact_lock_shared(` + deadLock + `)`)
	b.Queue(lockBatchSQL, ref.Publication, ref.Channel, ref.N)
	b.Queue(reopenRunSQL, ref.Publication, ref.Channel, ref.N, seconds(l.cfg.Expires), run).QueryRow(func(row pgx.Row) error {
		err := row.Scan(&reopened, &why)
		if errors.Is(err, pgx.ErrNoRows) {
			return fanfare.ErrNotFound
		}
		return err
	})
	return reopened, why, failed("reopen "+ref.WorkflowID(), l.pipeline(ctx, b))
}

// ReopenForReplay does the same for the deliveries of a batch that wait for a replay.
func (l *Ledger) ReopenForReplay(ctx context.Context, id fanfare.ReplayID, ref fanfare.BatchRef) (reopened int64, err error) {
	b := &pgx.Batch{}
	b.Queue(enterGateSQL, ref.Publication)
	b.Queue(`SELECT pg_advisory_xact_lock_shared(` + deadLock + `)`)
	b.Queue(lockBatchSQL, ref.Publication, ref.Channel, ref.N)
	// A replay that is being cancelled either waits for this, or has been cancelled.
	b.Queue(`SELECT FROM replays WHERE replay_id = $1 FOR SHARE`, id)
	b.Queue(reopenReplaySQL, ref.Publication, ref.Channel, ref.N, seconds(l.cfg.Expires), id).
		QueryRow(func(row pgx.Row) error { return row.Scan(&reopened) })
	return reopened, failed(fmt.Sprintf("reopen %s for replay %s", ref.WorkflowID(), id), l.pipeline(ctx, b))
}

// ReplayBatches returns, in order, at most limit batches that a replay has
// deliveries in, behind the given one.
func (l *Ledger) ReplayBatches(ctx context.Context, id fanfare.ReplayID, after fanfare.BatchRef, limit int) ([]fanfare.ReplayBatch, error) {
	rows, err := l.pool.Query(ctx, `
		SELECT b.publication_id, b.channel, b.n, b.first_number, b.last_number, b.intended, p.class, t.topic
		FROM (
		  SELECT DISTINCT publication_id, channel, batch FROM replay_deliveries
		  WHERE replay_id = $1 AND ($2::uuid IS NULL OR (publication_id, channel, batch) > ($2::uuid, $3::text::channel, $4::int))
		  ORDER BY publication_id, channel, batch LIMIT $5) r
		JOIN batches b ON b.publication_id = r.publication_id AND b.channel = r.channel AND b.n = r.batch
		JOIN publications p ON p.publication_id = r.publication_id JOIN topics t USING (topic_id)
		ORDER BY b.publication_id, b.channel, b.n`, id, textOrNull(string(after.Publication)), textOrNull(string(after.Channel)), after.N, limit)
	if err != nil {
		return nil, failed("batches of replay "+string(id), err)
	}
	batches, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (fanfare.ReplayBatch, error) {
		var b fanfare.ReplayBatch
		err := row.Scan(&b.Batch.Publication, &b.Batch.Channel, &b.Batch.N, &b.Batch.First, &b.Batch.Last, &b.Batch.Intended, &b.Class, &b.Topic)
		return b, err
	})
	return batches, failed("batches of replay "+string(id), err)
}

// The parts of a reopening: $1 publication, $2 channel, $3 batch, $4 the default
// life of a publication in seconds, $5 the run or the replay. Each begins with the
// dead: the numbers to take back.
const (
	deadOfBatchSQL = `
SELECT a.subscriber_number, d.reason FROM attention a CROSS JOIN LATERAL (
    SELECT d.reason FROM deliveries d WHERE d.publication_id = $1 AND d.channel = $2 AND d.subscriber_number = a.subscriber_number AND d.state = 'dead' OFFSET 0) d
  WHERE a.publication_id = $1 AND a.channel = $2 AND a.state = 'dead'
    AND a.subscriber_number >= (SELECT first_number FROM batches WHERE publication_id = $1 AND channel = $2 AND n = $3)
    AND a.subscriber_number <= (SELECT last_number FROM batches WHERE publication_id = $1 AND channel = $2 AND n = $3)`

	// Who was held because of doubt is sent to again without evidence: that is what
	// resends counts. A publication that has ended runs again; a new life begins where
	// nobody said when it ends. One that has expired and is not finished stays so: those
	// who are just being skipped, because their time is over, would be sent to late.
	takeBackSQL = `
opened AS (
  UPDATE publications p SET finished_at = NULL, stopped_at = NULL,
    state = CASE WHEN p.state IN ('completed', 'completed_with_failures', 'expired') THEN 'running' ELSE p.state END,
    expires_at = CASE WHEN p.request ? 'expires_at' THEN p.expires_at ELSE GREATEST(p.expires_at, clock_timestamp() + make_interval(secs => $4)) END
  WHERE p.publication_id = $1 AND p.state <> 'cancelled' AND (p.state <> 'expired' OR p.finished_at IS NOT NULL)
    AND (p.expires_at > clock_timestamp() OR NOT p.request ? 'expires_at') AND EXISTS (SELECT FROM dead)
  RETURNING p.publication_id
), moved AS (
  UPDATE deliveries d SET state = 'pending', resends = GREATEST(d.resends, (d.reason = 'doubt_held')::int),
    reason = NULL, code = NULL, attempts = 0, due_at = clock_timestamp(), changed_at = clock_timestamp()
  WHERE d.publication_id = $1 AND d.channel = $2 AND d.state = 'dead' AND EXISTS (SELECT FROM opened)
    AND d.subscriber_number >= (SELECT min(subscriber_number) FROM dead) AND d.subscriber_number <= (SELECT max(subscriber_number) FROM dead)
    AND (d.subscriber_number IN (SELECT subscriber_number FROM dead)) IS TRUE
  RETURNING d.subscriber_number
), told AS (
  INSERT INTO outbox (publication_id, kind) SELECT $1, 'wake' WHERE EXISTS (SELECT FROM moved)
)`

	reopenRunSQL = `
WITH this_run AS (
  UPDATE batches SET reopened_by = $5 WHERE publication_id = $1 AND channel = $2 AND n = $3 AND reopened_by IS DISTINCT FROM $5 RETURNING n
), dead AS MATERIALIZED (
  SELECT subscriber_number FROM (` + deadOfBatchSQL + `) d WHERE reason <> 'doubt_held' AND EXISTS (SELECT FROM this_run)
), ` + takeBackSQL + `
SELECT (SELECT count(*) FROM moved), CASE
  WHEN NOT EXISTS (SELECT FROM dead) OR EXISTS (SELECT FROM opened) THEN ''
  WHEN p.state = 'cancelled' THEN 'the publication was cancelled'
  WHEN p.state = 'expired' AND p.finished_at IS NULL THEN 'the publication has expired and is just being closed: reset this workflow once more in a minute' ELSE 'the time that its publisher set is over' END
FROM publications p WHERE p.publication_id = $1`

	reopenReplaySQL = `
WITH waiting AS MATERIALIZED (
  SELECT r.subscriber_number FROM replay_deliveries r JOIN replays USING (replay_id)
  WHERE r.replay_id = $5 AND r.publication_id = $1 AND r.channel = $2 AND r.batch = $3 AND r.taken_at IS NULL AND replays.state = 'running'
    AND NOT EXISTS (SELECT FROM publications p WHERE p.publication_id = $1 AND p.state = 'expired' AND p.finished_at IS NULL) -- they go on waiting
), dead AS MATERIALIZED (
  SELECT subscriber_number FROM (` + deadOfBatchSQL + `) d WHERE (subscriber_number IN (SELECT subscriber_number FROM waiting)) IS TRUE
), ` + takeBackSQL + `, taken AS (
  UPDATE replay_deliveries r SET taken_at = clock_timestamp(), passed = (r.subscriber_number IN (SELECT subscriber_number FROM moved)) IS NOT TRUE
  WHERE r.replay_id = $5 AND r.publication_id = $1 AND r.channel = $2 AND r.batch = $3 AND r.taken_at IS NULL
    AND (r.subscriber_number IN (SELECT subscriber_number FROM waiting)) IS TRUE
)
SELECT count(*) FROM moved`
)

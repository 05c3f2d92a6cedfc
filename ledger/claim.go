package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	fanfare "github.com/fanfare-dev/fanfare"
)

// ClaimNew claims up to limit recipients of the batch who have no row yet and
// moves the batch's cursor past them. Those who must not be sent to are written as skipped,
// each with its reason.
func (l *Ledger) ClaimNew(ctx context.Context, ref fanfare.BatchRef, provider string, limit int) (fanfare.Claim, error) {
	return l.claim(ctx, ref, claimNewSQL, ref.Publication, ref.Channel, ref.N, limit, provider, seconds(beginWithin), seconds(callWithin))
}

// ClaimDue claims up to limit waiting recipients of the batch whose time has
// come, out of a range of numbers.
func (l *Ledger) ClaimDue(ctx context.Context, ref fanfare.BatchRef, provider string, limit int, within fanfare.Range) (fanfare.Claim, error) {
	return l.claim(ctx, ref, claimDueSQL, ref.Publication, ref.Channel, ref.N, limit, provider, seconds(beginWithin), seconds(callWithin), within.First, within.Last, seconds(within.DueIn))
}

func (l *Ledger) claim(ctx context.Context, ref fanfare.BatchRef, sql string, args ...any) (fanfare.Claim, error) {
	claim := fanfare.Claim{BeginWithin: beginWithin, CallWithin: callWithin}
	b := &pgx.Batch{}
	b.Queue(`SELECT pg_advisory_xact_lock_shared(` + sharingLock + `)`)
	b.Queue(enterGateSQL, ref.Publication)
	b.Queue(lockBatchSQL, ref.Publication, ref.Channel, ref.N)
	b.Queue(sql, args...).Query(func(rows pgx.Rows) error {
		var r fanfare.Claimed
		_, err := pgx.ForEachRow(rows, []any{&claim.Call, &r.Number, &r.Address}, func() error {
			claim.Recipients = append(claim.Recipients, r)
			return nil
		})
		return err
	})
	queueTally(b, ref, &claim.Tally)
	if err := l.pipeline(ctx, b); err != nil {
		return fanfare.Claim{}, failed("claim "+ref.WorkflowID(), err)
	}
	return claim, nil
}

// enterGateSQL passes the gate: cancel and pause wait for the claims in flight,
// and later claims see them. Its own statement, because the next one's snapshot must
// be younger than the lock.
const enterGateSQL = `SELECT pg_advisory_xact_lock_shared(` + gateLock + `)`

const lockBatchSQL = `SELECT FROM batches WHERE publication_id = $1 AND channel = $2 AND n = $3 FOR UPDATE`

// The parts of a claim. $1 publication, $2 channel, $3 batch, $4 limit,
// $5 provider, $6 and $7 the spans of the lease; $8 and $9 a range of numbers, and
// $10 how many seconds early they may be taken.
//
// The planner knows nothing of a publication that is new, or nothing of the
// parameters in a plan it keeps, and takes one row to be in each table; then every order
// of joins looks cheap. So it is given no choice: scalar sub-selects bound a range of
// the primary key, in whose order LIMIT stops after a chunk; OFFSET 0 makes a look-up by
// primary key; IN behind IS TRUE is a hash table.
const (
	gateSQL = `
WITH gate AS MATERIALIZED (
  SELECT p.topic_id, p.cut, uuid_v7() AS call_id, clock_timestamp() AS now FROM publications p
  WHERE p.publication_id = $1 AND p.state = 'running' AND p.expires_at > clock_timestamp()
),`

	newMembersSQL = `
slice AS MATERIALIZED (
  SELECT b.claimed_through, b.last_number FROM batches b
  WHERE b.publication_id = $1 AND b.channel = $2 AND b.n = $3 AND b.claimed_through < b.last_number
), member AS MATERIALIZED (
  SELECT s.subscriber_number, s.ended_cut IS NOT NULL AS ended FROM subscriptions s
  WHERE s.topic_id = (SELECT topic_id FROM gate)
    AND s.subscriber_number > (SELECT claimed_through FROM slice) AND s.subscriber_number <= (SELECT last_number FROM slice)
    AND s.began_cut < (SELECT cut FROM gate) AND (s.ended_cut IS NULL OR s.ended_cut > (SELECT cut FROM gate))
  ORDER BY s.topic_id, s.subscriber_number LIMIT $4
),`

	dueMembersSQL = `
slice AS MATERIALIZED (
  SELECT GREATEST(first_number, $8) AS first, LEAST(last_number, $9) AS last FROM batches
  WHERE publication_id = $1 AND channel = $2 AND n = $3
), due AS MATERIALIZED (
  SELECT a.subscriber_number FROM attention a
  WHERE a.publication_id = $1 AND a.channel = $2 AND a.state = 'pending' AND a.due_at <= (SELECT now FROM gate) + make_interval(secs => $10)
    AND a.subscriber_number >= (SELECT first FROM slice) AND a.subscriber_number <= (SELECT last FROM slice)
  ORDER BY a.subscriber_number LIMIT $4
), member AS MATERIALIZED (
  SELECT due.subscriber_number, s.ended FROM due CROSS JOIN LATERAL (
    SELECT s.ended_cut IS NOT NULL AS ended FROM subscriptions s
    WHERE s.topic_id = (SELECT topic_id FROM gate) AND s.subscriber_number = due.subscriber_number
      AND s.began_cut < (SELECT cut FROM gate) AND (s.ended_cut IS NULL OR s.ended_cut > (SELECT cut FROM gate))
    LIMIT 1) s
),`

	// The verdict on each candidate, at this moment. The first eligible
	// subscriber claimed for a shared address gets the message.
	verdictSQL = `
candidate AS MATERIALIZED (
  SELECT m.subscriber_number, m.ended, p.* FROM member m CROSS JOIN LATERAL (
    SELECT p.email AS address, p.email_hash AS address_hash, p.email_shared AS shared, p.erased_at IS NOT NULL AS erased
    FROM subscribers p WHERE p.subscriber_number = m.subscriber_number OFFSET 0) p
), verdict AS MATERIALIZED (
  SELECT c.subscriber_number, c.address, c.address_hash, c.shared, CASE
    WHEN c.erased THEN 'erased'
    WHEN c.ended AND again.yes IS NULL THEN 'unsubscribed'
    WHEN c.address IS NULL THEN 'no_address'
    WHEN suppressed.yes THEN 'suppressed'
    WHEN c.shared AND earlier.yes THEN 'duplicate_address'
  END AS reason
  FROM candidate c
  LEFT JOIN LATERAL (SELECT true AS yes FROM subscriptions s
    WHERE c.ended AND s.topic_id = (SELECT topic_id FROM gate) AND s.subscriber_number = c.subscriber_number AND s.ended_cut IS NULL LIMIT 1) again ON true
  LEFT JOIN LATERAL (SELECT true AS yes FROM suppressions x
    WHERE x.channel = $2::channel::text AND x.address_hash = c.address_hash LIMIT 1) suppressed ON true
  -- Who was sent to before the address became a shared one has no row in shared_addresses. Who
  -- waits was not: if both wait, shared_addresses decides between them.
  LEFT JOIN LATERAL (SELECT true AS yes FROM subscribers o CROSS JOIN LATERAL (
      SELECT FROM deliveries d WHERE d.publication_id = $1 AND d.channel = $2 AND d.subscriber_number = o.subscriber_number
        AND (d.state NOT IN ('skipped', 'pending') OR d.resends > 0) OFFSET 0) d
    WHERE c.shared AND o.email_hash = c.address_hash AND o.subscriber_number <> c.subscriber_number LIMIT 1) earlier ON true
), taken AS (
  INSERT INTO shared_addresses (publication_id, channel, address_hash, subscriber_number)
  SELECT $1, $2, address_hash, min(subscriber_number) FROM verdict WHERE reason IS NULL AND shared
  GROUP BY address_hash ORDER BY address_hash -- one order for all claims: no deadlock
  ON CONFLICT DO NOTHING RETURNING subscriber_number
), decided AS MATERIALIZED (
  SELECT v.subscriber_number, v.address, COALESCE(v.reason, CASE WHEN v.shared
    AND v.subscriber_number NOT IN (SELECT subscriber_number FROM taken)
    AND NOT EXISTS (SELECT FROM shared_addresses k WHERE k.publication_id = $1 AND k.channel = $2 AND k.address_hash = v.address_hash AND k.subscriber_number = v.subscriber_number)
    THEN 'duplicate_address' END) AS reason
  FROM verdict v
), placed AS (
  INSERT INTO calls (publication_id, call_id, channel, batch, first_number, last_number, size, provider, claimed_at, begin_by, call_until)
  SELECT $1, gate.call_id, $2, $3, min(d.subscriber_number), max(d.subscriber_number), count(*), $5, gate.now,
    gate.now + make_interval(secs => $6), gate.now + make_interval(secs => $7)
  FROM decided d, gate WHERE d.reason IS NULL GROUP BY gate.call_id, gate.now
),`

	writeNewSQL = `
moved AS (
  UPDATE batches b SET started_at = COALESCE(b.started_at, (SELECT now FROM gate)), claimed_through = CASE
    WHEN (SELECT count(*) FROM decided) < $4 THEN b.last_number ELSE (SELECT max(subscriber_number) FROM decided) END
  WHERE b.publication_id = $1 AND b.channel = $2 AND b.n = $3 AND b.claimed_through < b.last_number AND EXISTS (SELECT FROM gate)
), written AS (
  INSERT INTO deliveries (publication_id, subscriber_number, channel, batch, state, call_id, reason, changed_at)
  SELECT $1, d.subscriber_number, $2, $3, CASE WHEN d.reason IS NULL THEN 'sending'::delivery_state ELSE 'skipped' END,
    CASE WHEN d.reason IS NULL THEN gate.call_id END, d.reason, gate.now
  FROM decided d, gate ORDER BY d.subscriber_number
)
SELECT gate.call_id, d.subscriber_number, d.address FROM decided d, gate WHERE d.reason IS NULL ORDER BY d.subscriber_number`

	// Who was to be sent to again without evidence may have been sent to: not
	// skipped, but dead, from where proof can still come.
	writeDueSQL = `
skipped AS MATERIALIZED (
  SELECT jsonb_object_agg(subscriber_number, reason) AS reasons FROM decided WHERE reason IS NOT NULL
), written AS (
  UPDATE deliveries d SET
    state = CASE WHEN (SELECT reasons FROM skipped) ->> d.subscriber_number::text IS NULL THEN 'sending'
      WHEN d.resends > 0 THEN 'dead' ELSE 'skipped' END::delivery_state,
    reason = CASE WHEN (SELECT reasons FROM skipped) ->> d.subscriber_number::text IS NOT NULL AND d.resends > 0 THEN 'doubt_held'
      ELSE (SELECT reasons FROM skipped) ->> d.subscriber_number::text END,
    call_id = CASE WHEN (SELECT reasons FROM skipped) ->> d.subscriber_number::text IS NULL THEN (SELECT call_id FROM gate) ELSE d.call_id END,
    code = NULL, due_at = NULL, changed_at = (SELECT now FROM gate)
  WHERE d.publication_id = $1 AND d.channel = $2 AND d.state = 'pending'
    AND d.subscriber_number >= (SELECT min(subscriber_number) FROM decided) AND d.subscriber_number <= (SELECT max(subscriber_number) FROM decided)
    AND (d.subscriber_number IN (SELECT subscriber_number FROM decided)) IS TRUE
  RETURNING d.subscriber_number, d.state
)
SELECT gate.call_id, d.subscriber_number, d.address FROM decided d, gate
WHERE (d.subscriber_number IN (SELECT subscriber_number FROM written WHERE state = 'sending')) IS TRUE ORDER BY d.subscriber_number`

	claimNewSQL = gateSQL + newMembersSQL + verdictSQL + writeNewSQL
	claimDueSQL = gateSQL + dueMembersSQL + verdictSQL + writeDueSQL
)

// Tally reads where a batch stands.
func (l *Ledger) Tally(ctx context.Context, ref fanfare.BatchRef) (fanfare.BatchTally, error) {
	var t fanfare.BatchTally
	b := &pgx.Batch{}
	queueTally(b, ref, &t)
	return t, failed("tally "+ref.WorkflowID(), l.pipeline(ctx, b))
}

const tallySQL = `
SELECT p.state, p.expires_at <= clock_timestamp(), b.claimed_through >= b.last_number,
  b.intended, b.intended - b.sending - b.in_doubt - b.sent - b.delivered - b.failed - b.skipped - b.dead,
  b.sending, b.in_doubt, b.sent, b.delivered, b.failed, b.skipped, b.dead,
  extract(epoch FROM (SELECT min(a.due_at) FROM attention a WHERE a.publication_id = $1 AND a.channel = $2 AND a.batch = $3 AND a.state = 'pending'
    AND a.subscriber_number BETWEEN b.first_number AND b.last_number) - clock_timestamp())::float8,
  CASE WHEN b.sending > 0 THEN extract(epoch FROM (SELECT min(c.call_until) FROM calls c WHERE c.publication_id = $1 AND c.channel = $2 AND c.batch = $3 AND c.outcome IS NULL)
    + make_interval(secs => $4) - clock_timestamp())::float8 END
FROM batches b JOIN publications p USING (publication_id)
WHERE b.publication_id = $1 AND b.channel = $2 AND b.n = $3`

func queueTally(b *pgx.Batch, ref fanfare.BatchRef, t *fanfare.BatchTally) {
	b.Queue(tallySQL, ref.Publication, ref.Channel, ref.N, seconds(lapseMargin)).QueryRow(func(row pgx.Row) error {
		var expired bool
		var due, lapse *float64
		c := &t.Totals
		err := row.Scan(&t.Publication, &expired, &t.AllClaimed, &c.Intended, &c.Pending, &c.Sending, &c.InDoubt,
			&c.Sent, &c.Delivered, &c.Failed, &c.Skipped, &c.Dead, &due, &lapse)
		if errors.Is(err, pgx.ErrNoRows) {
			return fmt.Errorf("batch %s: %w", ref.WorkflowID(), fanfare.ErrNotFound)
		}
		t.Expired = expired && !t.Publication.Stopped()
		t.NextDue, t.NextLapse = spanOf(due), spanOf(lapse)
		return err
	})
}

// spanOf turns seconds from now into a span; nil stays nil, the past is zero.
func spanOf(secs *float64) *time.Duration {
	if secs == nil {
		return nil
	}
	span := max(0, time.Duration(*secs*float64(time.Second)))
	return &span
}

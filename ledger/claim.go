package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	fanfare "github.com/fanfare-dev/fanfare"
)

// ClaimNew claims recipients of the batch who have no row yet and moves the
// batch's cursor past them. Those who must not be sent to are written as skipped, each
// with its reason.
func (l *Ledger) ClaimNew(ctx context.Context, ref fanfare.BatchRef, wanted fanfare.Wanted) (fanfare.Claim, error) {
	return l.claim(ctx, ref, claimNewSQL[ref.Channel], wanted)
}

// ClaimDue claims waiting recipients of the batch whose time has come, out of a
// range of numbers.
func (l *Ledger) ClaimDue(ctx context.Context, ref fanfare.BatchRef, wanted fanfare.Wanted, within fanfare.Range) (fanfare.Claim, error) {
	return l.claim(ctx, ref, claimDueSQL[ref.Channel], wanted, within.First, within.Last, seconds(within.DueIn))
}

func (l *Ledger) claim(ctx context.Context, ref fanfare.BatchRef, sql string, wanted fanfare.Wanted, within ...any) (fanfare.Claim, error) {
	var claim fanfare.Claim
	b := &pgx.Batch{}
	queueClaim(b, ref, sql, wanted, &claim, within...)
	queueMore(b, ref, &claim.More)
	if err := l.pipeline(ctx, b); err != nil {
		return fanfare.Claim{}, failed("claim "+ref.WorkflowID(), err)
	}
	return claim, nil
}

// queueClaim queues what a claim is made of, in the order of the locks.
func queueClaim(b *pgx.Batch, ref fanfare.BatchRef, sql string, wanted fanfare.Wanted, claim *fanfare.Claim, within ...any) {
	claim.BeginWithin, claim.CallWithin = beginWithin, callWithin
	locales := wanted.Locales
	if locales == nil {
		locales = []string{}
	}
	args := append([]any{ref.Publication, ref.Channel, ref.N, wanted.Limit, wanted.Provider, seconds(beginWithin), seconds(callWithin), wanted.Single, locales}, within...)
	b.Queue(`SELECT pg_advisory_xact_lock_shared(` + sharingLock + `)`)
	b.Queue(enterGateSQL, ref.Publication)
	queueLock(b, ref)
	b.Queue(sql, args...).Query(func(rows pgx.Rows) error {
		var call fanfare.ClaimedCall
		var r fanfare.Claimed
		_, err := pgx.ForEachRow(rows, []any{&call.ID, &call.Locale, &r.Number, &r.Address, &r.Devices}, func() error {
			addClaimed(claim, call, r)
			r.Devices = nil
			return nil
		})
		return err
	})
}

// addClaimed puts a recipient into their call; rows come call by call.
func addClaimed(claim *fanfare.Claim, call fanfare.ClaimedCall, r fanfare.Claimed) {
	last := len(claim.Calls) - 1
	if last < 0 || claim.Calls[last].ID != call.ID {
		claim.Calls = append(claim.Calls, call)
		last++
	}
	claim.Calls[last].Recipients = append(claim.Calls[last].Recipients, r)
}

// enterGateSQL passes the gate: cancel and pause wait for the claims in flight,
// and later claims see them. Its own statement, because the next one's snapshot must
// be younger than the lock.
const enterGateSQL = `SELECT pg_advisory_xact_lock_shared(` + gateLock + `)`

const lockBatchSQL = `SELECT FROM batches WHERE publication_id = $1 AND channel = $2 AND n = $3 FOR UPDATE`

func queueLock(b *pgx.Batch, ref fanfare.BatchRef) {
	b.Queue(lockBatchSQL, ref.Publication, ref.Channel, ref.N).QueryRow(func(row pgx.Row) error { return found(ref, row.Scan()) })
}

// The parts of a claim. $1 publication, $2 channel, $3 batch, $4 limit,
// $5 provider, $6 and $7 the spans of the lease, $8 whether each recipient gets a call
// of their own, $9 the locales of the message, the default first; $10 and $11 a range of
// numbers, and $12 how many seconds early they may be taken.
//
// The planner knows nothing of a publication that is new, or nothing of the
// parameters in a plan it keeps, and takes one row to be in each table; then every order
// of joins looks cheap. So it is given no choice: scalar sub-selects bound a range of
// the primary key, in whose order LIMIT stops after a chunk; OFFSET 0 makes a look-up by
// primary key; IN behind IS TRUE is a hash table.
const (
	gateSQL = `
WITH gate AS MATERIALIZED (
  SELECT p.topic_id, p.cut, clock_timestamp() AS now, p.class = 'bulk' AS bulk,
    (SELECT $2 = ANY (t.off_by_default) FROM topics t WHERE t.topic_id = p.topic_id) AS unless_asked
  FROM publications p
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
  SELECT GREATEST(first_number, $10) AS first, LEAST(last_number, $11) AS last FROM batches
  WHERE publication_id = $1 AND channel = $2 AND n = $3
), due AS MATERIALIZED (
  SELECT a.subscriber_number FROM attention a
  WHERE a.publication_id = $1 AND a.channel = $2 AND a.state = 'pending' AND a.due_at <= (SELECT now FROM gate) + make_interval(secs => $12)
    AND a.subscriber_number >= (SELECT first FROM slice) AND a.subscriber_number <= (SELECT last FROM slice)
  ORDER BY a.subscriber_number LIMIT $4
), member AS MATERIALIZED (
  SELECT due.subscriber_number, s.ended FROM due CROSS JOIN LATERAL (
    SELECT s.ended_cut IS NOT NULL AS ended FROM subscriptions s
    WHERE s.topic_id = (SELECT topic_id FROM gate) AND s.subscriber_number = due.subscriber_number
      AND s.began_cut < (SELECT cut FROM gate) AND (s.ended_cut IS NULL OR s.ended_cut > (SELECT cut FROM gate))
    LIMIT 1) s
),`

	// candidateSQL is filled with how the channel reaches subscriber p.
	candidateSQL = `
candidate AS MATERIALIZED (
  SELECT m.subscriber_number, m.ended, p.* FROM member m CROSS JOIN LATERAL (
    SELECT %s, p.erased_at IS NOT NULL AS erased, p.locale
    FROM subscribers p%s WHERE p.subscriber_number = m.subscriber_number OFFSET 0) p
),`

	// The verdict on each candidate, at this moment: the one place that knows who may
	// be sent to. The first eligible subscriber claimed for a shared address gets the
	// message. What people want counts for bulk; suppressions count always.
	verdictSQL = `
verdict AS MATERIALIZED (
  SELECT c.subscriber_number, c.address, c.address_hash, c.shared, c.devices, c.locale, CASE
    WHEN c.erased THEN 'erased'
    WHEN c.ended AND again.yes IS NULL AND (SELECT bulk FROM gate) THEN 'unsubscribed'
    WHEN (unwanted.yes OR NOT COALESCE(topic.wanted, NOT (SELECT unless_asked FROM gate))) AND (SELECT bulk FROM gate) THEN 'opted_out'
    WHEN NOT c.reachable THEN 'no_address'
    WHEN suppressed.yes OR $2 = 'push' AND c.devices IS NULL THEN 'suppressed'
    WHEN c.shared AND earlier.yes THEN 'duplicate_address'
  END AS reason
  FROM candidate c
  LEFT JOIN LATERAL (SELECT true AS yes FROM subscriptions s
    WHERE c.ended AND s.topic_id = (SELECT topic_id FROM gate) AND s.subscriber_number = c.subscriber_number AND s.ended_cut IS NULL LIMIT 1) again ON true
  LEFT JOIN LATERAL (SELECT true AS yes FROM channel_preferences w
    WHERE w.subscriber_number = c.subscriber_number AND w.channel = $2 AND NOT w.wanted LIMIT 1) unwanted ON true
  LEFT JOIN LATERAL (SELECT w.wanted FROM topic_preferences w
    WHERE w.subscriber_number = c.subscriber_number AND w.topic_id = (SELECT topic_id FROM gate) AND w.channel = $2 LIMIT 1) topic ON true
  LEFT JOIN LATERAL (SELECT true AS yes FROM suppressions x
    WHERE x.channel = $2::channel::text AND x.address_hash = c.address_hash LIMIT 1) suppressed ON true
  -- Who was sent to before the address became a shared one has no row in shared_addresses. Who
  -- waits was not: if both wait, shared_addresses decides between them.
  LEFT JOIN LATERAL (SELECT true AS yes FROM subscribers o CROSS JOIN LATERAL (
      SELECT FROM deliveries d WHERE d.publication_id = $1 AND d.channel = $2 AND d.subscriber_number = o.subscriber_number
        AND (d.state NOT IN ('skipped', 'pending') OR d.resends > 0) OFFSET 0) d
    WHERE c.shared AND o.%s = c.address_hash AND o.subscriber_number <> c.subscriber_number LIMIT 1) earlier ON true
), taken AS (
  INSERT INTO shared_addresses (publication_id, channel, address_hash, subscriber_number)
  SELECT $1, $2, address_hash, min(subscriber_number) FROM verdict WHERE reason IS NULL AND shared
  GROUP BY address_hash ORDER BY address_hash -- one order for all claims: no deadlock
  ON CONFLICT DO NOTHING RETURNING subscriber_number
), decided AS MATERIALIZED (
  SELECT v.subscriber_number, v.address, v.devices, COALESCE(v.reason, CASE WHEN v.shared
    AND v.subscriber_number NOT IN (SELECT subscriber_number FROM taken)
    AND NOT EXISTS (SELECT FROM shared_addresses k WHERE k.publication_id = $1 AND k.channel = $2 AND k.address_hash = v.address_hash AND k.subscriber_number = v.subscriber_number)
    THEN 'duplicate_address' END) AS reason,
    CASE WHEN $8 THEN v.subscriber_number ELSE 0 END AS alone, CASE WHEN cardinality($9::text[]) = 0 THEN ''
      WHEN lower(translate(v.locale, '_', '-')) = ANY ($9) THEN lower(translate(v.locale, '_', '-'))
      WHEN lower(split_part(translate(v.locale, '_', '-'), '-', 1)) = ANY ($9) THEN lower(split_part(translate(v.locale, '_', '-'), '-', 1))
      ELSE ($9)[1] END AS locale
  FROM verdict v
), lot AS MATERIALIZED ( -- who shares a call
  SELECT alone, locale, uuid_v7() AS call_id, min(subscriber_number) AS first, max(subscriber_number) AS last, count(*) AS size
  FROM decided WHERE reason IS NULL GROUP BY alone, locale
), placed AS (
  INSERT INTO calls (publication_id, call_id, channel, batch, first_number, last_number, size, provider, claimed_at, begin_by, call_until)
  SELECT $1, lot.call_id, $2, $3, lot.first, lot.last, lot.size, $5, gate.now,
    gate.now + make_interval(secs => $6), gate.now + make_interval(secs => $7)
  FROM lot, gate
),`

	writeNewSQL = `
moved AS (
  UPDATE batches b SET started_at = COALESCE(b.started_at, (SELECT now FROM gate)), claimed_through = CASE
    WHEN (SELECT count(*) FROM decided) < $4 THEN b.last_number ELSE (SELECT max(subscriber_number) FROM decided) END
  WHERE b.publication_id = $1 AND b.channel = $2 AND b.n = $3 AND b.claimed_through < b.last_number AND EXISTS (SELECT FROM gate)
), written AS (
  INSERT INTO deliveries (publication_id, subscriber_number, channel, batch, state, call_id, reason, changed_at)
  SELECT $1, d.subscriber_number, $2, $3, CASE WHEN d.reason IS NULL THEN 'sending'::delivery_state ELSE 'skipped' END,
    lot.call_id, d.reason, gate.now
  FROM gate, decided d LEFT JOIN lot ON d.reason IS NULL AND lot.alone = d.alone AND lot.locale = d.locale ORDER BY d.subscriber_number
)
SELECT lot.call_id, lot.locale, d.subscriber_number, COALESCE(d.address, ''), d.devices
FROM decided d JOIN lot USING (alone, locale) WHERE d.reason IS NULL ORDER BY lot.first, d.subscriber_number`

	// Who was to be sent to again without evidence may have been sent to: not
	// skipped, but dead, from where proof can still come.
	writeDueSQL = `
skipped AS MATERIALIZED (
  SELECT jsonb_object_agg(subscriber_number, reason) AS reasons FROM decided WHERE reason IS NOT NULL
), won AS MATERIALIZED (
  SELECT jsonb_object_agg(d.subscriber_number, lot.call_id) AS calls FROM decided d JOIN lot USING (alone, locale) WHERE d.reason IS NULL
), written AS (
  UPDATE deliveries d SET
    state = CASE WHEN (SELECT reasons FROM skipped) ->> d.subscriber_number::text IS NULL THEN 'sending'
      WHEN d.resends > 0 THEN 'dead' ELSE 'skipped' END::delivery_state,
    reason = CASE WHEN (SELECT reasons FROM skipped) ->> d.subscriber_number::text IS NOT NULL AND d.resends > 0 THEN 'doubt_held'
      ELSE (SELECT reasons FROM skipped) ->> d.subscriber_number::text END,
    call_id = COALESCE(((SELECT calls FROM won) ->> d.subscriber_number::text)::uuid, d.call_id),
    code = NULL, due_at = NULL, changed_at = (SELECT now FROM gate)
  WHERE d.publication_id = $1 AND d.channel = $2 AND d.state = 'pending'
    AND d.subscriber_number >= (SELECT min(subscriber_number) FROM decided) AND d.subscriber_number <= (SELECT max(subscriber_number) FROM decided)
    AND (d.subscriber_number IN (SELECT subscriber_number FROM decided)) IS TRUE
  RETURNING d.subscriber_number, d.state
)
SELECT lot.call_id, lot.locale, d.subscriber_number, COALESCE(d.address, ''), d.devices FROM decided d JOIN lot USING (alone, locale)
WHERE d.reason IS NULL AND (d.subscriber_number IN (SELECT subscriber_number FROM written WHERE state = 'sending')) IS TRUE
ORDER BY lot.first, d.subscriber_number`
)

// reach is how a channel reaches a subscriber p: the columns address, address_hash,
// shared (perhaps with others), devices and reachable, what they need besides p, and the
// column by which sharers of an address are found.
type reach struct{ columns, from, sharedBy string }

// A push goes to all devices that are not suppressed; an in-app item needs no address.
var reachSQL = map[fanfare.Channel]reach{
	fanfare.Email: {`p.email AS address, p.email_hash AS address_hash, p.email_shared AS shared, NULL::jsonb AS devices, p.email IS NOT NULL AS reachable`, ``, `email_hash`},
	fanfare.SMS:   {`p.phone AS address, p.phone_hash AS address_hash, p.phone_shared AS shared, NULL::jsonb AS devices, p.phone IS NOT NULL AS reachable`, ``, `phone_hash`},
	fanfare.Push: {`NULL::text AS address, NULL::bytea AS address_hash, false AS shared, v.devices, v.count > 0 AS reachable`, `
    CROSS JOIN LATERAL (
      SELECT count(*) AS count, jsonb_agg(jsonb_build_object('token', v.token, 'platform', COALESCE(v.platform, '')) ORDER BY v.token_hash)
        FILTER (WHERE NOT EXISTS (SELECT FROM suppressions x WHERE x.channel = 'push' AND x.address_hash = v.token_hash)) AS devices
      FROM devices v WHERE v.subscriber_number = p.subscriber_number) v`, `email_hash`},
	fanfare.InApp: {`NULL::text AS address, NULL::bytea AS address_hash, false AS shared, NULL::jsonb AS devices, true AS reachable`, ``, `email_hash`},
}

var (
	claimNewSQL = claimSQL(newMembersSQL, writeNewSQL)
	claimDueSQL = claimSQL(dueMembersSQL, writeDueSQL)
)

// claimSQL is the statement of each channel.
func claimSQL(members, write string) map[fanfare.Channel]string {
	statements := map[fanfare.Channel]string{}
	for channel, r := range reachSQL {
		statements[channel] = gateSQL + members + fmt.Sprintf(candidateSQL, r.columns, r.from) + fmt.Sprintf(verdictSQL, r.sharedBy) + write
	}
	return statements
}

// queueMore asks whether there is anybody left to claim who has no row. It is all that a
// claim needs to know of its batch: a tally reads the batch's calls.
func queueMore(b *pgx.Batch, ref fanfare.BatchRef, more *bool) {
	b.Queue(`
		SELECT b.claimed_through < b.last_number AND p.state = 'running' AND p.expires_at > clock_timestamp()
		FROM batches b JOIN publications p USING (publication_id)
		WHERE b.publication_id = $1 AND b.channel = $2 AND b.n = $3`, ref.Publication, ref.Channel, ref.N).QueryRow(func(row pgx.Row) error { return row.Scan(more) })
}

// Tally reads where a batch stands. It looks through the batch's calls for one that is
// open, and is not for every claim.
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
		t.Expired = expired && !t.Publication.Stopped()
		t.NextDue, t.NextLapse = spanOf(due), spanOf(lapse)
		return found(ref, err)
	})
}

func found(ref fanfare.BatchRef, err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("batch %s: %w", ref.WorkflowID(), fanfare.ErrNotFound)
	}
	return err
}

// spanOf turns seconds from now into a span; nil stays nil, the past is zero.
func spanOf(secs *float64) *time.Duration {
	if secs == nil {
		return nil
	}
	span := max(0, time.Duration(*secs*float64(time.Second)))
	return &span
}

package ledger

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	fanfare "github.com/fanfare-dev/fanfare"
)

// Settle writes what became of a call, for the deliveries that the call still
// holds: accepted ones are sent, rejected ones failed, ambiguous ones in doubt,
// and all others wait again; those throttled climb the ladder of waits, and die at its
// end. Proof of acceptance also takes back those that were given up, or wait to
// be sent again.
//
// Settling again changes nothing, except that a result that is known takes the
// place of one that was in doubt, and proof the place of every other. What comes
// too late for a delivery that another call may be sending stays on the call's record.
func (l *Ledger) Settle(ctx context.Context, ref fanfare.BatchRef, call fanfare.CallID, r fanfare.Result) (fanfare.BatchTally, error) {
	var tally fanfare.BatchTally
	b := &pgx.Batch{}
	b.Queue(lockBatchSQL, ref.Publication, ref.Channel, ref.N)
	l.queueSettle(b, ref, call, r, nil)
	queueTally(b, ref, &tally)
	return tally, failed("settle call "+string(call), l.pipeline(ctx, b))
}

func (l *Ledger) queueSettle(b *pgx.Batch, ref fanfare.BatchRef, call fanfare.CallID, r fanfare.Result, endedAt *time.Time) {
	numbers := make([]int64, 0, len(r.Named))
	kinds := make([]string, 0, len(r.Named))
	codes := make([]string, 0, len(r.Named))
	for number, outcome := range r.Named {
		numbers = append(numbers, int64(number))
		kinds = append(kinds, string(outcome.Kind))
		codes = append(codes, outcome.Code)
	}
	ladder := make([]float64, len(l.cfg.Ladder))
	for i, step := range l.cfg.Ladder {
		ladder[i] = seconds(step)
	}
	if r.Outcome.Kind != fanfare.OutcomeAccepted {
		b.Queue(reachedBeforeSQL, ref.Publication, ref.Channel, ref.N, call, r.Outcome.Kind)
	}
	statement := settleAllSQL
	if len(numbers) > 0 {
		statement = settleNamedSQL
	}
	b.Queue(statement, ref.Publication, ref.Channel, ref.N, call, r.Outcome.Kind,
		textOrNull(r.Outcome.Code), textOrNull(r.Outcome.Detail), textOrNull(r.ProviderID), textOrNull(r.Evidence),
		seconds(r.Outcome.RetryAfter), seconds(l.cfg.DoubtDeadline), numbers, codes, endedAt, kinds, ladder)
	if r.Outcome.Kind == fanfare.OutcomeAccepted && r.Evidence != "" {
		b.Queue(proveSQL, ref.Publication, ref.Channel, ref.N, call)
	}
}

// Settling a call that names nobody, which is nearly every call, and one that
// names some: then each row's outcome is looked for by its number.
var (
	settleAllSQL   = settleSQL(`$5::text`, `NULL`)
	settleNamedSQL = settleSQL(`COALESCE(($15::text[])[array_position($12::bigint[], d.subscriber_number)], $5)`,
		`NULLIF(($13::text[])[array_position($12::bigint[], d.subscriber_number)], '')`)
)

// settleSQL is the statement with the outcome of a recipient, d, and its own code as given.
//
// $1 publication, $2 channel, $3 batch, $4 call, $5 outcome, $6 code, $7
// detail, $8 provider's id, $9 evidence, $10 seconds to wait, $11 seconds from a call's
// end to its doubt's deadline, $12, $13 and $15 the numbers, codes and outcomes of
// those with an outcome of their own, $14 when the call ended (null: now), $16 the
// ladder: seconds to wait after the first attempt that counts, the second, and so on.
func settleSQL(kind, code string) string {
	code = `(SELECT provider FROM call) || ':' || COALESCE(` + code + `, CASE WHEN ` + kind + ` = $5 THEN $6 END, ` + kind + `)`
	return `
WITH call AS (
  UPDATE calls SET outcome = $5::text::outcome, ended_at = COALESCE($14, clock_timestamp()), code = $6, detail = $7,
    provider_id = COALESCE($8, provider_id), evidence = COALESCE($9, evidence)
  WHERE publication_id = $1 AND call_id = $4 AND channel = $2 AND batch = $3
    AND (outcome IS NULL OR outcome = 'ambiguous' AND $5 <> 'ambiguous'
      -- Proof outranks an answer that said otherwise.
      OR $5 = 'accepted' AND $9::text IS NOT NULL AND outcome <> 'accepted')
  RETURNING first_number, last_number, provider, ended_at
), moved AS (
  -- By one range of the primary key: the call's rows lie side by side. Scalar
  -- sub-selects, because a join with the call makes a generic plan read the whole table,
  -- and one with those named would cost every call what few of them need.
  UPDATE deliveries d SET
    state = CASE ` + kind + ` WHEN 'rejected' THEN 'failed' WHEN 'accepted' THEN 'sent' WHEN 'ambiguous' THEN 'in_doubt'
      WHEN 'throttled' THEN CASE WHEN d.attempts >= cardinality($16::float8[]) THEN 'dead' ELSE 'pending' END ELSE 'pending' END::delivery_state,
    reason = CASE WHEN ` + kind + ` = 'throttled' AND d.attempts >= cardinality($16) THEN 'retries_exhausted' END,
    code = CASE WHEN ` + kind + ` = 'rejected' OR ` + kind + ` = 'throttled' AND d.attempts >= cardinality($16) THEN ` + code + ` END,
    attempts = d.attempts + (` + kind + ` = 'throttled')::int,
    due_at = CASE ` + kind + ` WHEN 'rejected' THEN NULL WHEN 'accepted' THEN NULL
      WHEN 'ambiguous' THEN (SELECT ended_at FROM call) + make_interval(secs => $11)
      WHEN 'throttled' THEN CASE WHEN d.attempts < cardinality($16)
        THEN clock_timestamp() + make_interval(secs => GREATEST($10, ($16)[d.attempts + 1])) END
      ELSE clock_timestamp() + make_interval(secs => $10) END,
    changed_at = clock_timestamp()
  WHERE d.publication_id = $1 AND d.channel = $2 AND d.batch = $3 AND d.call_id = $4
    AND d.subscriber_number >= (SELECT first_number FROM call) AND d.subscriber_number <= (SELECT last_number FROM call)
    AND (d.state IN ('sending', 'in_doubt')
      OR $5 = 'accepted' AND d.state IN ('pending', 'dead') AND d.subscriber_number <> ALL ($12::bigint[]))
  RETURNING d.subscriber_number, ` + kind + ` AS kind, CASE WHEN ` + kind + ` <> $5 OR $5 = 'rejected' THEN ` + code + ` END AS code
), attempted AS (
  INSERT INTO attempts (publication_id, subscriber_number, channel, call_id, outcome, code)
  SELECT $1, subscriber_number, $2, $4, kind::outcome, code
  FROM moved WHERE kind IN ('rejected', 'throttled', 'unavailable', 'ambiguous')
  ON CONFLICT (publication_id, subscriber_number, channel, call_id) DO UPDATE SET outcome = excluded.outcome, code = excluded.code
), doubted AS (
  INSERT INTO doubts (publication_id, call_id, channel, provider, call_ended_at, deadline, look_at)
  SELECT $1, $4, $2, call.provider, call.ended_at, call.ended_at + make_interval(secs => $11), clock_timestamp()
  FROM call WHERE $5 = 'ambiguous'
)
DELETE FROM doubts WHERE publication_id = $1 AND call_id = $4 AND EXISTS (SELECT FROM call WHERE $5 <> 'ambiguous')
  AND cardinality($13::text[]) = cardinality($15::text[]) -- they go together
`
}

// reachedBeforeSQL spares those whom a call did not reach for certain the next one,
// when an earlier call of theirs was proven to be accepted meanwhile: they were sent to. $1
// publication, $2 channel, $3 batch, $4 call, $5 its outcome.
const reachedBeforeSQL = `
WITH reached AS MATERIALIZED (
  SELECT d.subscriber_number, (SELECT a.call_id FROM attempts a JOIN calls c USING (publication_id, call_id)
    WHERE a.publication_id = $1 AND a.subscriber_number = d.subscriber_number AND a.channel = $2 AND a.call_id <> $4
      AND a.outcome <> 'rejected' AND c.outcome = 'accepted' ORDER BY a.call_id LIMIT 1) AS call_id
  FROM deliveries d
  WHERE d.publication_id = $1 AND d.channel = $2 AND d.batch = $3 AND d.call_id = $4 AND d.state IN ('sending', 'in_doubt') AND d.resends > 0
    AND d.subscriber_number >= (SELECT first_number FROM calls WHERE publication_id = $1 AND call_id = $4)
    AND d.subscriber_number <= (SELECT last_number FROM calls WHERE publication_id = $1 AND call_id = $4)
), noted AS (
  INSERT INTO attempts (publication_id, subscriber_number, channel, call_id, outcome)
  SELECT $1, subscriber_number, $2, $4, $5::text::outcome FROM reached WHERE call_id IS NOT NULL
  ON CONFLICT DO NOTHING
)
UPDATE deliveries d SET state = 'sent', call_id = (SELECT call_id FROM reached r WHERE r.subscriber_number = d.subscriber_number),
  reason = NULL, code = NULL, due_at = NULL, changed_at = clock_timestamp()
WHERE d.publication_id = $1 AND d.channel = $2
  AND d.subscriber_number >= (SELECT min(subscriber_number) FROM reached WHERE call_id IS NOT NULL)
  AND d.subscriber_number <= (SELECT max(subscriber_number) FROM reached WHERE call_id IS NOT NULL)
  AND (d.subscriber_number IN (SELECT subscriber_number FROM reached WHERE call_id IS NOT NULL)) IS TRUE`

// proveSQL gives proof that a call was accepted to those whom a later call holds
// by now, and did not reach for certain: they were sent to. One that may be under way is
// left to its worker. $1 publication, $2 channel, $3 batch, $4 call.
const proveSQL = `
UPDATE deliveries d SET state = 'sent', call_id = $4, reason = NULL, code = NULL, due_at = NULL, changed_at = clock_timestamp()
WHERE d.publication_id = $1 AND d.channel = $2 AND d.batch = $3 AND d.call_id <> $4 AND d.state IN ('pending', 'in_doubt', 'dead')
  AND d.subscriber_number >= (SELECT first_number FROM calls WHERE publication_id = $1 AND call_id = $4 AND outcome = 'accepted')
  AND d.subscriber_number <= (SELECT last_number FROM calls WHERE publication_id = $1 AND call_id = $4 AND outcome = 'accepted')
  AND EXISTS (SELECT FROM attempts a WHERE a.publication_id = $1 AND a.subscriber_number = d.subscriber_number AND a.channel = $2
    AND a.call_id = $4 AND a.outcome <> 'rejected' OFFSET 0)`

// DoubtLapsed puts the deliveries of the batch's lapsed calls in doubt: the
// worker that made them has neither settled nor released them in time.
func (l *Ledger) DoubtLapsed(ctx context.Context, ref fanfare.BatchRef) (fanfare.BatchTally, error) {
	rows, err := l.pool.Query(ctx, `
		SELECT call_id, call_until FROM calls
		WHERE publication_id = $1 AND channel = $2 AND batch = $3 AND outcome IS NULL
		  AND call_until + make_interval(secs => $4) <= clock_timestamp()`, ref.Publication, ref.Channel, ref.N, seconds(lapseMargin))
	if err != nil {
		return fanfare.BatchTally{}, failed("doubt "+ref.WorkflowID(), err)
	}
	type lapsed struct {
		Call  fanfare.CallID
		Until time.Time
	}
	calls, err := pgx.CollectRows(rows, pgx.RowToStructByPos[lapsed])
	if err != nil {
		return fanfare.BatchTally{}, failed("doubt "+ref.WorkflowID(), err)
	}
	var tally fanfare.BatchTally
	b := &pgx.Batch{}
	b.Queue(lockBatchSQL, ref.Publication, ref.Channel, ref.N)
	for _, c := range calls {
		l.queueSettle(b, ref, c.Call, fanfare.Result{Outcome: fanfare.Outcome{
			Kind: fanfare.OutcomeAmbiguous, Detail: "the worker stopped before it wrote what became of the call",
		}}, &c.Until)
	}
	queueTally(b, ref, &tally)
	return tally, failed("doubt "+ref.WorkflowID(), l.pipeline(ctx, b))
}

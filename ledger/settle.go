package ledger

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	fanfare "github.com/fanfare-dev/fanfare"
)

// Settle writes what became of a call, for the deliveries that the call still
// holds: accepted ones are sent, rejected ones failed, ambiguous ones in doubt,
// and all others wait again. Proof of acceptance also takes back those that
// were given up, or wait to be sent again.
//
// Settling again changes nothing, except that a result that is known takes the
// place of one that was in doubt. What comes too late for a delivery that
// another call holds stays on the call's record.
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
	codes := make([]string, 0, len(r.Named))
	for number, outcome := range r.Named {
		numbers = append(numbers, int64(number))
		codes = append(codes, outcome.Code)
	}
	b.Queue(settleSQL, ref.Publication, ref.Channel, ref.N, call, r.Outcome.Kind,
		textOrNull(r.Outcome.Code), textOrNull(r.Outcome.Detail), textOrNull(r.ProviderID), textOrNull(r.Evidence),
		seconds(r.Outcome.RetryAfter), seconds(l.cfg.DoubtDeadline), numbers, codes, endedAt)
}

// $1 publication, $2 channel, $3 batch, $4 call, $5 outcome, $6 code, $7
// detail, $8 provider's id, $9 evidence, $10 seconds to wait, $11 seconds from a call's
// end to its doubt's deadline, $12 and $13 the numbers and codes of
// those rejected by name, $14 when the call ended (null: now).
const settleSQL = `
WITH call AS (
  UPDATE calls SET outcome = $5::text::outcome, ended_at = COALESCE($14, clock_timestamp()), code = $6, detail = $7,
    provider_id = COALESCE($8, provider_id), evidence = COALESCE($9, evidence)
  WHERE publication_id = $1 AND call_id = $4 AND channel = $2 AND batch = $3
    AND (outcome IS NULL OR outcome = 'ambiguous' AND $5 <> 'ambiguous')
  RETURNING first_number, last_number, provider, ended_at
), moved AS (
  -- By one range of the primary key: the call's rows lie side by side. Scalar
  -- sub-selects, because a join with the call makes a generic plan read the whole table,
  -- and one with those rejected by name would cost every call what few of them need.
  UPDATE deliveries d SET
    state = CASE WHEN d.subscriber_number = ANY ($12::bigint[]) OR $5 = 'rejected' THEN 'failed'
      WHEN $5 = 'accepted' THEN 'sent' WHEN $5 = 'ambiguous' THEN 'in_doubt' ELSE 'pending' END::delivery_state,
    reason = NULL,
    code = CASE WHEN d.subscriber_number = ANY ($12::bigint[]) OR $5 = 'rejected'
      THEN (SELECT provider FROM call) || ':' || COALESCE(NULLIF(($13::text[])[array_position($12::bigint[], d.subscriber_number)], ''),
        CASE WHEN $5 = 'rejected' THEN $6 END, 'rejected') END,
    due_at = CASE WHEN d.subscriber_number = ANY ($12::bigint[]) OR $5 IN ('accepted', 'rejected') THEN NULL
      WHEN $5 = 'ambiguous' THEN (SELECT ended_at FROM call) + make_interval(secs => $11)
      ELSE clock_timestamp() + make_interval(secs => $10) END,
    changed_at = clock_timestamp()
  WHERE d.publication_id = $1 AND d.channel = $2 AND d.batch = $3 AND d.call_id = $4
    AND d.subscriber_number >= (SELECT first_number FROM call) AND d.subscriber_number <= (SELECT last_number FROM call)
    AND (d.state IN ('sending', 'in_doubt')
      OR $5 = 'accepted' AND d.state IN ('pending', 'dead') AND d.subscriber_number <> ALL ($12::bigint[]))
  RETURNING d.subscriber_number, d.state, d.code
), attempted AS (
  INSERT INTO attempts (publication_id, subscriber_number, channel, call_id, outcome, code)
  SELECT $1, subscriber_number, $2, $4, CASE WHEN state = 'failed' THEN 'rejected' ELSE $5 END::outcome, code
  FROM moved WHERE state = 'failed' OR $5 IN ('rejected', 'throttled', 'unavailable', 'ambiguous')
  ON CONFLICT (publication_id, subscriber_number, channel, call_id) DO UPDATE SET outcome = excluded.outcome, code = excluded.code
), doubted AS (
  INSERT INTO doubts (publication_id, call_id, channel, provider, call_ended_at, deadline, look_at)
  SELECT $1, $4, $2, call.provider, call.ended_at, call.ended_at + make_interval(secs => $11), clock_timestamp()
  FROM call WHERE $5 = 'ambiguous'
)
DELETE FROM doubts WHERE publication_id = $1 AND call_id = $4 AND EXISTS (SELECT FROM call WHERE $5 <> 'ambiguous')`

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

package ledger

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	fanfare "github.com/fanfare-dev/fanfare"
)

// Settle writes what became of one call: see SettleAll.
func (l *Ledger) Settle(ctx context.Context, ref fanfare.BatchRef, call fanfare.CallID, r fanfare.Result) error {
	return l.SettleAll(ctx, ref, []fanfare.Settlement{{Call: call, Result: r}})
}

// SettleAll writes what became of calls of one batch, for the deliveries that each
// of them still holds: accepted ones are sent, rejected ones failed, ambiguous ones in
// doubt, and all others wait again; those throttled climb the ladder of waits, and die at
// its end. Proof of acceptance also takes back those that were given up, or wait to
// be sent again. Addresses that were refused for good are suppressed.
//
// Settling again changes nothing, except that a result that is known takes the
// place of one that was in doubt, and proof the place of every other. What comes
// too late for a delivery that another call may be sending stays on the call's record.
func (l *Ledger) SettleAll(ctx context.Context, ref fanfare.BatchRef, settled []fanfare.Settlement) error {
	b := &pgx.Batch{}
	queueLock(b, ref)
	l.queueSettle(b, ref, settled, nil)
	return failed(fmt.Sprintf("settle %d calls of %s", len(settled), ref.WorkflowID()), l.pipeline(ctx, b))
}

// queueSettle queues the statements that settle calls, each of them once. ended
// is when calls ended that nobody saw ending; nil: now. Those that were accepted come
// first: whoever another call did not reach may have been reached by one of them.
func (l *Ledger) queueSettle(b *pgx.Batch, ref fanfare.BatchRef, settled []fanfare.Settlement, ended map[fanfare.CallID]time.Time) {
	var accepted, others []fanfare.Settlement
	for _, s := range settled {
		if s.Result.Outcome.Kind == fanfare.OutcomeAccepted {
			accepted = append(accepted, s)
		} else {
			others = append(others, s)
		}
	}
	for _, part := range [][]fanfare.Settlement{accepted, others} {
		if len(part) > 0 {
			l.queueSettlePart(b, ref, part, ended)
		}
	}
	queueRefused(b, ref, settled)
}

func (l *Ledger) queueSettlePart(b *pgx.Batch, ref fanfare.BatchRef, settled []fanfare.Settlement, ended map[fanfare.CallID]time.Time) {
	c := columnsOfSettled(settled)
	endedAt := make([]*time.Time, len(settled))
	for i, s := range settled {
		if at, known := ended[s.Call]; known {
			endedAt[i] = &at
		}
	}
	ladder := make([]float64, len(l.cfg.Ladder))
	for i, step := range l.cfg.Ladder {
		ladder[i] = seconds(step)
	}
	if c.refused {
		b.Queue(reachedBeforeSQL, ref.Publication, ref.Channel, ref.N, c.calls, c.kinds)
	}
	statement, args := settleEachSQL, []any{
		ref.Publication, ref.Channel, ref.N, c.calls, c.kinds, c.codes, c.details, c.ids, c.evidence,
		c.waits, seconds(l.cfg.DoubtDeadline), endedAt, ladder, c.devices,
	}
	if len(c.named) > 0 {
		statement, args = settleNamedSQL, append(args, c.named, c.namedCodes, c.namedKinds)
	}
	b.Queue(statement, args...)
	if c.proven {
		b.Queue(proveSQL, ref.Publication, ref.Channel, ref.N, c.calls, c.kinds, c.evidence)
	}
}

// settledColumns are settlements as the parameters of settleSQL.
type settledColumns struct {
	calls, kinds                  []string
	codes, details, ids, evidence []*string
	waits                         []float64
	devices                       []*string
	named                         []string // call and number
	namedKinds, namedCodes        []string
	refused, proven               bool // at least one of them
}

func columnsOfSettled(settled []fanfare.Settlement) settledColumns {
	var c settledColumns
	for _, s := range settled {
		r := s.Result
		c.calls, c.kinds = append(c.calls, string(s.Call)), append(c.kinds, string(r.Outcome.Kind))
		c.codes, c.details = append(c.codes, textOrNull(r.Outcome.Code)), append(c.details, textOrNull(r.Outcome.Detail))
		c.ids, c.evidence = append(c.ids, textOrNull(r.ProviderID)), append(c.evidence, textOrNull(r.Evidence))
		c.waits, c.devices = append(c.waits, seconds(r.Outcome.RetryAfter)), append(c.devices, devicesText(r.Devices))
		for number, outcome := range r.Named {
			c.named, c.namedKinds, c.namedCodes = append(c.named, fmt.Sprint(s.Call, " ", number)), append(c.namedKinds, string(outcome.Kind)), append(c.namedCodes, outcome.Code)
		}
		c.refused = c.refused || r.Outcome.Kind != fanfare.OutcomeAccepted
		c.proven = c.proven || r.Outcome.Kind == fanfare.OutcomeAccepted && r.Evidence != ""
	}
	return c
}

// devicesText keeps what became of each device where it says more than the call.
func devicesText(devices []fanfare.DeviceResult) *string {
	if len(devices) == 0 {
		return nil
	}
	text, err := json.Marshal(devices)
	if err != nil { // it is made of texts
		return nil
	}
	return textOrNull(string(text))
}

// Settling calls that name nobody, which is nearly every call, and some that name
// somebody: then each row's outcome is looked for by its number too.
var (
	settleEachSQL  = settleSQL(wholeKind, `NULL`, `true`)
	settleNamedSQL = settleSQL(`COALESCE(($17::text[])[`+namedPlace+`], `+wholeKind+`)`, `NULLIF(($16::text[])[`+namedPlace+`], '')`, namedPlace+` IS NULL`)
)

const (
	// callPlace is where a row's call stands among those that are settled, and wholeKind its outcome.
	callPlace = `array_position($4::uuid[], d.call_id)`
	wholeKind = `($5::text[])[` + callPlace + `]`
	// namedPlace is where a row's call names it, if it does.
	namedPlace = `array_position($15::text[], d.call_id::text || ' ' || d.subscriber_number::text)`
)

// settleSQL is the statement with the outcome of a recipient, d, their own code, and
// whether their call does not name them.
//
// $1 publication, $2 channel, $3 batch; by call: $4 call, $5 outcome, $6 code, $7
// detail, $8 provider's id, $9 evidence, $10 seconds to wait, $12 when it ended (null:
// now), $14 devices; $11 seconds from a call's end to its doubt's deadline, $13 the ladder:
// seconds to wait after the first attempt that counts, the second, and so on. Where some are
// named, $15, $16 and $17 are their calls with their numbers, codes and outcomes.
func settleSQL(kind, code, unnamed string) string {
	code = `(SELECT providers FROM settled) ->> d.call_id::text || ':' || COALESCE(` + code + `, CASE WHEN ` + kind + ` = ` + wholeKind + ` THEN ($6::text[])[` + callPlace + `] END, ` + kind + `)`
	return `
WITH result AS MATERIALIZED (
  SELECT * FROM unnest($4::uuid[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $12::timestamptz[], $14::text[])
    AS r (call_id, outcome, code, detail, provider_id, evidence, ended_at, devices)
), call AS (
  UPDATE calls c SET outcome = r.outcome::outcome, ended_at = COALESCE(r.ended_at, clock_timestamp()), code = r.code, detail = r.detail,
    provider_id = COALESCE(r.provider_id, c.provider_id), evidence = COALESCE(r.evidence, c.evidence), devices = COALESCE(r.devices::jsonb, c.devices)
  FROM result r
  WHERE c.publication_id = $1 AND c.call_id = r.call_id AND c.channel = $2 AND c.batch = $3
    -- Calls that end together began together. Without a range a hash join reads all of the batch.
    AND c.call_id >= (SELECT call_id FROM result ORDER BY call_id LIMIT 1) AND c.call_id <= (SELECT call_id FROM result ORDER BY call_id DESC LIMIT 1)
    AND (c.outcome IS NULL OR c.outcome = 'ambiguous' AND r.outcome <> 'ambiguous'
      -- Proof outranks an answer that said otherwise.
      OR r.outcome = 'accepted' AND r.evidence IS NOT NULL AND c.outcome <> 'accepted')
  RETURNING c.call_id, c.first_number, c.last_number, c.provider, c.ended_at, r.outcome
), settled AS MATERIALIZED (
  SELECT min(first_number) AS first, max(last_number) AS last, array_agg(call_id) AS calls,
    jsonb_object_agg(call_id, provider) AS providers, jsonb_object_agg(call_id, ended_at) AS ends FROM call
), moved AS (
  -- By one range of the primary key: the rows of calls lie side by side. Scalar
  -- sub-selects, because a join with the calls makes a generic plan read the whole table,
  -- and one with those named would cost every call what few of them need.
  UPDATE deliveries d SET (state, reason, code, attempts, due_at, changed_at) = (
    SELECT (CASE WHEN r.kind = 'rejected' THEN 'failed' WHEN r.kind = 'accepted' THEN 'sent' WHEN r.kind = 'ambiguous' THEN 'in_doubt'
        WHEN r.exhausted THEN 'dead' ELSE 'pending' END)::delivery_state,
      CASE WHEN r.exhausted THEN 'retries_exhausted' END,
      CASE WHEN r.kind = 'rejected' OR r.exhausted THEN ` + code + ` END,
      d.attempts + (r.kind = 'throttled')::int,
      CASE WHEN r.kind = 'ambiguous' THEN ((SELECT ends FROM settled) ->> d.call_id::text)::timestamptz + make_interval(secs => $11)
        WHEN r.kind NOT IN ('rejected', 'accepted') AND NOT r.exhausted
        THEN clock_timestamp() + make_interval(secs => GREATEST(($10::float8[])[` + callPlace + `], CASE WHEN r.kind = 'throttled' THEN ($13::float8[])[d.attempts + 1] END)) END,
      clock_timestamp()
    FROM (SELECT kind, kind = 'throttled' AND d.attempts >= cardinality($13::float8[]) AS exhausted FROM (SELECT ` + kind + ` AS kind OFFSET 0) k) r)
  WHERE d.publication_id = $1 AND d.channel = $2 AND d.batch = $3 AND d.call_id = ANY ((SELECT calls FROM settled)::uuid[])
    AND d.subscriber_number >= (SELECT first FROM settled) AND d.subscriber_number <= (SELECT last FROM settled)
    AND (d.state IN ('sending', 'in_doubt') OR ` + wholeKind + ` = 'accepted' AND d.state IN ('pending', 'dead') AND ` + unnamed + `)
  RETURNING d.subscriber_number, d.call_id, ` + kind + ` AS kind, CASE WHEN ` + kind + ` <> ` + wholeKind + ` OR ` + wholeKind + ` = 'rejected' THEN ` + code + ` END AS code
), attempted AS (
  INSERT INTO attempts (publication_id, subscriber_number, channel, call_id, outcome, code)
  SELECT $1, subscriber_number, $2, call_id, kind::outcome, code
  FROM moved WHERE kind IN ('rejected', 'throttled', 'unavailable', 'ambiguous')
  ON CONFLICT (publication_id, subscriber_number, channel, call_id) DO UPDATE SET outcome = excluded.outcome, code = excluded.code
), doubted AS (
  INSERT INTO doubts (publication_id, call_id, channel, provider, call_ended_at, deadline, look_at)
  SELECT $1, call.call_id, $2, call.provider, call.ended_at, call.ended_at + make_interval(secs => $11), clock_timestamp()
  FROM call WHERE call.outcome = 'ambiguous'
)
DELETE FROM doubts WHERE publication_id = $1 AND call_id IN (SELECT call_id FROM call WHERE outcome <> 'ambiguous')
`
}

// reachedBeforeSQL spares those whom a call did not reach for certain the next one,
// when an earlier call of theirs was proven to be accepted meanwhile: they were sent to. $1
// publication, $2 channel, $3 batch, $4 calls, $5 their outcomes.
const reachedBeforeSQL = `
WITH call AS MATERIALIZED (
  SELECT min(c.first_number) AS first, max(c.last_number) AS last, array_agg(c.call_id) AS calls
  FROM unnest($4::uuid[], $5::text[]) AS r (call_id, outcome) CROSS JOIN LATERAL (
    SELECT c.call_id, c.first_number, c.last_number FROM calls c WHERE c.publication_id = $1 AND c.call_id = r.call_id OFFSET 0) c
  WHERE r.outcome <> 'accepted'
), reached AS MATERIALIZED (
  SELECT d.subscriber_number, d.call_id AS held_by, (SELECT a.call_id FROM attempts a JOIN calls c USING (publication_id, call_id)
    WHERE a.publication_id = $1 AND a.subscriber_number = d.subscriber_number AND a.channel = $2 AND a.call_id <> d.call_id
      AND a.outcome <> 'rejected' AND c.outcome = 'accepted' ORDER BY a.call_id LIMIT 1) AS call_id
  FROM deliveries d
  WHERE d.publication_id = $1 AND d.channel = $2 AND d.batch = $3 AND d.call_id = ANY ((SELECT calls FROM call)::uuid[]) AND d.state IN ('sending', 'in_doubt') AND d.resends > 0
    AND d.subscriber_number >= (SELECT first FROM call) AND d.subscriber_number <= (SELECT last FROM call)
), noted AS (
  INSERT INTO attempts (publication_id, subscriber_number, channel, call_id, outcome)
  SELECT $1, subscriber_number, $2, held_by, ($5::text[])[array_position($4::uuid[], held_by)]::outcome FROM reached WHERE call_id IS NOT NULL
  ON CONFLICT DO NOTHING
)
UPDATE deliveries d SET state = 'sent', call_id = (SELECT call_id FROM reached r WHERE r.subscriber_number = d.subscriber_number),
  reason = NULL, code = NULL, due_at = NULL, changed_at = clock_timestamp()
WHERE d.publication_id = $1 AND d.channel = $2
  AND d.subscriber_number >= (SELECT min(subscriber_number) FROM reached WHERE call_id IS NOT NULL)
  AND d.subscriber_number <= (SELECT max(subscriber_number) FROM reached WHERE call_id IS NOT NULL)
  AND (d.subscriber_number IN (SELECT subscriber_number FROM reached WHERE call_id IS NOT NULL)) IS TRUE`

// proveSQL gives proof that calls were accepted to those whom a later call holds
// by now, and did not reach for certain: they were sent to. One that may be under way is
// left to its worker. $1 publication, $2 channel, $3 batch; by call: $4 call, $5 outcome, $6 evidence.
const proveSQL = `
WITH proven AS MATERIALIZED (
  SELECT min(c.first_number) AS first, max(c.last_number) AS last, array_agg(c.call_id) AS calls
  FROM unnest($4::uuid[], $5::text[], $6::text[]) AS r (call_id, outcome, evidence) CROSS JOIN LATERAL (
    SELECT c.call_id, c.first_number, c.last_number FROM calls c WHERE c.publication_id = $1 AND c.call_id = r.call_id AND c.outcome = 'accepted' OFFSET 0) c
  WHERE r.outcome = 'accepted' AND r.evidence IS NOT NULL
), reached AS MATERIALIZED (
  SELECT d.subscriber_number, (SELECT a.call_id FROM attempts a WHERE a.publication_id = $1 AND a.subscriber_number = d.subscriber_number AND a.channel = $2
    AND a.call_id = ANY ((SELECT calls FROM proven)::uuid[]) AND a.call_id <> d.call_id AND a.outcome <> 'rejected' ORDER BY a.call_id LIMIT 1) AS call_id
  FROM deliveries d
  WHERE d.publication_id = $1 AND d.channel = $2 AND d.batch = $3 AND d.state IN ('pending', 'in_doubt', 'dead')
    AND d.subscriber_number >= (SELECT first FROM proven) AND d.subscriber_number <= (SELECT last FROM proven)
)
UPDATE deliveries d SET state = 'sent', call_id = (SELECT call_id FROM reached r WHERE r.subscriber_number = d.subscriber_number),
  reason = NULL, code = NULL, due_at = NULL, changed_at = clock_timestamp()
WHERE d.publication_id = $1 AND d.channel = $2
  AND d.subscriber_number >= (SELECT min(subscriber_number) FROM reached WHERE call_id IS NOT NULL)
  AND d.subscriber_number <= (SELECT max(subscriber_number) FROM reached WHERE call_id IS NOT NULL)
  AND (d.subscriber_number IN (SELECT subscriber_number FROM reached WHERE call_id IS NOT NULL)) IS TRUE`

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
	settled, ends := make([]fanfare.Settlement, len(calls)), make(map[fanfare.CallID]time.Time, len(calls))
	for i, c := range calls {
		ends[c.Call] = c.Until
		settled[i] = fanfare.Settlement{Call: c.Call, Result: fanfare.Result{Outcome: fanfare.Outcome{
			Kind: fanfare.OutcomeAmbiguous, Detail: "the worker stopped before it wrote what became of the call",
		}}}
	}
	l.queueSettle(b, ref, settled, ends)
	queueTally(b, ref, &tally)
	return tally, failed("doubt "+ref.WorkflowID(), l.pipeline(ctx, b))
}

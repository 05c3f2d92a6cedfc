package ledger

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	fanfare "github.com/fanfare-dev/fanfare"
)

// Doubts returns the publication's doubtful calls on a channel that are to be
// looked up now, at most limit of them, and the time until the next.
// The span is nil when nothing is in doubt.
func (l *Ledger) Doubts(ctx context.Context, id fanfare.PublicationID, channel fanfare.Channel, limit int) (due []fanfare.Doubt, next *time.Duration, err error) {
	op := "doubts of " + string(id)
	rows, err := l.pool.Query(ctx, dueDoubtsSQL, id, channel, limit)
	if err != nil {
		return nil, nil, failed(op, err)
	}
	due, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (fanfare.Doubt, error) {
		d := fanfare.Doubt{Ref: fanfare.BatchRef{Publication: id, Channel: channel}}
		err := row.Scan(&d.Call, &d.Ref.N, &d.Provider, &d.BeganAt, &d.EndedAt, &d.Looks, &d.Overdue, &d.Witness, &d.Unheard, &d.Final,
			&d.Address, &d.Locale, &d.WitnessAbout.BeganAt, &d.WitnessAbout.EndedAt, &d.WitnessAbout.Address, &d.WitnessMessage)
		return d, err
	})
	if err != nil {
		return nil, nil, failed(op, err)
	}
	var wait *float64
	err = l.pool.QueryRow(ctx, `
		SELECT extract(epoch FROM min(look_at) - clock_timestamp())::float8 FROM doubts
		WHERE publication_id = $1 AND channel = $2`, id, channel).Scan(&wait)
	return due, spanOf(wait), failed(op, err)
}

// dueDoubtsSQL reads doubts with their witnesses; the ids of calls order by the
// time of their claims. Nothing is overdue while events that came before the deadline
// are not applied. A provider reports events when it did of any of its first accepted
// calls; all of the publication's cannot be looked through for one that does not.
// $1 publication, $2 channel, $3 limit.
const dueDoubtsSQL = `
WITH reports AS MATERIALIZED (
  SELECT p.provider FROM (SELECT DISTINCT provider FROM doubts WHERE publication_id = $1 AND channel = $2) p
  WHERE EXISTS (
    SELECT FROM (
      SELECT a.call_id, a.first_number, a.last_number FROM calls a
      WHERE a.publication_id = $1 AND a.channel = $2 AND a.provider = p.provider AND a.outcome = 'accepted' ORDER BY a.call_id LIMIT 20) a
    CROSS JOIN LATERAL (
      SELECT FROM events e WHERE e.publication_id = $1 AND e.channel = $2 AND e.call_id = a.call_id
        AND e.subscriber_number BETWEEN a.first_number AND a.last_number LIMIT 1) e)
)
SELECT d.call_id, c.batch, d.provider, c.claimed_at, d.call_ended_at, d.looks,
  d.deadline <= clock_timestamp() AND NOT EXISTS (SELECT FROM event_inbox i WHERE i.received_at <= d.deadline),
  COALESCE(w.call_id::text, ''),
  w.call_id IS NOT NULL AND d.provider IN (SELECT provider FROM reports) AND NOT EXISTS (
    SELECT FROM events e WHERE e.publication_id = $1 AND e.channel = $2 AND e.call_id = w.call_id AND e.subscriber_number BETWEEN w.first_number AND w.last_number),
  p.state NOT IN ('running', 'paused') OR p.expires_at <= clock_timestamp(),
  COALESCE(s.phone, ''), COALESCE(s.locale, ''),
  COALESCE(w.claimed_at, d.call_ended_at), COALESCE(w.ended_at, d.call_ended_at), COALESCE(w.phone, ''), COALESCE(w.provider_id, '')
FROM doubts d JOIN publications p USING (publication_id) JOIN calls c USING (publication_id, call_id)
LEFT JOIN subscribers s ON d.channel = 'sms' AND s.subscriber_number = c.first_number
LEFT JOIN LATERAL (
  SELECT w.*, CASE WHEN w.channel = 'sms' THEN (SELECT s.phone FROM subscribers s WHERE s.subscriber_number = w.first_number) END AS phone FROM (
    (SELECT w.* FROM calls w WHERE w.publication_id = $1 AND w.channel = $2 AND w.provider = d.provider AND ` + canBeAskedAbout + `
       AND w.outcome = 'accepted' AND w.call_id >= uuid_v7_floor(d.call_ended_at) ORDER BY w.call_id LIMIT 1)
    UNION ALL
    (SELECT w.* FROM calls w WHERE w.publication_id = $1 AND w.channel = $2 AND w.provider = d.provider AND ` + canBeAskedAbout + `
       AND w.outcome = 'accepted' ORDER BY w.call_id DESC LIMIT 1)
    LIMIT 1) w) w ON true
WHERE d.publication_id = $1 AND d.channel = $2 AND d.look_at <= clock_timestamp()
ORDER BY d.look_at LIMIT $3`

// canBeAskedAbout holds for a call, w, that a look-up can be asked about: an SMS is found
// by its recipient's number, and who was erased has none.
const canBeAskedAbout = `(w.channel <> 'sms' OR EXISTS (SELECT FROM subscribers s WHERE s.subscriber_number = w.first_number AND s.phone IS NOT NULL))`

// Unattached returns those of a provider's messages, by its ids, that belong to no
// call: each may be the one of a call in doubt.
func (l *Ledger) Unattached(ctx context.Context, messages []string) ([]string, error) {
	rows, err := l.pool.Query(ctx, `
		SELECT id FROM unnest($1::text[]) AS m (id)
		WHERE NOT EXISTS (SELECT FROM calls c WHERE c.channel = 'sms' AND c.provider_id = m.id)`, messages)
	if err != nil {
		return nil, failed("find the calls of messages", err)
	}
	free, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return free, failed("find the calls of messages", err)
}

// LookAgain notes a look-up that settled nothing and when the next one is due.
// extend moves the deadline there too: the look-up failed, or has not yet shown what it
// must have shown before absence means anything.
func (l *Ledger) LookAgain(ctx context.Context, d fanfare.Doubt, after time.Duration, extend bool, note string) error {
	_, err := l.pool.Exec(ctx, `
		UPDATE doubts SET looks = looks + 1, last_look = $5,
		  look_at = CASE WHEN $4 THEN clock_timestamp() + make_interval(secs => $3)
		    ELSE LEAST(clock_timestamp() + make_interval(secs => $3), GREATEST(deadline, clock_timestamp())) END,
		  deadline = CASE WHEN $4 THEN GREATEST(deadline, clock_timestamp() + make_interval(secs => $3)) ELSE deadline END
		WHERE publication_id = $1 AND call_id = $2`, d.Ref.Publication, d.Call, seconds(after), extend, note)
	return failed("look again for call "+string(d.Call), err)
}

// ApplyPolicy ends a doubt without evidence, as the channel's policy says:
// what was never re-sent is re-sent once, where the policy is Resend and the publication
// still runs; everything else is dead, and kept.
func (l *Ledger) ApplyPolicy(ctx context.Context, d fanfare.Doubt) error {
	policy := l.cfg.DoubtPolicy[d.Ref.Channel]
	if policy == "" || d.Final { // decided as for one that sends nothing any more
		policy = Hold
	}
	b := &pgx.Batch{}
	b.Queue(enterGateSQL, d.Ref.Publication)
	b.Queue(lockBatchSQL, d.Ref.Publication, d.Ref.Channel, d.Ref.N)
	b.Queue(`
		WITH doubt AS (
		  DELETE FROM doubts WHERE publication_id = $1 AND call_id = $4 RETURNING call_id
		), call AS (
		  UPDATE calls SET evidence = 'none by the deadline; policy ' || $5 FROM doubt
		  WHERE publication_id = $1 AND calls.call_id = doubt.call_id RETURNING first_number, last_number
		), allowed AS MATERIALIZED (
		  SELECT $5 = 'resend' AND state IN ('running', 'paused') AND expires_at > clock_timestamp() AS resend FROM publications WHERE publication_id = $1
		)
		UPDATE deliveries d SET
		  state = CASE WHEN (SELECT resend FROM allowed) AND d.resends = 0 THEN 'pending' ELSE 'dead' END::delivery_state,
		  reason = CASE WHEN (SELECT resend FROM allowed) AND d.resends = 0 THEN NULL ELSE 'doubt_held' END,
		  resends = CASE WHEN (SELECT resend FROM allowed) THEN 1 ELSE d.resends END,
		  due_at = CASE WHEN (SELECT resend FROM allowed) AND d.resends = 0 THEN clock_timestamp() END,
		  changed_at = clock_timestamp()
		WHERE d.publication_id = $1 AND d.channel = $2 AND d.batch = $3 AND d.call_id = $4 AND d.state = 'in_doubt'
		  AND d.subscriber_number >= (SELECT first_number FROM call) AND d.subscriber_number <= (SELECT last_number FROM call)`,
		d.Ref.Publication, d.Ref.Channel, d.Ref.N, d.Call, string(policy))
	return failed(fmt.Sprintf("apply policy %s to call %s", policy, d.Call), l.pipeline(ctx, b))
}

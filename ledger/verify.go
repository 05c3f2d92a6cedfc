package ledger

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	fanfare "github.com/fanfare-dev/fanfare"
)

// Verify counts again, row by row: one publication, or all of them when id is
// empty. It believes neither the totals nor the cursors, and calls report, when not nil,
// after each publication.
func (l *Ledger) Verify(ctx context.Context, id fanfare.PublicationID, report func(done, all int)) (fanfare.Verification, error) {
	v := fanfare.Verification{Problems: []fanfare.Problem{}}
	rows, err := l.pool.Query(ctx, `
		SELECT publication_id FROM publications WHERE $1::uuid IS NULL OR publication_id = $1::uuid ORDER BY publication_id`, textOrNull(string(id)))
	if err != nil {
		return v, failed("verify", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[fanfare.PublicationID])
	if err != nil {
		return v, failed("verify", err)
	}
	if id != "" && len(ids) == 0 {
		return v, fmt.Errorf("verify %s: %w", id, fanfare.ErrNotFound)
	}
	for _, each := range ids {
		if err := l.verifyOne(ctx, each, &v); err != nil {
			return v, failed("verify "+string(each), err)
		}
		v.Checked++
		if report != nil {
			report(v.Checked, len(ids))
		}
	}
	v.OK = len(v.Problems) == 0
	return v, nil
}

// counted is one channel of a publication, counted from the rows.
type counted struct {
	Channel    fanfare.Channel
	Audience   int64 // as accepted
	Members    int64 // counted again
	Rows       int64 // deliveries
	Strangers  int64 // deliveries of people outside the audience
	Lost       int64 // members the cursor passed without a row
	Unequal    int64 // batches whose totals differ from their rows
	Unfinished int64 // rows or members that have not come to an end
	Covered    int64 // sum of the batches' intended
	Stray      int64 // deliveries whose attention row is missing or wrong
	Duplicates int64 // accepted by a call, and by another one too
	Resent     int64 // sent again by policy, without evidence
	Finished   bool
}

// One snapshot for everything, or a publication under way would look unequal.
func (l *Ledger) verifyOne(ctx context.Context, id fanfare.PublicationID, v *fanfare.Verification) error {
	options := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	return pgx.BeginTxFunc(ctx, l.pool, options, func(tx pgx.Tx) error {
		// Counting millions of rows takes longer than a statement may otherwise.
		if _, err := tx.Exec(ctx, `SET LOCAL statement_timeout = '30min'`); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, verifySQL, id)
		if err != nil {
			return err
		}
		channels, err := pgx.CollectRows(rows, pgx.RowToStructByPos[counted])
		if err != nil {
			return err
		}
		for _, c := range channels {
			v.Duplicates += c.Duplicates
			v.Resent += c.Resent
			for _, sentence := range c.problems() {
				v.Problems = append(v.Problems, fanfare.Problem{
					Publication: id, Channel: c.Channel, Intended: c.Audience, Counted: c.Members, Sentence: sentence,
				})
			}
		}
		return nil
	})
}

func (c counted) problems() []string {
	var list []string
	when := func(bad bool, format string, args ...any) {
		if bad {
			list = append(list, fmt.Sprintf(format, args...))
		}
	}
	when(c.Audience != c.Members, "%d recipients were intended, but the subscriptions at the cut number %d", c.Audience, c.Members)
	when(c.Lost > 0, "%d recipients were passed over: the batch's cursor is behind them, and they have no row", c.Lost)
	when(c.Strangers > 0, "%d deliveries belong to nobody in the audience", c.Strangers)
	when(c.Unequal > 0, "%d batches have totals that differ from their rows", c.Unequal)
	when(c.Stray > 0, "%d deliveries that wait or went wrong are missing from the attention table, or stand there wrongly", c.Stray)
	when(c.Covered > c.Audience, "the batches hold %d recipients, more than the %d intended", c.Covered, c.Audience)
	when(c.Finished && c.Unfinished > 0, "it is finished, but %d recipients have not come to an end", c.Unfinished)
	return list
}

// verifySQL reads the audience and the deliveries once each, side by side, and
// counts by batch; all else is done with those few counts. A member without a row is
// lost when the cursor of the batch before it has passed: thresholds finds that batch
// by bisection.
const verifySQL = `
WITH publication AS MATERIALIZED (
  SELECT publication_id, audience, channels, finished_at IS NOT NULL AS finished FROM publications WHERE publication_id = $1
), member AS (
  SELECT c.channel, s.subscriber_number FROM subscriptions s CROSS JOIN (SELECT unnest(channels) AS channel FROM publication) c WHERE ` + audience + `
), thresholds AS MATERIALIZED (
  SELECT channel, array_agg(first_number ORDER BY first_number) AS firsts, array_agg(claimed_through ORDER BY first_number) AS cursors
  FROM batches WHERE publication_id = $1 GROUP BY channel
), pair AS (
  SELECT channel, subscriber_number, m.subscriber_number IS NOT NULL AS is_member, d.batch, d.state, d.resends
  FROM member m FULL JOIN (
    SELECT channel, subscriber_number, batch, state, resends FROM deliveries WHERE publication_id = $1) d USING (channel, subscriber_number)
), counted AS MATERIALIZED (
  SELECT pair.channel, batch AS n, count(*) FILTER (WHERE is_member) AS members, count(batch) AS rows,
    count(*) FILTER (WHERE NOT is_member) AS strangers,
    count(*) FILTER (WHERE batch IS NULL AND subscriber_number <= t.cursors[width_bucket(subscriber_number, t.firsts)]) AS lost,
    count(*) FILTER (WHERE resends > 0) AS resent, count(*) FILTER (WHERE state = 'pending') AS pending,
    count(*) FILTER (WHERE state = 'sending') AS sending, count(*) FILTER (WHERE state = 'in_doubt') AS in_doubt,
    count(*) FILTER (WHERE state = 'sent') AS sent, count(*) FILTER (WHERE state = 'delivered') AS delivered,
    count(*) FILTER (WHERE state = 'failed') AS failed, count(*) FILTER (WHERE state = 'skipped') AS skipped, count(*) FILTER (WHERE state = 'dead') AS dead
  FROM pair LEFT JOIN thresholds t USING (channel) GROUP BY pair.channel, batch
), by_channel AS (
  SELECT channel, sum(members) AS members, sum(rows) AS rows, sum(strangers) AS strangers, sum(lost) AS lost,
    sum(resent) AS resent, sum(pending + sending + in_doubt) AS waiting
  FROM counted GROUP BY channel
), by_batch AS (
  SELECT channel, sum(b.intended) AS covered, count(*) FILTER (WHERE (b.sending, b.in_doubt, b.sent, b.delivered, b.failed, b.skipped, b.dead)
    IS DISTINCT FROM (COALESCE(c.sending, 0), COALESCE(c.in_doubt, 0), COALESCE(c.sent, 0), COALESCE(c.delivered, 0), COALESCE(c.failed, 0), COALESCE(c.skipped, 0), COALESCE(c.dead, 0))) AS unequal
  FROM (SELECT * FROM batches WHERE publication_id = $1) b FULL JOIN (SELECT * FROM counted WHERE n IS NOT NULL) c USING (channel, n) GROUP BY channel
), stray AS (
  SELECT channel, count(*) AS stray
  FROM (SELECT channel, subscriber_number, state FROM deliveries WHERE publication_id = $1 AND state IN ('pending', 'in_doubt', 'failed', 'dead')) d
  FULL JOIN (SELECT channel, subscriber_number, state FROM attention WHERE publication_id = $1) a USING (channel, subscriber_number)
  WHERE d.state IS DISTINCT FROM a.state GROUP BY channel
), accepted AS MATERIALIZED (
  SELECT call_id FROM calls WHERE publication_id = $1 AND outcome = 'accepted'
), duplicates AS (
  SELECT t.channel, count(*) AS duplicates FROM attempts t CROSS JOIN LATERAL (
    SELECT d.call_id FROM deliveries d WHERE d.publication_id = $1 AND d.subscriber_number = t.subscriber_number AND d.channel = t.channel OFFSET 0) d
  WHERE t.publication_id = $1 AND t.outcome <> 'rejected' AND d.call_id <> t.call_id
    AND (t.call_id IN (SELECT call_id FROM accepted)) IS TRUE AND (d.call_id IN (SELECT call_id FROM accepted)) IS TRUE
    AND NOT EXISTS (SELECT FROM attempts r WHERE r.publication_id = $1 AND r.subscriber_number = t.subscriber_number AND r.channel = t.channel
      AND r.call_id = d.call_id AND r.outcome = 'rejected' OFFSET 0)
  GROUP BY t.channel
)
SELECT channel, COALESCE(c.audience, 0), COALESCE(members, 0)::bigint, COALESCE(rows, 0)::bigint, COALESCE(strangers, 0)::bigint,
  COALESCE(lost, 0)::bigint, COALESCE(unequal, 0), COALESCE(waiting + members - rows, 0)::bigint, COALESCE(covered, 0)::bigint,
  COALESCE(stray, 0), COALESCE(duplicates, 0), COALESCE(resent, 0)::bigint, (SELECT finished FROM publication)
FROM (SELECT unnest(channels) AS channel, audience FROM publication) c
FULL JOIN by_channel USING (channel) FULL JOIN by_batch USING (channel) FULL JOIN stray USING (channel) LEFT JOIN duplicates USING (channel)
ORDER BY channel`

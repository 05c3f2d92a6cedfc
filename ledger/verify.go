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

const verifySQL = `
WITH member AS MATERIALIZED (
  SELECT s.subscriber_number FROM subscriptions s WHERE ` + audience + `
), channel AS (
  SELECT p.publication_id, c.channel, p.audience, p.finished_at IS NOT NULL AS finished
  FROM publications p CROSS JOIN LATERAL unnest(p.channels) AS c (channel) WHERE p.publication_id = $1
), row AS MATERIALIZED (
  SELECT d.channel, d.subscriber_number, d.batch, d.state, d.call_id, d.resends FROM deliveries d WHERE d.publication_id = $1
), by_batch AS (
  SELECT channel, batch, count(*) FILTER (WHERE state = 'sending') AS sending, count(*) FILTER (WHERE state = 'in_doubt') AS in_doubt,
    count(*) FILTER (WHERE state = 'sent') AS sent, count(*) FILTER (WHERE state = 'delivered') AS delivered,
    count(*) FILTER (WHERE state = 'failed') AS failed, count(*) FILTER (WHERE state = 'skipped') AS skipped, count(*) FILTER (WHERE state = 'dead') AS dead
  FROM row GROUP BY channel, batch
)
SELECT c.channel, c.audience, (SELECT count(*) FROM member),
  (SELECT count(*) FROM row r WHERE r.channel = c.channel),
  (SELECT count(*) FROM row r WHERE r.channel = c.channel AND NOT EXISTS (SELECT FROM member m WHERE m.subscriber_number = r.subscriber_number)),
  (SELECT count(*) FROM member m JOIN batches b ON b.publication_id = $1 AND b.channel = c.channel AND m.subscriber_number BETWEEN b.first_number AND b.claimed_through
    WHERE NOT EXISTS (SELECT FROM row r WHERE r.channel = c.channel AND r.subscriber_number = m.subscriber_number)),
  (SELECT count(*) FROM batches b LEFT JOIN by_batch r ON r.channel = b.channel AND r.batch = b.n
    WHERE b.publication_id = $1 AND b.channel = c.channel AND (b.sending, b.in_doubt, b.sent, b.delivered, b.failed, b.skipped, b.dead)
      IS DISTINCT FROM (COALESCE(r.sending, 0), COALESCE(r.in_doubt, 0), COALESCE(r.sent, 0), COALESCE(r.delivered, 0), COALESCE(r.failed, 0), COALESCE(r.skipped, 0), COALESCE(r.dead, 0))),
  (SELECT count(*) FROM row r WHERE r.channel = c.channel AND r.state IN ('pending', 'sending', 'in_doubt'))
    + (SELECT count(*) FROM member) - (SELECT count(*) FROM row r WHERE r.channel = c.channel),
  (SELECT COALESCE(sum(b.intended), 0)::bigint FROM batches b WHERE b.publication_id = $1 AND b.channel = c.channel),
  (SELECT count(*) FROM (SELECT r.subscriber_number, r.state FROM row r WHERE r.channel = c.channel AND r.state IN ('pending', 'in_doubt', 'failed', 'dead')) r
    FULL JOIN (SELECT subscriber_number, state FROM attention WHERE publication_id = $1 AND channel = c.channel) a USING (subscriber_number)
    WHERE r.state IS DISTINCT FROM a.state),
  (SELECT count(*) FROM attempts t JOIN calls old ON old.publication_id = $1 AND old.call_id = t.call_id AND old.outcome = 'accepted'
    JOIN row r ON r.channel = c.channel AND r.subscriber_number = t.subscriber_number AND r.call_id <> t.call_id
    JOIN calls cur ON cur.publication_id = $1 AND cur.call_id = r.call_id AND cur.outcome = 'accepted'
    WHERE t.publication_id = $1 AND t.channel = c.channel AND t.outcome <> 'rejected'),
  (SELECT count(*) FROM row r WHERE r.channel = c.channel AND r.resends > 0),
  c.finished
FROM channel c ORDER BY c.channel`

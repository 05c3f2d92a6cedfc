package ledger

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	fanfare "github.com/fanfare-dev/fanfare"
)

// audience is who belonged to the topic of publication $1 when it was accepted,
// as a condition on subscriptions s. Scalar sub-selects, so that a page of it
// is read in the order of the primary key and stops at its LIMIT.
const audience = `s.topic_id = (SELECT topic_id FROM publications WHERE publication_id = $1)
  AND s.began_cut < (SELECT cut FROM publications WHERE publication_id = $1)
  AND (s.ended_cut IS NULL OR s.ended_cut > (SELECT cut FROM publications WHERE publication_id = $1))`

// Plan cuts the next slices of the audience, at most limit of them on each
// channel and each of at most size recipients, and returns how many are
// planned on each channel and whether that is all. Planning is done in pages so that the
// first call need not wait for a million recipients to be counted out.
//
// Batches, once written, never change; planning again goes on behind the last.
func (l *Ledger) Plan(ctx context.Context, id fanfare.PublicationID, size, limit int) (planned int, complete bool, err error) {
	err = l.transact(ctx, func(tx pgx.Tx) error {
		// Two planners would cut overlapping slices.
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended('fanfare plan ' || $1, 0))`, id); err != nil {
			return err
		}
		var covered, audience, through int64
		err := tx.QueryRow(ctx, `
			SELECT p.audience, COALESCE(b.n, 0), COALESCE(b.covered, 0), COALESCE(b.through, 0)
			FROM publications p LEFT JOIN (
			  SELECT publication_id, channel, count(*) AS n, sum(intended)::bigint AS covered, max(last_number) AS through
			  FROM batches WHERE publication_id = $1 GROUP BY publication_id, channel) b
			  ON b.publication_id = p.publication_id AND b.channel = p.channels[1]
			WHERE p.publication_id = $1`, id).Scan(&audience, &planned, &covered, &through)
		if errors.Is(err, pgx.ErrNoRows) {
			err = fanfare.ErrNotFound
		}
		if err != nil {
			return err
		}
		for range limit {
			if covered >= audience {
				break
			}
			last, count, err := planBatch(ctx, tx, id, planned+1, through, size)
			if err != nil {
				return err
			}
			planned, through, covered = planned+1, last, covered+count
		}
		complete = covered >= audience
		return nil
	})
	return planned, complete, failed("plan "+string(id), err)
}

func planBatch(ctx context.Context, tx pgx.Tx, id fanfare.PublicationID, n int, after int64, size int) (last, count int64, err error) {
	err = tx.QueryRow(ctx, `
		WITH slice AS MATERIALIZED (
		  SELECT min(subscriber_number) AS first, max(subscriber_number) AS last, count(*) AS intended FROM (
		    SELECT s.subscriber_number FROM subscriptions s WHERE s.subscriber_number > $3 AND `+audience+`
		    ORDER BY s.topic_id, s.subscriber_number LIMIT $4) page
		), planned AS (
		  INSERT INTO batches (publication_id, channel, n, first_number, last_number, claimed_through, intended)
		  SELECT p.publication_id, c.channel, $2, slice.first, slice.last, slice.first - 1, slice.intended
		  FROM slice, publications p CROSS JOIN LATERAL unnest(p.channels) AS c (channel) WHERE p.publication_id = $1
		)
		SELECT last, intended FROM slice WHERE intended > 0`, id, n, after, size).Scan(&last, &count)
	if err != nil {
		return 0, 0, fmt.Errorf("batch %d: %w", n, err)
	}
	return last, count, nil
}

package ledger

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	fanfare "github.com/fanfare-dev/fanfare"
)

// callsSince bounds ids of calls, which order by the times of their claims, to
// those of the last seconds: only they are read. It asks for the time of the statement,
// because no index serves what may change while it runs, and for two bounds, because
// the planner takes one for a third of the table.
func callsSince(secs string) string {
	return `uuid_v7_floor(statement_timestamp() - make_interval(secs => ` + secs + `)) AND uuid_v7_floor(statement_timestamp() + interval '1 hour')`
}

// rateWindow is the time over which a publication's rate is measured, and rateCalls how many
// calls at most, the newest: with one message each there are 10,000 in a second, and
// somebody watches. More than workers have under way.
const (
	rateWindow = 10 * time.Second
	rateCalls  = 10000
)

const publicationSQL = `
SELECT p.publication_id, p.key, t.topic, p.class, p.channels::text[], p.state, p.accepted_at, p.scheduled_at, p.expires_at,
  p.started_at, p.finished_at, p.audience
FROM publications p JOIN topics t USING (topic_id)`

// Publication reads one publication with its totals.
func (l *Ledger) Publication(ctx context.Context, id fanfare.PublicationID) (fanfare.Publication, error) {
	list, err := l.publications(ctx, publicationSQL+` WHERE p.publication_id = $1`, id)
	if err == nil && len(list) == 0 {
		err = fanfare.ErrNotFound
	}
	if err != nil {
		return fanfare.Publication{}, failed("read publication "+string(id), err)
	}
	return list[0], nil
}

// FindPublication reads one publication by its id or by its key.
func (l *Ledger) FindPublication(ctx context.Context, idOrKey string) (fanfare.Publication, error) {
	if fanfare.ValidPublicationID(idOrKey) {
		return l.Publication(ctx, fanfare.PublicationID(idOrKey))
	}
	list, err := l.publications(ctx, publicationSQL+` WHERE p.key = $1`, idOrKey)
	if err == nil && len(list) == 0 {
		err = fanfare.ErrNotFound
	}
	if err != nil {
		return fanfare.Publication{}, failed("find publication "+idOrKey, err)
	}
	return list[0], nil
}

// Publications lists publications, newest first.
func (l *Ledger) Publications(ctx context.Context, q fanfare.PublicationQuery) ([]fanfare.Publication, error) {
	list, err := l.publications(ctx, publicationSQL+`
		WHERE ($1 = '' OR t.topic = $1) AND ($2 = '' OR p.state::text = $2) AND ($3::uuid IS NULL OR p.publication_id < $3::uuid)
		ORDER BY p.publication_id DESC LIMIT $4`, q.Topic, q.State, textOrNull(string(q.Before)), q.Limit)
	return list, failed("list publications", err)
}

func (l *Ledger) publications(ctx context.Context, sql string, args ...any) ([]fanfare.Publication, error) {
	rows, err := l.pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	audiences := map[fanfare.PublicationID]int64{}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (fanfare.Publication, error) {
		var p fanfare.Publication
		var audience int64
		err := row.Scan(&p.ID, &p.Key, &p.Topic, &p.Class, &p.Channels, &p.State, &p.AcceptedAt, &p.ScheduledAt, &p.ExpiresAt,
			&p.StartedAt, &p.FinishedAt, &audience)
		audiences[p.ID] = audience
		return p, err
	})
	if err != nil {
		return nil, err
	}
	for i := range list {
		if err := l.addBooks(ctx, &list[i], audiences[list[i].ID]); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// addBooks adds totals, reasons, rate and ETA. What has no row yet is pending:
// intended less all that is counted.
func (l *Ledger) addBooks(ctx context.Context, p *fanfare.Publication, audience int64) error {
	p.ByChannel = map[fanfare.Channel]fanfare.Totals{}
	for _, c := range p.Channels {
		p.ByChannel[c] = fanfare.Totals{Intended: audience, Pending: audience}
	}
	p.SkippedByReason, p.FailedByCode = map[string]int64{}, map[string]int64{}
	b := &pgx.Batch{}
	b.Queue(`
		SELECT channel, sum(sending)::bigint, sum(in_doubt)::bigint, sum(sent)::bigint, sum(delivered)::bigint,
		  sum(failed)::bigint, sum(skipped)::bigint, sum(dead)::bigint
		FROM batches WHERE publication_id = $1 GROUP BY channel`, p.ID).Query(func(rows pgx.Rows) error {
		var c fanfare.Channel
		var t fanfare.Totals
		_, err := pgx.ForEachRow(rows, []any{&c, &t.Sending, &t.InDoubt, &t.Sent, &t.Delivered, &t.Failed, &t.Skipped, &t.Dead}, func() error {
			t.Intended = audience
			t.Pending = audience - t.Sending - t.InDoubt - t.Sent - t.Delivered - t.Failed - t.Skipped - t.Dead
			p.ByChannel[c] = t
			return nil
		})
		return err
	})
	b.Queue(`
		SELECT state, reason, sum(count)::bigint FROM batch_reasons
		WHERE publication_id = $1 AND state IN ('skipped', 'failed') AND count > 0 GROUP BY state, reason`, p.ID).Query(func(rows pgx.Rows) error {
		var state fanfare.State
		var reason string
		var count int64
		_, err := pgx.ForEachRow(rows, []any{&state, &reason, &count}, func() error {
			if state == fanfare.Skipped {
				p.SkippedByReason[reason] = count
			} else {
				p.FailedByCode[reason] = count
			}
			return nil
		})
		return err
	})
	if p.State == fanfare.Running {
		b.Queue(`
			SELECT COALESCE(sum(size) FILTER (WHERE outcome = 'accepted' AND ended_at > clock_timestamp() - make_interval(secs => $2)), 0)::float8
			  / GREATEST(0.1, LEAST($2, extract(epoch FROM clock_timestamp() - CASE WHEN count(*) < $5 THEN $3::timestamptz ELSE min(ended_at) END)::float8))
			FROM (SELECT size, outcome, ended_at FROM calls WHERE publication_id = $1
			  AND call_id BETWEEN `+callsSince("$4")+` ORDER BY call_id DESC LIMIT $5) newest`,
			p.ID, seconds(rateWindow), p.StartedAt, seconds(rateWindow+callWithin+lapseMargin), rateCalls).QueryRow(func(row pgx.Row) error { return row.Scan(&p.RatePerSecond) })
	}
	if err := l.pipeline(ctx, b); err != nil {
		return err
	}
	for _, t := range p.ByChannel {
		p.Totals = p.Totals.Add(t)
	}
	if p.RatePerSecond > 0 {
		eta := time.Now().Add(time.Duration(float64(p.Totals.Unfinished()) / p.RatePerSecond * float64(time.Second))).UTC().Truncate(time.Second)
		p.ETA = &eta
	}
	return l.addWaiting(ctx, p)
}

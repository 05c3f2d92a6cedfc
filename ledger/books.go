package ledger

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	fanfare "github.com/fanfare-dev/fanfare"
)

// rateWindow is the time over which a publication's rate is measured.
const rateWindow = 10 * time.Second

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
			SELECT COALESCE(sum(size), 0)::float8 / GREATEST(0.1, LEAST($2, extract(epoch FROM clock_timestamp() - $3::timestamptz)::float8))
			FROM calls WHERE publication_id = $1 AND outcome = 'accepted' AND ended_at > clock_timestamp() - make_interval(secs => $2)`,
			p.ID, seconds(rateWindow), p.StartedAt).QueryRow(func(row pgx.Row) error { return row.Scan(&p.RatePerSecond) })
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
	return nil
}

// Deliveries lists a publication's deliveries by channel and number. Those not
// yet claimed have no row and are listed as pending.
func (l *Ledger) Deliveries(ctx context.Context, q fanfare.DeliveryQuery) ([]fanfare.Delivery, error) {
	p, err := l.Publication(ctx, q.Publication)
	if err != nil {
		return nil, err
	}
	var list []fanfare.Delivery
	for _, c := range p.Channels {
		if q.Channel != "" && c != q.Channel || q.After != nil && c < q.After.Channel || len(list) >= q.Limit {
			continue
		}
		var after fanfare.SubscriberNumber
		if q.After != nil && c == q.After.Channel {
			after = q.After.Number
		}
		page, err := l.deliveriesOf(ctx, q, c, after, q.Limit-len(list))
		if err != nil {
			return nil, failed("list deliveries of "+string(q.Publication), err)
		}
		list = append(list, page...)
	}
	return list, nil
}

func (l *Ledger) deliveriesOf(ctx context.Context, q fanfare.DeliveryQuery, c fanfare.Channel, after fanfare.SubscriberNumber, limit int) ([]fanfare.Delivery, error) {
	sql := `
		SELECT s.subscriber_number, COALESCE(p.external_id, ''), COALESCE(d.state, 'pending'), COALESCE(d.reason, ''), COALESCE(d.code, ''), COALESCE(d.batch, 0),
		  (SELECT call.provider FROM calls call WHERE call.publication_id = $1 AND call.call_id = d.call_id)
		FROM subscriptions s JOIN subscribers p USING (subscriber_number)
		LEFT JOIN deliveries d ON d.publication_id = $1 AND d.channel = $2 AND d.subscriber_number = s.subscriber_number
		WHERE s.subscriber_number > $3 AND ($4 = '' OR COALESCE(d.state, 'pending')::text = $4) AND ` + audience + `
		ORDER BY s.subscriber_number LIMIT $5`
	switch q.State {
	case fanfare.InDoubt, fanfare.Failed, fanfare.Dead:
		sql = `
		SELECT a.subscriber_number, COALESCE(p.external_id, ''), d.state, COALESCE(d.reason, ''), COALESCE(d.code, ''), d.batch,
		  (SELECT call.provider FROM calls call WHERE call.publication_id = $1 AND call.call_id = d.call_id)
		FROM attention a JOIN subscribers p USING (subscriber_number)
		JOIN deliveries d USING (publication_id, channel, subscriber_number)
		WHERE a.publication_id = $1 AND a.channel = $2 AND a.subscriber_number > $3 AND a.state = $4::text::delivery_state
		ORDER BY a.subscriber_number LIMIT $5`
	}
	rows, err := l.pool.Query(ctx, sql, q.Publication, c, after, string(q.State), limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (fanfare.Delivery, error) {
		d := fanfare.Delivery{Publication: q.Publication, Channel: c}
		id := fanfare.DeliveryID{Publication: q.Publication, Channel: c}
		var provider *string
		err := row.Scan(&id.Number, &d.Subscriber, &d.State, &d.Reason, &d.Code, &d.Batch, &provider)
		if provider != nil {
			d.Provider = *provider
		}
		d.ID = id.String()
		return d, err
	})
}

// Delivery reads one delivery with every attempt. A member of the audience who
// was not claimed yet is pending; anyone else is fanfare.ErrNotFound.
func (l *Ledger) Delivery(ctx context.Context, id fanfare.DeliveryID) (fanfare.Delivery, error) {
	d := fanfare.Delivery{ID: id.String(), Publication: id.Publication, Channel: id.Channel, Events: []fanfare.Event{}}
	err := l.pool.QueryRow(ctx, `
		SELECT COALESCE(p.external_id, ''), COALESCE(d.state, 'pending'), COALESCE(d.reason, ''), COALESCE(d.code, ''), COALESCE(d.batch, 0), COALESCE(c.provider, '')
		FROM subscriptions s JOIN subscribers p USING (subscriber_number)
		JOIN publications q ON q.publication_id = $1 AND $2::channel = ANY (q.channels)
		LEFT JOIN deliveries d ON d.publication_id = $1 AND d.channel = $2 AND d.subscriber_number = s.subscriber_number
		LEFT JOIN calls c ON c.publication_id = $1 AND c.call_id = d.call_id
		WHERE s.subscriber_number = $3 AND `+audience, id.Publication, id.Channel, id.Number).
		Scan(&d.Subscriber, &d.State, &d.Reason, &d.Code, &d.Batch, &d.Provider)
	if errors.Is(err, pgx.ErrNoRows) {
		err = fanfare.ErrNotFound
	}
	if err != nil {
		return d, failed("read delivery "+d.ID, err)
	}
	rows, err := l.pool.Query(ctx, `
		SELECT row_number() OVER (ORDER BY c.claimed_at), c.call_id, c.provider, c.claimed_at, c.ended_at,
		  -- A call that was ambiguous may have been accepted later; its rejections by name stand.
		  COALESCE(CASE WHEN c.outcome = 'accepted' AND a.outcome IS DISTINCT FROM 'rejected' THEN 'accepted' ELSE COALESCE(a.outcome, c.outcome) END::text, ''),
		  COALESCE(a.code, c.provider || ':' || c.code, ''), COALESCE(c.evidence, '')
		FROM (
		  SELECT call_id FROM deliveries WHERE publication_id = $1 AND subscriber_number = $3 AND channel = $2 AND call_id IS NOT NULL
		  UNION SELECT call_id FROM attempts WHERE publication_id = $1 AND subscriber_number = $3 AND channel = $2) part
		JOIN calls c ON c.publication_id = $1 AND c.call_id = part.call_id
		LEFT JOIN attempts a ON a.publication_id = $1 AND a.subscriber_number = $3 AND a.channel = $2 AND a.call_id = part.call_id
		ORDER BY c.claimed_at`, id.Publication, id.Channel, id.Number)
	if err != nil {
		return d, failed("read delivery "+d.ID, err)
	}
	d.Attempts, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (fanfare.Attempt, error) {
		var a fanfare.Attempt
		err := row.Scan(&a.N, &a.Call, &a.Provider, &a.StartedAt, &a.EndedAt, &a.Outcome, &a.Code, &a.Evidence)
		a.Code = strings.TrimSuffix(a.Code, ":")
		return a, err
	})
	return d, failed("read delivery "+d.ID, err)
}

package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	fanfare "github.com/fanfare-dev/fanfare"
)

// Deliveries lists a publication's deliveries by channel and number. Those not
// yet claimed have no row and are listed as pending.
func (l *Ledger) Deliveries(ctx context.Context, q fanfare.DeliveryQuery) ([]fanfare.Delivery, error) {
	var channels []fanfare.Channel
	err := l.pool.QueryRow(ctx, `SELECT channels::text[] FROM publications WHERE publication_id = $1`, q.Publication).Scan(&channels)
	if errors.Is(err, pgx.ErrNoRows) {
		err = fanfare.ErrNotFound
	}
	if err != nil {
		return nil, failed("list deliveries of "+string(q.Publication), err)
	}
	var list []fanfare.Delivery
	for _, c := range slices.Sorted(slices.Values(channels)) {
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

// The numbers on one page: $1 publication, $2 channel, $3 the number before the
// page, $4 its size. Each stops reading when the page is full, or nearly so.
const (
	everyoneSQL = `
SELECT s.subscriber_number FROM subscriptions s WHERE s.subscriber_number > $3 AND ` + audience + `
ORDER BY s.topic_id, s.subscriber_number LIMIT $4`

	attentionSQL = `
SELECT a.subscriber_number FROM attention a WHERE a.publication_id = $1 AND a.channel = $2 AND a.subscriber_number > $3 AND a.state = '%s'
ORDER BY a.subscriber_number LIMIT $4`

	// Only batches whose totals say that they have some.
	inBatchesSQL = `
SELECT d.subscriber_number FROM batches b CROSS JOIN LATERAL (
  SELECT d.subscriber_number FROM deliveries d WHERE d.publication_id = $1 AND d.channel = $2 AND d.state = '%[1]s'
    AND d.subscriber_number BETWEEN GREATEST(b.first_number, $3 + 1) AND b.last_number OFFSET 0) d
WHERE b.publication_id = $1 AND b.channel = $2 AND b.last_number > $3 AND b.%[1]s > 0
ORDER BY b.n, d.subscriber_number LIMIT $4`

	// Those who wait, and those whom no cursor has passed.
	pendingSQL = `
(` + attentionSQL + `)
UNION ALL (
SELECT s.subscriber_number FROM (
  SELECT claimed_through, last_number FROM batches
  WHERE publication_id = $1 AND channel = $2 AND last_number > $3 AND claimed_through < last_number
  UNION ALL SELECT COALESCE(max(last_number), 0), 9223372036854775807 FROM batches WHERE publication_id = $1 AND channel = $2
  ORDER BY claimed_through OFFSET 0
) open CROSS JOIN LATERAL (
  SELECT s.subscriber_number FROM subscriptions s
  WHERE s.subscriber_number > GREATEST(open.claimed_through, $3) AND s.subscriber_number <= open.last_number AND ` + audience + `
  ORDER BY s.topic_id, s.subscriber_number LIMIT $4) s
ORDER BY open.claimed_through, s.subscriber_number LIMIT $4)
ORDER BY subscriber_number LIMIT $4`
)

func pageSQL(state fanfare.State) string {
	switch state {
	case "":
		return everyoneSQL
	case fanfare.Pending:
		return fmt.Sprintf(pendingSQL, state)
	case fanfare.InDoubt, fanfare.Failed, fanfare.Dead:
		return fmt.Sprintf(attentionSQL, state)
	case fanfare.Sending, fanfare.Sent, fanfare.Delivered, fanfare.Skipped:
		return fmt.Sprintf(inBatchesSQL, state)
	}
	return ""
}

func (l *Ledger) deliveriesOf(ctx context.Context, q fanfare.DeliveryQuery, c fanfare.Channel, after fanfare.SubscriberNumber, limit int) ([]fanfare.Delivery, error) {
	page := pageSQL(q.State)
	if page == "" {
		return nil, fmt.Errorf("state %q: %w", q.State, fanfare.ErrInvalid)
	}
	// OFFSET 0 keeps the look-ups by primary key: a merge join would read all
	// subscribers up to the page.
	rows, err := l.pool.Query(ctx, `
		SELECT page.subscriber_number, COALESCE(p.external_id, ''), COALESCE(d.state, 'pending'), COALESCE(d.reason, ''), COALESCE(d.code, ''),
		  COALESCE(d.batch, 0), COALESCE((SELECT call.provider FROM calls call WHERE call.publication_id = $1 AND call.call_id = d.call_id), '')
		FROM (`+page+`) page
		CROSS JOIN LATERAL (SELECT p.external_id FROM subscribers p WHERE p.subscriber_number = page.subscriber_number OFFSET 0) p
		LEFT JOIN LATERAL (SELECT d.* FROM deliveries d WHERE d.publication_id = $1 AND d.channel = $2 AND d.subscriber_number = page.subscriber_number OFFSET 0) d ON true
		ORDER BY page.subscriber_number`, q.Publication, c, after, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (fanfare.Delivery, error) {
		d := fanfare.Delivery{Publication: q.Publication, Channel: c}
		id := fanfare.DeliveryID{Publication: q.Publication, Channel: c}
		err := row.Scan(&id.Number, &d.Subscriber, &d.State, &d.Reason, &d.Code, &d.Batch, &d.Provider)
		d.ID = id.String()
		return d, err
	})
}

// Delivery reads one delivery with every attempt and event. A member of the audience who
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
		  COALESCE(a.code, c.provider || ':' || c.code, ''), COALESCE(c.evidence, ''), c.devices
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
		err := row.Scan(&a.N, &a.Call, &a.Provider, &a.StartedAt, &a.EndedAt, &a.Outcome, &a.Code, &a.Evidence, &a.Devices)
		a.Code = strings.TrimSuffix(a.Code, ":")
		return a, err
	})
	if err != nil {
		return d, failed("read delivery "+d.ID, err)
	}
	rows, err = l.pool.Query(ctx, `
		SELECT type, at FROM events WHERE publication_id = $1 AND subscriber_number = $2 AND channel = $3 ORDER BY at, type`, id.Publication, id.Number, id.Channel)
	if err != nil {
		return d, failed("read delivery "+d.ID, err)
	}
	d.Events, err = pgx.AppendRows(d.Events, rows, pgx.RowToStructByPos[fanfare.Event])
	return d, failed("read delivery "+d.ID, err)
}

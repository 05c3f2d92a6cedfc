package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	fanfare "github.com/fanfare-dev/fanfare"
)

// Inbox reads a page of a subscriber's inbox, newest first, and where the inbox stands
// at the same moment. Who never got anything has an empty one, who was erased none.
func (l *Ledger) Inbox(ctx context.Context, q fanfare.InboxQuery) (fanfare.Inbox, error) {
	var inbox fanfare.Inbox
	var closed bool
	before := int64(q.Before)
	if before == 0 {
		before = maxNumber
	}
	rows, err := l.pool.Query(ctx, inboxSQL[q.State], q.Number, before, q.Limit)
	if err == nil {
		var item itemRow
		_, err = pgx.ForEachRow(rows, append([]any{&inbox.Change, &inbox.Unread, &closed}, item.columns()...), func() error {
			if item.id != nil {
				inbox.Items = append(inbox.Items, item.item())
			}
			return nil
		})
	}
	if closed {
		err = fanfare.ErrNotFound
	}
	return inbox, failed(fmt.Sprintf("read inbox of %d", q.Number), err)
}

// itemColumns are those of item t with its message m.
const itemColumns = `t.number, t.publication_id, m.title, m.body, m.url, t.created_at, t.read_at, t.archived_at`

// messageOf is the message m of item t.
const messageOf = `
LEFT JOIN LATERAL (SELECT * FROM inbox_messages m WHERE m.publication_id = t.publication_id AND m.locale = t.locale OFFSET 0) m ON true`

// inboxSQL is a page of an inbox by state. Where nothing is unread behind a point,
// reading ends there and not with the last item. $1 number, $2 before, $3 limit.
var inboxSQL = map[fanfare.InboxState]string{
	"":                    inboxPageSQL(`archived_at IS NULL`, `$3`),
	fanfare.InboxUnread:   inboxPageSQL(`read_at IS NULL`, `LEAST($3, i.unread)`),
	fanfare.InboxArchived: inboxPageSQL(`archived_at IS NOT NULL`, `$3`),
}

func inboxPageSQL(condition, limit string) string {
	return `
SELECT i.last_change, i.unread, i.closed, ` + itemColumns + `
FROM inboxes i LEFT JOIN LATERAL (
  SELECT * FROM inbox_items WHERE subscriber_number = $1 AND number < $2 AND ` + condition + `
  ORDER BY subscriber_number, number DESC LIMIT ` + limit + `) t ON true ` + messageOf + `
WHERE i.subscriber_number = $1 ORDER BY t.number DESC`
}

// MarkInboxItem does what the subscriber does with one item; again changes nothing. unread
// is how many are unread in the inbox by then.
func (l *Ledger) MarkInboxItem(ctx context.Context, number fanfare.SubscriberNumber, id fanfare.InboxItemID, mark fanfare.InboxMark) (item fanfare.InboxItem, unread int64, err error) {
	b := &pgx.Batch{}
	b.Queue(lockInboxSQL, number)
	b.Queue(markSQL, number, id, mark)
	b.Queue(oneItemSQL, number, id).QueryRow(func(row pgx.Row) error {
		var read itemRow
		if err := row.Scan(append([]any{&unread}, read.columns()...)...); err != nil {
			return err
		}
		item = read.item()
		return nil
	})
	if err = l.pipeline(ctx, b); errors.Is(err, pgx.ErrNoRows) {
		err = fanfare.ErrNotFound
	}
	return item, unread, failed(fmt.Sprintf("mark item %d of %d as %s", id, number, mark), err)
}

const lockInboxSQL = `SELECT FROM inboxes WHERE subscriber_number = $1 FOR UPDATE`

// markSQL changes an item that is not yet as its mark says. $1 number, $2 item, $3 mark.
const markSQL = `
WITH old AS MATERIALIZED (
  SELECT read_at FROM inbox_items WHERE subscriber_number = $1 AND number = $2
    AND CASE $3 WHEN 'read' THEN read_at IS NULL WHEN 'unread' THEN read_at IS NOT NULL ELSE archived_at IS NULL END
), marked AS (
  UPDATE inbox_items SET change = (SELECT last_change + 1 FROM inboxes WHERE subscriber_number = $1),
    read_at = CASE WHEN $3 <> 'unread' THEN COALESCE(read_at, clock_timestamp()) END,
    archived_at = CASE $3 WHEN 'archived' THEN clock_timestamp() WHEN 'read' THEN archived_at END
  WHERE subscriber_number = $1 AND number = $2 AND EXISTS (SELECT FROM old)
)
UPDATE inboxes SET last_change = last_change + 1,
  unread = unread + CASE WHEN $3 = 'unread' THEN 1 WHEN (SELECT read_at FROM old) IS NULL THEN -1 ELSE 0 END
WHERE subscriber_number = $1 AND EXISTS (SELECT FROM old)`

const oneItemSQL = `
SELECT i.unread, ` + itemColumns + ` FROM inboxes i JOIN inbox_items t USING (subscriber_number) ` + messageOf + `
WHERE t.subscriber_number = $1 AND t.number = $2`

// ReadInbox marks everything in an inbox as read; again changes nothing.
func (l *Ledger) ReadInbox(ctx context.Context, number fanfare.SubscriberNumber) error {
	b := &pgx.Batch{}
	b.Queue(lockInboxSQL, number)
	b.Queue(`
		WITH unread AS MATERIALIZED (
		  SELECT number, row_number() OVER (ORDER BY number) AS nth FROM inbox_items WHERE subscriber_number = $1 AND read_at IS NULL
		), marked AS (
		  UPDATE inbox_items t SET read_at = clock_timestamp(),
		    change = (SELECT last_change FROM inboxes WHERE subscriber_number = $1) + u.nth
		  FROM unread u WHERE t.subscriber_number = $1 AND t.number = u.number
		)
		UPDATE inboxes SET last_change = last_change + (SELECT count(*) FROM unread), unread = 0
		WHERE subscriber_number = $1 AND EXISTS (SELECT FROM unread)`, number)
	return failed(fmt.Sprintf("read all of the inbox of %d", number), l.pipeline(ctx, b))
}

// newsAtOnce bounds the changes of one inbox in one answer; the next brings the others.
const newsAtOnce = 100

// InboxNews reads what happened in inboxes since the given positions, in one statement for
// all of them, and leaves out those where nothing did. A position that the inbox has
// not reached is from before the database was restored: then everything is news.
func (l *Ledger) InboxNews(ctx context.Context, since []fanfare.InboxPosition) ([]fanfare.InboxNews, error) {
	numbers, seen := make([]int64, len(since)), make([]int64, len(since))
	for i, p := range since {
		numbers[i], seen[i] = int64(p.Number), int64(p.Seen)
	}
	rows, err := l.pool.Query(ctx, newsSQL, numbers, seen, newsAtOnce)
	if err != nil {
		return nil, failed("read the news of inboxes", err)
	}
	var news []fanfare.InboxNews
	var one fanfare.InboxNews
	var change *fanfare.InboxChange
	var item itemRow
	_, err = pgx.ForEachRow(rows, append([]any{&one.Position, &one.Seen, &one.Unread, &one.Closed, &change}, item.columns()...), func() error {
		if len(news) == 0 || news[len(news)-1].Position != one.Position {
			news = append(news, one)
		}
		if change == nil {
			return nil
		}
		n := &news[len(news)-1]
		n.Changes = append(n.Changes, fanfare.InboxItemChange{Change: *change, Item: item.item()})
		if len(n.Changes) == newsAtOnce {
			n.Seen = *change
		}
		return nil
	})
	return news, failed("read the news of inboxes", err)
}

// newsSQL is given: $1 numbers, $2 what each has seen, $3 how many changes of each at most.
const newsSQL = `
SELECT w.place - 1, i.last_change, i.unread, i.closed, t.change, ` + itemColumns + `
FROM unnest($1::bigint[], $2::bigint[]) WITH ORDINALITY AS w (number, seen, place)
CROSS JOIN LATERAL (SELECT * FROM inboxes i WHERE i.subscriber_number = w.number OFFSET 0) i
LEFT JOIN LATERAL (
  SELECT * FROM inbox_items t WHERE t.subscriber_number = w.number AND t.change > CASE WHEN w.seen <= i.last_change THEN w.seen ELSE 0 END
  ORDER BY t.subscriber_number, t.change LIMIT $3) t ON true ` + messageOf + `
WHERE i.last_change <> w.seen OR i.closed
ORDER BY w.place, t.change`

// itemRow is an item as a row of an outer join has it.
type itemRow struct {
	id               *fanfare.InboxItemID
	publication      *fanfare.PublicationID
	title, body, url *string
	created          *time.Time
	read, archived   *time.Time
}

func (r *itemRow) columns() []any {
	return []any{&r.id, &r.publication, &r.title, &r.body, &r.url, &r.created, &r.read, &r.archived}
}

func (r *itemRow) item() fanfare.InboxItem {
	return fanfare.InboxItem{
		ID: *r.id, Publication: *r.publication, Title: *r.title, Body: *r.body, URL: *r.url,
		CreatedAt: *r.created, ReadAt: r.read, ArchivedAt: r.archived,
	}
}

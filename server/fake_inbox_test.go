package server

import (
	"context"
	"fmt"
	"slices"
	"time"

	fanfare "github.com/fanfare-dev/fanfare"
)

// mailroom is the part of fakeLedger that the inbox of subscriber 42 is in.
type mailroom struct {
	items  []fanfare.InboxItemChange // in the order in which they came
	change fanfare.InboxChange
	asked  int // how often for news
	erased bool
}

// post puts an item into the inbox.
func (f *fakeLedger) post(title string) {
	f.set(func() {
		f.change++
		f.items = append(f.items, fanfare.InboxItemChange{Change: f.change, Item: fanfare.InboxItem{
			ID: fanfare.InboxItemID(f.change), Publication: "0199c7a0-0000-7000-8000-000000000001", Title: title,
			URL: "https://blog.example/" + title, CreatedAt: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		}})
	})
}

func (f *fakeLedger) unreadItems() (n int64) {
	for _, i := range f.items {
		if i.Item.ReadAt == nil {
			n++
		}
	}
	return n
}

func (f *fakeLedger) Inbox(ctx context.Context, q fanfare.InboxQuery) (fanfare.Inbox, error) {
	leave, err := f.enter(ctx, "read inbox")
	defer leave()
	if err == nil && (q.Number != 42 || f.erased) {
		err = fmt.Errorf("read inbox: %w", fanfare.ErrNotFound)
	}
	inbox := fanfare.Inbox{Unread: f.unreadItems(), Change: f.change}
	for _, c := range slices.Backward(f.items) {
		shown := map[fanfare.InboxState]bool{"": c.Item.ArchivedAt == nil, fanfare.InboxUnread: c.Item.ReadAt == nil, fanfare.InboxArchived: c.Item.ArchivedAt != nil}
		if shown[q.State] && (q.Before == 0 || c.Item.ID < q.Before) && len(inbox.Items) < q.Limit {
			inbox.Items = append(inbox.Items, c.Item)
		}
	}
	return inbox, err
}

func (f *fakeLedger) MarkInboxItem(ctx context.Context, number fanfare.SubscriberNumber, id fanfare.InboxItemID, mark fanfare.InboxMark) (fanfare.InboxItem, int64, error) {
	leave, err := f.enter(ctx, "mark item")
	defer leave()
	at := slices.IndexFunc(f.items, func(c fanfare.InboxItemChange) bool { return c.Item.ID == id && number == 42 })
	if err != nil || at < 0 {
		return fanfare.InboxItem{}, 0, fmt.Errorf("mark item: %w", cmpOr(err, fanfare.ErrNotFound))
	}
	f.change++
	c, now := &f.items[at], time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	c.Change = f.change
	switch mark {
	case fanfare.MarkRead:
		c.Item.ReadAt = &now
	case fanfare.MarkUnread:
		c.Item.ReadAt, c.Item.ArchivedAt = nil, nil
	case fanfare.MarkArchived:
		c.Item.ReadAt, c.Item.ArchivedAt = &now, &now
	}
	return c.Item, f.unreadItems(), nil
}

func cmpOr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

func (f *fakeLedger) ReadInbox(ctx context.Context, number fanfare.SubscriberNumber) error {
	for _, c := range slices.Clone(f.items) {
		if _, _, err := f.MarkInboxItem(ctx, number, c.Item.ID, fanfare.MarkRead); err != nil {
			return err
		}
	}
	return nil
}

// InboxNews gives two changes at a time.
func (f *fakeLedger) InboxNews(ctx context.Context, since []fanfare.InboxPosition) ([]fanfare.InboxNews, error) {
	leave, err := f.enter(ctx, "read news")
	defer leave()
	f.asked++
	var all []fanfare.InboxNews
	changed := slices.SortedFunc(slices.Values(f.items), func(a, b fanfare.InboxItemChange) int { return int(a.Change - b.Change) })
	for i, p := range since {
		news := fanfare.InboxNews{Position: i, Unread: f.unreadItems(), Closed: f.erased, Seen: f.change}
		for _, c := range changed {
			if c.Change > p.Seen && len(news.Changes) < 2 {
				news.Changes = append(news.Changes, c)
			}
		}
		if len(news.Changes) == 2 {
			news.Seen = news.Changes[1].Change
		}
		if p.Number == 42 && (news.Seen != p.Seen || f.erased) {
			all = append(all, news)
		}
	}
	return all, err
}

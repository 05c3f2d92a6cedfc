package ledger_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/ledger"
)

// posted is a world in which n publications, "Tides 1" and so on, were posted to so many people.
func posted(t testing.TB, people, n int) *world {
	t.Helper()
	w := inApp(t)
	w.subscribed(people)
	for i := range n {
		w.post(w.posting(fmt.Sprintf("article-%d", i+1), 10000), 10000, fmt.Sprintf("Tides %d", i+1))
	}
	return w
}

// newsOf reads all the news of one inbox since a change, page by page.
func (w *world) newsOf(number int, since fanfare.InboxChange) (changes []fanfare.InboxItemChange, seen fanfare.InboxChange) {
	w.t.Helper()
	for seen = since; ; {
		news, err := w.InboxNews(w.t.Context(), []fanfare.InboxPosition{{Number: fanfare.SubscriberNumber(number), Seen: seen}})
		require.NoError(w.t, err)
		if len(news) == 0 {
			return changes, seen
		}
		changes, seen = append(changes, news[0].Changes...), news[0].Seen
	}
}

func (w *world) mark(number int, id fanfare.InboxItemID, mark fanfare.InboxMark) (fanfare.InboxItem, int64) {
	w.t.Helper()
	item, unread, err := w.MarkInboxItem(w.t.Context(), fanfare.SubscriberNumber(number), id, mark)
	require.NoError(w.t, err)
	return item, unread
}

func TestInboxPagesNewestFirst(t *testing.T) {
	t.Parallel()
	w := posted(t, 2, 5)
	w.mark(1, 2, fanfare.MarkArchived)
	w.mark(1, 4, fanfare.MarkRead)
	require.Equal(t, []string{"Tides 5", "Tides 4", "Tides 3", "Tides 1"}, titles(w.inbox(1, "")))
	require.Equal(t, []string{"Tides 5", "Tides 3", "Tides 1"}, titles(w.inbox(1, fanfare.InboxUnread)))
	require.Equal(t, []string{"Tides 2"}, titles(w.inbox(1, fanfare.InboxArchived)))
	require.EqualValues(t, 3, w.inbox(1, fanfare.InboxArchived).Unread)
	require.EqualValues(t, 7, w.inbox(1, "").Change)
	require.EqualValues(t, 5, w.inbox(2, "").Unread, "another's inbox is another's")

	q := fanfare.InboxQuery{Number: 1, Limit: 2}
	var paged []string
	for {
		page, err := w.Inbox(t.Context(), q)
		require.NoError(t, err)
		if len(page.Items) == 0 {
			require.EqualValues(t, 3, page.Unread)
			break
		}
		paged = append(paged, titles(page)...)
		q.Before = page.Items[len(page.Items)-1].ID
	}
	require.Equal(t, titles(w.inbox(1, "")), paged)
	require.Equal(t, fanfare.Inbox{}, w.inbox(99, ""), "who never got anything has an empty inbox")
}

func TestMarksOfAnItem(t *testing.T) {
	t.Parallel()
	w := posted(t, 1, 3)
	for _, step := range []struct {
		mark           fanfare.InboxMark
		read, archived bool
		unread         int64
		change         fanfare.InboxChange
	}{
		{fanfare.MarkUnread, false, false, 3, 3}, // it is
		{fanfare.MarkRead, true, false, 2, 4},
		{fanfare.MarkRead, true, false, 2, 4},
		{fanfare.MarkUnread, false, false, 3, 5},
		{fanfare.MarkArchived, true, true, 2, 6},
		{fanfare.MarkArchived, true, true, 2, 6},
		{fanfare.MarkRead, true, true, 2, 6},
		{fanfare.MarkUnread, false, false, 3, 7},
		{fanfare.MarkRead, true, false, 2, 8},
		{fanfare.MarkArchived, true, true, 2, 9},
	} {
		item, unread := w.mark(1, 2, step.mark)
		require.Equal(t, "Tides 2", item.Title)
		require.Equal(t, step.read, item.ReadAt != nil)
		require.Equal(t, step.archived, item.ArchivedAt != nil)
		require.Equal(t, step.unread, unread)
		inbox := w.inbox(1, "")
		require.Equal(t, step.unread, inbox.Unread)
		require.Equal(t, step.change, inbox.Change, "after %s", step.mark)
		w.tidy()
	}
	for _, id := range []fanfare.InboxItemID{0, 4, -1} {
		_, _, err := w.MarkInboxItem(t.Context(), 1, id, fanfare.MarkRead)
		require.ErrorIs(t, err, fanfare.ErrNotFound)
	}
	_, _, err := w.MarkInboxItem(t.Context(), 99, 1, fanfare.MarkRead)
	require.ErrorIs(t, err, fanfare.ErrNotFound)
}

func TestReadInboxReadsAll(t *testing.T) {
	t.Parallel()
	w := posted(t, 2, 4)
	w.mark(1, 3, fanfare.MarkRead)
	require.NoError(t, w.ReadInbox(t.Context(), 1))
	require.Zero(t, w.inbox(1, "").Unread)
	require.Empty(t, w.inbox(1, fanfare.InboxUnread).Items)
	require.EqualValues(t, 8, w.inbox(1, "").Change)
	require.NoError(t, w.ReadInbox(t.Context(), 1))
	require.EqualValues(t, 8, w.inbox(1, "").Change, "again changes nothing")
	require.NoError(t, w.ReadInbox(t.Context(), 99))
	require.EqualValues(t, 4, w.inbox(2, "").Unread)
	w.tidy()

	changes, seen := w.newsOf(1, 5)
	require.EqualValues(t, 8, seen)
	require.Len(t, changes, 3)
	for i, c := range changes {
		require.EqualValues(t, 6+i, c.Change)
		require.NotNil(t, c.Item.ReadAt)
	}
}

func TestInboxNewsBeginBehindWhatWasSeen(t *testing.T) {
	t.Parallel()
	w := posted(t, 3, 3)
	w.mark(1, 1, fanfare.MarkRead)
	news, err := w.InboxNews(t.Context(), []fanfare.InboxPosition{{Number: 2, Seen: 3}, {Number: 99}, {Number: 1, Seen: 2}, {Number: 1}})
	require.NoError(t, err)
	require.Len(t, news, 2, "where nothing happened there is no news")
	require.Equal(t, 2, news[0].Position)
	require.Equal(t, []fanfare.InboxChange{3, 4}, changesOf(news[0]))
	require.Equal(t, "Tides 1", news[0].Changes[1].Item.Title)
	require.NotNil(t, news[0].Changes[1].Item.ReadAt)
	require.Equal(t, 3, news[1].Position)
	require.Equal(t, []fanfare.InboxChange{2, 3, 4}, changesOf(news[1]), "an item comes once, as it is")
	require.EqualValues(t, 2, news[1].Unread)

	news, err = w.InboxNews(t.Context(), []fanfare.InboxPosition{{Number: 3, Seen: 1000}})
	require.NoError(t, err)
	require.Equal(t, []fanfare.InboxChange{1, 2, 3}, changesOf(news[0]), "a position from before a restore is none")
	require.EqualValues(t, 3, news[0].Seen)

	news, err = w.InboxNews(t.Context(), nil)
	require.NoError(t, err)
	require.Empty(t, news)
}

func changesOf(news fanfare.InboxNews) (list []fanfare.InboxChange) {
	for _, c := range news.Changes {
		list = append(list, c.Change)
	}
	return list
}

func TestInboxNewsComeInPages(t *testing.T) {
	t.Parallel()
	w := posted(t, 1, 1)
	w.exec(`INSERT INTO inbox_items (subscriber_number, number, change, publication_id, locale) SELECT 1, n, n, publication_id, '' FROM inbox_items, generate_series(2, 250) n`)
	w.exec(`UPDATE inboxes SET last_change = 250, unread = 250`)
	for _, page := range []struct{ since, changes, seen int }{{0, 100, 100}, {100, 100, 200}, {150, 100, 250}, {200, 50, 250}} {
		news, err := w.InboxNews(t.Context(), []fanfare.InboxPosition{{Number: 1, Seen: fanfare.InboxChange(page.since)}})
		require.NoError(t, err)
		require.Len(t, news[0].Changes, page.changes)
		require.EqualValues(t, page.seen, news[0].Seen)
	}
}

// Whoever follows an inbox by the number of its last change misses nothing, however many
// write at the same time: no change is committed behind one with a higher number.
func TestNoChangeIsMissedByWhoFollows(t *testing.T) {
	t.Parallel()
	const people, writers, rounds, followers = 5, 8, 12, 3
	w := inApp(t)
	w.subscribed(people)
	refs := make([][]fanfare.BatchRef, writers)
	for i := range refs {
		for n := range rounds {
			refs[i] = append(refs[i], w.posting(fmt.Sprintf("article-%d-%d", i, n), 100))
		}
	}
	over := make(chan struct{})
	var following sync.WaitGroup
	seen := make([][]map[fanfare.InboxItemID]bool, followers)
	errs := make([]error, followers)
	for i := range followers {
		following.Go(func() { seen[i], errs[i] = w.follow(people, over) })
	}
	atOnce(t, writers, func(i int) error {
		for n, ref := range refs[i] {
			if _, err := w.tryPost(ref, 100, "Tides"); err != nil {
				return err
			}
			if n%4 == 3 {
				if err := w.ReadInbox(t.Context(), fanfare.SubscriberNumber(1+i%people)); err != nil {
					return err
				}
			}
		}
		return nil
	})
	close(over)
	following.Wait()
	for i := range followers {
		require.NoError(t, errs[i])
		for number, items := range seen[i] {
			require.Len(t, items, writers*rounds, "follower %d of inbox %d", i, number+1)
		}
	}
	w.tidy()
}

// follow reads the news of all inboxes, as streams do, until over and once more, and
// returns the items it saw in each.
func (w *world) follow(people int, over <-chan struct{}) ([]map[fanfare.InboxItemID]bool, error) {
	positions, items := make([]fanfare.InboxPosition, people), make([]map[fanfare.InboxItemID]bool, people)
	for i := range positions {
		positions[i].Number, items[i] = fanfare.SubscriberNumber(i+1), map[fanfare.InboxItemID]bool{}
	}
	for last := false; ; {
		news, err := w.InboxNews(w.t.Context(), positions)
		if err != nil {
			return nil, err
		}
		for _, n := range news {
			for _, c := range n.Changes {
				if c.Change <= positions[n.Position].Seen {
					return nil, fmt.Errorf("change %d came twice", c.Change)
				}
				items[n.Position][c.Item.ID] = true
			}
			positions[n.Position].Seen = n.Seen
		}
		if last && len(news) == 0 {
			return items, nil
		}
		select {
		case <-over:
			last = true
		default:
		}
	}
}

// Nobody's page, mark or news may cost more for the inboxes of others, or for what lies
// further back in one's own.
func TestInboxIsReadByIndex(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			const people, items, page, times = 3000, 33, 10, 5
			w := posted(t, people, 1)
			w.exec(`
				INSERT INTO inbox_items (subscriber_number, number, change, publication_id, locale, read_at, archived_at)
				SELECT i.subscriber_number, n, n, t.publication_id, '', CASE WHEN n % 3 > 0 THEN now() END, CASE WHEN n % 3 = 1 THEN now() END
				FROM inboxes i JOIN inbox_items t USING (subscriber_number), generate_series(2, $1::int) n`, items)
			w.exec(`UPDATE inboxes SET last_change = $1::int, unread = 1 + $1::int / 3`, items)
			w.exec(`VACUUM ANALYZE`)
			w.Close()
			ctx := t.Context()
			for _, step := range []struct {
				name string
				rows int // at most, each time
				do   func(l *ledger.Ledger, i int) error
			}{
				{"list", 4 * page, func(l *ledger.Ledger, i int) error { return listed(ctx, l, i, "", page) }},
				{"list unread", 4 * page, func(l *ledger.Ledger, i int) error { return listed(ctx, l, i, fanfare.InboxUnread, page) }},
				{"list archived", 4 * page, func(l *ledger.Ledger, i int) error { return listed(ctx, l, i, fanfare.InboxArchived, page) }},
				{"mark", 12, func(l *ledger.Ledger, i int) error {
					_, _, err := l.MarkInboxItem(ctx, fanfare.SubscriberNumber(i), items-2, fanfare.MarkUnread)
					return err
				}},
				{"read all", 4 * items, func(l *ledger.Ledger, i int) error { return l.ReadInbox(ctx, fanfare.SubscriberNumber(i)) }},
				{"news of many, of whom a few have some", people + 200, func(l *ledger.Ledger, i int) error {
					positions := make([]fanfare.InboxPosition, people)
					for n := range positions {
						positions[n] = fanfare.InboxPosition{Number: fanfare.SubscriberNumber(n + 1), Seen: items}
					}
					news, err := l.InboxNews(ctx, positions)
					require.Len(t, news, times, "those who were marked")
					return err
				}},
			} {
				before := w.read()
				l, err := ledger.Open(ctx, w.url+"&plan_cache_mode="+mode, 1, ledger.Config{})
				require.NoError(t, err)
				for i := range times {
					require.NoError(t, step.do(l, i+1), step.name)
				}
				l.Close()
				for table, rows := range w.read() {
					require.LessOrEqual(t, rows-before[table], int64(step.rows*times), "%s: rows of %s", step.name, table)
				}
			}
		})
	}
}

func listed(ctx context.Context, l *ledger.Ledger, i int, state fanfare.InboxState, page int) error {
	inbox, err := l.Inbox(ctx, fanfare.InboxQuery{Number: fanfare.SubscriberNumber(i), State: state, Limit: page})
	if err == nil && len(inbox.Items) != page {
		return fmt.Errorf("%d items of %d", len(inbox.Items), page)
	}
	return err
}

func TestErasureEmptiesAndClosesAnInbox(t *testing.T) {
	t.Parallel()
	w := posted(t, 3, 2)
	w.mark(2, 1, fanfare.MarkArchived)
	require.NoError(t, w.EraseSubscriber(t.Context(), reader(2)))
	require.NoError(t, w.EraseSubscriber(t.Context(), reader(3)))
	require.Equal(t, 2, one[int](w, `SELECT count(*) FROM inbox_items`), "what is left is the first one's")
	_, err := w.Inbox(t.Context(), fanfare.InboxQuery{Number: 2, Limit: 10})
	require.ErrorIs(t, err, fanfare.ErrNotFound)
	_, _, err = w.MarkInboxItem(t.Context(), 2, 1, fanfare.MarkUnread)
	require.ErrorIs(t, err, fanfare.ErrNotFound)
	require.NoError(t, w.ReadInbox(t.Context(), 2))
	news, err := w.InboxNews(t.Context(), []fanfare.InboxPosition{{Number: 1, Seen: 2}, {Number: 2, Seen: 3}, {Number: 3, Seen: 1}})
	require.NoError(t, err)
	require.Len(t, news, 2)
	for _, n := range news {
		require.True(t, n.Closed)
		require.Empty(t, n.Changes)
	}
	w.balanced()
	w.tidy()
}

// A post that claimed somebody before they were erased, and writes after it, writes
// nothing to them; one that wrote before it is removed.
func TestErasureWhileAPostIsUnderWay(t *testing.T) {
	t.Parallel()
	for _, first := range []string{"erasure", "post"} {
		t.Run(first, func(t *testing.T) {
			t.Parallel()
			w := posted(t, 5, 1)
			ref := w.posting("article-2", 100)
			held := 4 // the post waits here, while it has not come to number 5, or behind it
			if first == "erasure" {
				held = 2
			}
			release := w.hold(`SELECT FROM inboxes WHERE subscriber_number = $1 FOR UPDATE`, held)
			posting := make(chan error, 1)
			go func() {
				_, err := w.tryPost(ref, 100, "Winds")
				posting <- err
			}()
			w.waitingFor(1)
			erasing := make(chan error, 1)
			go func() { erasing <- w.EraseSubscriber(t.Context(), reader(3)) }()
			if first == "erasure" {
				require.NoError(t, <-erasing)
				release()
				require.NoError(t, <-posting)
			} else {
				w.waitingFor(2)
				release()
				require.NoError(t, <-posting)
				require.NoError(t, <-erasing)
			}
			require.Zero(t, one[int](w, `SELECT count(*) FROM inbox_items WHERE subscriber_number = 3`))
			require.Equal(t, 8, one[int](w, `SELECT count(*) FROM inbox_items`))
			w.finish(ref.Publication)
			w.balanced()
			w.tidy()
		})
	}
}

// To be erased without ever having got anything leaves a closed inbox too: a first post
// may be under way.
func TestErasureBeforeTheFirstPost(t *testing.T) {
	t.Parallel()
	w := inApp(t)
	w.subscribed(2)
	ref := w.posting("article-1", 100)
	release := w.hold(`INSERT INTO inboxes (subscriber_number) VALUES (1)`)
	posting := make(chan error, 1)
	go func() {
		_, err := w.tryPost(ref, 100, "Tides")
		posting <- err
	}()
	w.waitingFor(1)
	require.NoError(t, w.EraseSubscriber(t.Context(), reader(2)))
	release()
	require.NoError(t, <-posting)
	require.Equal(t, []int{1}, all[int](w, `SELECT subscriber_number FROM inbox_items`))
	w.balanced()
}

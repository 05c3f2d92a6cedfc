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

// inApp is a world that publishes to inboxes.
func inApp(t testing.TB) *world {
	t.Helper()
	return newWorld(t, func(c *ledger.Config) { c.Channels = []fanfare.Channel{fanfare.InApp} })
}

// posting is running, on the in-app channel.
func (w *world) posting(key string, size int) fanfare.BatchRef {
	w.t.Helper()
	d := draft(key)
	d.Channels = []fanfare.Channel{fanfare.InApp}
	p, err := w.Accept(w.t.Context(), d, "")
	require.NoError(w.t, err)
	require.NoError(w.t, w.Start(w.t.Context(), p.ID))
	w.planned(p.ID, size)
	return fanfare.BatchRef{Publication: p.ID, Channel: fanfare.InApp, N: 1}
}

func inboxWanted(limit int, locales ...string) fanfare.Wanted {
	return fanfare.Wanted{Provider: "inapp", Limit: limit, Locales: locales}
}

// saying is one message for all.
func saying(title string) map[string]fanfare.Message {
	return map[string]fanfare.Message{"": {Subject: title, Text: title + ", at length", URL: "https://blog.example/" + title}}
}

// tryPost posts a whole batch, chunk by chunk.
func (w *world) tryPost(ref fanfare.BatchRef, chunk int, title string) (posted int, err error) {
	for {
		n, more, err := w.Post(w.t.Context(), ref, inboxWanted(chunk), saying(title))
		posted += n
		if err != nil || !more {
			return posted, err
		}
	}
}

func (w *world) post(ref fanfare.BatchRef, chunk int, title string) (posted int) {
	w.t.Helper()
	posted, err := w.tryPost(ref, chunk, title)
	require.NoError(w.t, err)
	return posted
}

func (w *world) inbox(number int, state fanfare.InboxState) fanfare.Inbox {
	w.t.Helper()
	inbox, err := w.Inbox(w.t.Context(), fanfare.InboxQuery{Number: fanfare.SubscriberNumber(number), State: state, Limit: 1000})
	require.NoError(w.t, err)
	return inbox
}

// titles are those of a page, in its order.
func titles(inbox fanfare.Inbox) []string {
	list := []string{}
	for _, item := range inbox.Items {
		list = append(list, item.Title)
	}
	return list
}

// tidy checks every inbox against its items.
func (w *world) tidy() {
	w.t.Helper()
	require.Zero(w.t, one[int](w, `
		SELECT count(*) FROM inboxes i CROSS JOIN LATERAL (
		  SELECT count(*) FILTER (WHERE t.read_at IS NULL) AS unread, COALESCE(max(t.change), 0) AS last_change
		  FROM inbox_items t WHERE t.subscriber_number = i.subscriber_number) t
		WHERE i.unread <> t.unread OR NOT i.closed AND i.last_change <> t.last_change`), "inboxes that do not count what is in them")
}

func TestPostWritesAndSettlesAtOnce(t *testing.T) {
	t.Parallel()
	w := inApp(t)
	w.subscribed(5)
	ref := w.posting("article-1", 100)
	w.unsubscribe(2)
	posted, more, err := w.Post(t.Context(), ref, inboxWanted(3), saying("Tides"))
	require.NoError(t, err)
	require.Equal(t, 2, posted)
	require.Equal(t, fanfare.Totals{Intended: 5, Pending: 2, Sent: 2, Skipped: 1}, w.tally(ref).Totals)
	require.True(t, more)
	require.Equal(t, 2, w.post(ref, 3, "Tides"))
	require.Zero(t, w.post(ref, 3, "Tides"), "again posts nothing")

	require.Equal(t, "sent", w.state(ref, 1))
	require.Equal(t, "skipped unsubscribed", w.state(ref, 2))
	require.Empty(t, w.inbox(2, "").Items)
	inbox := w.inbox(5, "")
	require.Len(t, inbox.Items, 1)
	item := inbox.Items[0]
	require.Equal(t, fanfare.InboxItem{
		ID: 1, Publication: ref.Publication, Title: "Tides", Body: "Tides, at length", URL: "https://blog.example/Tides", CreatedAt: item.CreatedAt,
	}, item)
	require.EqualValues(t, 1, inbox.Unread)
	require.Equal(t, fanfare.Completed, w.finish(ref.Publication).State)
	w.balanced()
	w.tidy()
}

func TestPostWritesInTheReadersLocale(t *testing.T) {
	t.Parallel()
	w := inApp(t)
	w.topic("writer-1")
	locales := []string{"", "es", "es-MX", "pt_BR", "fr", "EN"}
	w.imported(1, len(locales), func(i int) fanfare.Subscriber {
		return fanfare.Subscriber{ID: reader(i), Locale: locales[i-1]}
	})
	ref := w.posting("article-1", 100)
	messages := map[string]fanfare.Message{"en": {Subject: "Tides"}, "es": {Subject: "Mareas"}, "pt-br": {Subject: "Marés"}, "pt": {Subject: "never read"}}
	posted, more, err := w.Post(t.Context(), ref, inboxWanted(100, "en", "es", "pt-br", "pt"), messages)
	require.NoError(t, err)
	require.Equal(t, len(locales), posted)
	require.False(t, more)
	require.True(t, w.tally(ref).Done())
	for i, want := range []string{"Tides", "Mareas", "Mareas", "Marés", "Tides", "Tides"} {
		require.Equal(t, []string{want}, titles(w.inbox(i+1, "")), locales[i])
	}
	require.Equal(t, []string{"en", "es", "pt-br"}, all[string](w, `SELECT locale FROM inbox_messages ORDER BY 1`), "what nobody reads is not kept")
	w.balanced()
}

func TestPostRefusesToSayNothing(t *testing.T) {
	t.Parallel()
	w := inApp(t)
	w.subscribed(1)
	ref := w.posting("article-1", 100)
	_, _, err := w.Post(t.Context(), ref, inboxWanted(100, "en", "es"), map[string]fanfare.Message{"es": {}})
	require.ErrorContains(t, err, `no message in locale "en"`)
	require.Zero(t, one[int](w, `SELECT count(*) FROM deliveries`))
}

// A post that is cut leaves nothing behind: nobody is in doubt, and the next has everyone.
func TestPostThatIsCutNeverWas(t *testing.T) {
	t.Parallel()
	w := inApp(t)
	w.subscribed(5)
	w.post(w.posting("article-1", 100), 100, "Tides")
	ref := w.posting("article-2", 100)
	release := w.hold(`SELECT FROM inboxes WHERE subscriber_number = 4 FOR UPDATE`)
	ctx, cut := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, _, err := w.Post(ctx, ref, inboxWanted(100), saying("Winds"))
		done <- err
	}()
	w.waitingFor(1)
	cut()
	require.ErrorIs(t, <-done, context.Canceled)
	release()
	for _, table := range []string{"deliveries", "calls", "inbox_messages", "inbox_items"} {
		require.Zero(t, one[int](w, `SELECT count(*) FROM `+table+` WHERE publication_id = $1`, ref.Publication), table)
	}
	require.Equal(t, 5, w.post(ref, 100, "Winds"))
	require.Equal(t, []string{"Winds", "Tides"}, titles(w.inbox(4, "")))
	w.balanced()
	w.tidy()
}

func TestNothingIsPostedWhilePausedOrAfterCancel(t *testing.T) {
	t.Parallel()
	w := inApp(t)
	w.subscribed(3)
	ref := w.posting("article-1", 100)
	_, err := w.Pause(t.Context(), ref.Publication)
	require.NoError(t, err)
	for _, stop := range []func(context.Context, fanfare.PublicationID) (fanfare.Publication, error){w.Pause, w.Cancel} {
		_, err := stop(t.Context(), ref.Publication)
		require.NoError(t, err)
		posted, more, err := w.Post(t.Context(), ref, inboxWanted(100), saying("Tides"))
		require.NoError(t, err)
		require.Zero(t, posted)
		require.False(t, more)
		require.EqualValues(t, 3, w.tally(ref).Totals.Pending)
	}
	require.Zero(t, one[int](w, `SELECT count(*) FROM inbox_items`))
}

// Publications that post to the same readers, from different ends and in chunks of
// different sizes, while the readers read, neither deadlock nor miscount.
func TestPostsToTheSameReadersAtOnce(t *testing.T) {
	t.Parallel()
	const people, publications, readers = 300, 8, 4
	w := inApp(t)
	w.subscribed(people)
	refs := make([]fanfare.BatchRef, publications)
	for i := range refs {
		refs[i] = w.posting(fmt.Sprintf("article-%d", i), 50+i*13)
	}
	over := make(chan struct{})
	var marking sync.WaitGroup
	errs := make([]error, readers)
	for i := range readers {
		marking.Go(func() { errs[i] = w.keepReading(i, people, over) })
	}
	atOnce(t, publications, func(i int) error {
		batches, err := w.OpenBatches(t.Context(), refs[i].Publication, fanfare.InApp, 0, 100)
		if err != nil {
			return err
		}
		for n := range batches {
			if i%2 == 1 {
				n = len(batches) - 1 - n
			}
			if _, err := w.tryPost(batches[n].BatchRef, 7+i*10, fmt.Sprintf("Tides %d", i)); err != nil {
				return err
			}
		}
		return nil
	})
	close(over)
	marking.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	require.Equal(t, people*publications, one[int](w, `SELECT count(*) FROM inbox_items`))
	require.Zero(t, one[int](w, `SELECT count(*) FROM inboxes i WHERE (SELECT count(*) FROM inbox_items t WHERE t.subscriber_number = i.subscriber_number) <> $1`, publications))
	require.Zero(t, one[int](w, `SELECT count(*) FROM deliveries WHERE state <> 'sent'`))
	w.tidy()
	w.balanced()
}

// keepReading marks items of everybody, over and over, until over.
func (w *world) keepReading(seed, people int, over <-chan struct{}) error {
	marks := []fanfare.InboxMark{fanfare.MarkRead, fanfare.MarkUnread, fanfare.MarkArchived}
	for i := seed; ; i++ {
		select {
		case <-over:
			return nil
		default:
		}
		number := fanfare.SubscriberNumber(1 + i%people)
		inbox, err := w.Inbox(w.t.Context(), fanfare.InboxQuery{Number: number, Limit: 1})
		if err != nil {
			return err
		}
		if len(inbox.Items) == 1 {
			if _, _, err := w.MarkInboxItem(w.t.Context(), number, inbox.Items[0].ID, marks[i%3]); err != nil {
				return err
			}
		}
		if i%5 == 0 {
			if err := w.ReadInbox(w.t.Context(), number); err != nil {
				return err
			}
		}
	}
}

package ledger_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/ledger"
)

// slices are a publication's batches as text: n, first, last, intended.
func (w *world) slices(id fanfare.PublicationID, channel fanfare.Channel) []string {
	w.t.Helper()
	return all[string](w, `SELECT format('%s: %s-%s %s', n, first_number, last_number, intended) FROM batches WHERE publication_id = $1 AND channel = $2 ORDER BY n`, id, channel)
}

func TestPlanCutsTheAudienceInPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(25)
	id := w.accept("article-1").ID
	for i, want := range []struct {
		planned  int
		complete bool
	}{{2, false}, {4, false}, {5, true}, {5, true}} {
		planned, complete, err := w.Plan(t.Context(), id, 5, 2)
		require.NoError(t, err)
		require.Equal(t, want.planned, planned, "page %d", i)
		require.Equal(t, want.complete, complete, "page %d", i)
	}
	require.Equal(t, []string{"1: 1-5 5", "2: 6-10 5", "3: 11-15 5", "4: 16-20 5", "5: 21-25 5"}, w.slices(id, fanfare.Email))
	w.balanced()
}

func TestPlanPassesOverWhoIsNotInTheAudience(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(30)
	for i := 4; i <= 19; i++ {
		w.unsubscribe(i)
	}
	w.unsubscribe(1)
	w.unsubscribe(21)
	w.subscribe(21)
	for i := 31; i <= 33; i++ {
		w.put(person(i))
	}
	id := w.accept("article-1").ID
	for i := 31; i <= 33; i++ {
		w.subscribe(i) // too late
	}
	w.unsubscribe(22) // after it was accepted: still of the audience
	require.Equal(t, 4, w.planned(id, 4))
	require.Equal(t, []string{"1: 2-21 4", "2: 22-25 4", "3: 26-29 4", "4: 30-30 1"}, w.slices(id, fanfare.Email))
	w.balanced()
}

func TestPlanningAgainChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(25)
	id := w.accept("article-1").ID
	_, _, err := w.Plan(t.Context(), id, 10, 1)
	require.NoError(t, err)
	require.Equal(t, 4, w.planned(id, 7), "another size holds for what is not planned yet")
	want := []string{"1: 1-10 10", "2: 11-17 7", "3: 18-24 7", "4: 25-25 1"}
	require.Equal(t, want, w.slices(id, fanfare.Email))
	w.planned(id, 3)
	require.Equal(t, want, w.slices(id, fanfare.Email))
}

func TestPlannersAtOnceMakeOnePlan(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *ledger.Config) { c.Channels = []fanfare.Channel{fanfare.SMS, fanfare.Email} })
	w.subscribed(100)
	id := w.accept("article-1").ID
	atOnce(t, 10, func(i int) error {
		for {
			_, complete, err := w.Plan(t.Context(), id, 7, 1+i%3)
			if err != nil || complete {
				return err
			}
		}
	})
	require.Len(t, w.slices(id, fanfare.Email), 15)
	require.Empty(t, cmp.Diff(w.slices(id, fanfare.Email), w.slices(id, fanfare.SMS)), "every channel has the same slices")
	require.Equal(t, 100, one[int](w, `SELECT sum(intended) FROM batches WHERE channel = 'email'`))
	require.Zero(t, one[int](w, `SELECT count(*) FROM batches a JOIN batches b USING (publication_id, channel) WHERE a.n < b.n AND a.last_number >= b.first_number`))
	w.balanced()
}

func TestPlanningNothingIsNotFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, _, err := w.Plan(t.Context(), "018cc251-f400-7000-8000-000000000000", 10, 10)
	require.ErrorIs(t, err, fanfare.ErrNotFound)
	_, err = w.Announcement(t.Context(), "018cc251-f400-7000-8000-000000000000")
	require.ErrorIs(t, err, fanfare.ErrNotFound)
}

func TestOpenBatchesAreThoseWithSomethingLeftToDo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(50)
	ref := w.running("article-1", 10)
	done := ref
	done.N = 2
	w.settle(done, w.claimNew(done, 10).Call, fanfare.OutcomeAccepted)
	waiting := ref
	waiting.N = 3
	w.settle(waiting, w.claimNew(waiting, 10).Call, fanfare.OutcomeThrottled)

	open := func(after, limit int) (list []string) {
		batches, err := w.OpenBatches(t.Context(), ref.Publication, fanfare.Email, after, limit)
		require.NoError(t, err)
		for _, b := range batches {
			list = append(list, fmt.Sprintf("%d: %d-%d %d", b.N, b.First, b.Last, b.Intended))
		}
		return list
	}
	require.Equal(t, []string{"1: 1-10 10", "3: 21-30 10", "4: 31-40 10", "5: 41-50 10"}, open(0, 10))
	require.Equal(t, []string{"3: 21-30 10", "4: 31-40 10"}, open(1, 2))
	require.Empty(t, open(5, 10))
}

func TestAnAnnouncementHoldsWhatItsMessagesAreMadeOf(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(3)
	d := draft("article-1")
	d.Content.Summary, d.Content.Body = "Short", "Long\n\nand \\ \"quoted\""
	p, err := w.Accept(t.Context(), d, "")
	require.NoError(t, err)
	a, err := w.Announcement(t.Context(), p.ID)
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(fanfare.Announcement{
		Publication: p.ID, TopicID: 1, Topic: "writer-1", TopicName: "The name of writer-1", Key: "article-1",
		Class: fanfare.Bulk, Channels: []fanfare.Channel{fanfare.Email}, Content: d.Content, ExpiresAt: p.ExpiresAt, Audience: 3,
	}, a))
}

package ledger_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/ledger"
)

// cemetery is a publication to n people, in batches of size, of whom all are
// dead for want of an answer other than "later"; those whose numbers are in held are
// dead because of doubt.
func (w *world) cemetery(key string, n, size int, held ...int) fanfare.BatchRef {
	w.t.Helper()
	ref := w.running(key, size)
	batches, err := w.OpenBatches(w.t.Context(), ref.Publication, fanfare.Email, 0, 1000)
	require.NoError(w.t, err)
	for _, b := range batches {
		w.settle(b.BatchRef, w.claimNew(b.BatchRef, size).Call, fanfare.OutcomeThrottled)
	}
	w.exec(`UPDATE deliveries SET state = 'dead', due_at = NULL, code = CASE WHEN subscriber_number = ANY ($2) THEN NULL ELSE 'sendgrid:429' END,
		reason = CASE WHEN subscriber_number = ANY ($2) THEN 'doubt_held' ELSE 'retries_exhausted' END WHERE publication_id = $1`, ref.Publication, held)
	require.Equal(w.t, fanfare.CompletedWithFailures, w.finish(ref.Publication).State)
	require.EqualValues(w.t, n, w.publication(ref.Publication).Totals.Dead)
	return ref
}

// graves is a world in which retries end at once.
func graves(t *testing.T, readers int) *world {
	t.Helper()
	w := newWorld(t)
	w.subscribed(readers)
	return w
}

func (w *world) preview(f fanfare.ReplayFilter) fanfare.ReplayPreview {
	w.t.Helper()
	v, err := w.PreviewReplay(w.t.Context(), f)
	require.NoError(w.t, err)
	return v
}

func (w *world) replay(f fanfare.ReplayFilter) fanfare.Replay {
	w.t.Helper()
	r, err := w.AcceptReplay(w.t.Context(), f, "")
	require.NoError(w.t, err)
	return r
}

// takeAll takes back everyone who waits for a replay.
func (w *world) takeAll(id fanfare.ReplayID) (reopened int64) {
	w.t.Helper()
	batches, err := w.ReplayBatches(w.t.Context(), id, fanfare.BatchRef{}, 1000)
	require.NoError(w.t, err)
	for _, b := range batches {
		n, err := w.ReopenForReplay(w.t.Context(), id, b.Batch.BatchRef)
		require.NoError(w.t, err)
		reopened += n
	}
	return reopened
}

// resend sends to whoever is due in a batch.
func (w *world) resend(ref fanfare.BatchRef) {
	w.t.Helper()
	for {
		c := w.claimDue(ref, 1000)
		if len(c.Recipients) == 0 {
			return
		}
		w.settle(ref, c.Call, fanfare.OutcomeAccepted)
	}
}

func TestADryRunCountsAndChangesNothing(t *testing.T) {
	t.Parallel()
	w := graves(t, 30)
	ref := w.cemetery("article-1", 30, 10, 4, 17)
	versions := all[string](w, `SELECT xmin::text FROM deliveries ORDER BY subscriber_number`)
	v := w.preview(fanfare.ReplayFilter{Publication: "article-1"})
	require.EqualValues(t, 28, v.Count)
	require.Equal(t, map[fanfare.Channel]int64{fanfare.Email: 28}, v.ByChannel)
	require.Equal(t, map[string]int64{"retries_exhausted": 28}, v.ByReason)
	require.Equal(t, map[string]int64{"sendgrid:429": 28}, v.ByCode)
	require.Equal(t, map[string]int64{"doubt_held": 2}, v.Excluded, "held because of doubt: only when asked for by name")
	require.Len(t, v.Sample, 20)
	require.Positive(t, v.EstimatedSeconds)
	require.Equal(t, versions, all[string](w, `SELECT xmin::text FROM deliveries ORDER BY subscriber_number`))
	require.Zero(t, one[int](w, `SELECT count(*) FROM replays`))

	past, future := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	for want, f := range map[int64][]fanfare.ReplayFilter{
		28: {{Topic: "writer-1"}, {Channel: fanfare.Email}, {Code: "sendgrid:429"}, {Reason: "retries_exhausted"}, {Since: &past, Until: &future}, {Publication: string(ref.Publication)}},
		2:  {{Reason: "doubt_held"}, {Publication: "article-1", Reason: "doubt_held"}},
		0:  {{Topic: "writer-2"}, {Channel: fanfare.SMS}, {Code: "sendgrid:550"}, {Since: &future}, {Until: &past}, {Code: "sendgrid:429", Reason: "doubt_held"}},
	} {
		for _, filter := range f {
			require.Equal(t, want, w.preview(filter).Count, "%+v", filter)
		}
	}
	_, err := w.PreviewReplay(t.Context(), fanfare.ReplayFilter{Publication: "article-2"})
	require.ErrorIs(t, err, fanfare.ErrNotFound)
	_, err = w.AcceptReplay(t.Context(), fanfare.ReplayFilter{Publication: "article-2"}, "")
	require.ErrorIs(t, err, fanfare.ErrNotFound)
}

func TestAReplaySendsToTheDeadOnce(t *testing.T) {
	t.Parallel()
	w := graves(t, 30)
	ref := w.cemetery("article-1", 30, 10, 4)
	before := w.publication(ref.Publication)
	r := w.replay(fanfare.ReplayFilter{Topic: "writer-1"})
	require.EqualValues(t, 29, r.Count)
	require.Equal(t, fanfare.ReplayRunning, r.State)
	require.EqualValues(t, 29, r.Waiting)
	require.Equal(t, []string{"replay " + string(r.ID)}, all[string](w, `SELECT kind || ' ' || replay_id FROM outbox WHERE kind = 'replay'`))
	require.Equal(t, map[string]int64{"replaying": 29, "doubt_held": 1}, w.preview(fanfare.ReplayFilter{Topic: "writer-1"}).Excluded)

	require.EqualValues(t, 29, w.takeAll(r.ID))
	require.Zero(t, w.takeAll(r.ID), "taken up once")
	p := w.publication(ref.Publication)
	require.Equal(t, fanfare.Running, p.State)
	require.Nil(t, p.FinishedAt)
	require.True(t, p.ExpiresAt.After(before.ExpiresAt), "they expire anew")
	require.EqualValues(t, 29, p.Totals.Pending)
	require.Zero(t, w.row(ref, 1).Attempts, "with fresh attempts")
	w.balanced()

	// Who opted out, was suppressed or reached since is not sent to.
	w.unsubscribe(1)
	w.suppress("reader-2@mail.example")
	for n := 1; n <= 3; n++ {
		ref.N = n
		w.resend(ref)
	}
	require.Equal(t, "skipped unsubscribed", w.state(ref, 1))
	require.Equal(t, "skipped suppressed", w.state(ref, 2))
	require.Equal(t, "dead doubt_held", w.state(ref, 4))
	r, err := w.FinishReplay(t.Context(), r.ID)
	require.NoError(t, err)
	require.Equal(t, fanfare.ReplayCompleted, r.State)
	require.Equal(t, fanfare.Totals{Intended: 29, Sent: 27, Skipped: 2}, r.Totals)
	require.Equal(t, fanfare.CompletedWithFailures, w.finish(ref.Publication).State, "one is still held")
	w.balanced()

	_, err = w.CancelReplay(t.Context(), r.ID)
	require.ErrorIs(t, err, fanfare.ErrWrongState)
	require.Zero(t, w.replay(fanfare.ReplayFilter{Topic: "writer-1"}).Count, "there is nobody left")
	list, err := w.Replays(t.Context(), "", 10)
	require.NoError(t, err)
	require.Len(t, list, 2)
	require.Equal(t, fanfare.ReplayCompleted, list[0].State, "an empty replay is done at once")
}

func TestReplaysAtOnceShareTheDead(t *testing.T) {
	t.Parallel()
	w := graves(t, 500)
	w.cemetery("article-1", 500, 50)
	const replays = 4
	var counts [replays]fanfare.Replay
	var errs [replays]error
	var wg sync.WaitGroup
	for i := range replays {
		wg.Go(func() { counts[i], errs[i] = w.AcceptReplay(t.Context(), fanfare.ReplayFilter{Topic: "writer-1"}, "") })
	}
	wg.Wait()
	var sum, taken int64
	for i := range replays {
		require.NoError(t, errs[i])
		sum += counts[i].Count
		taken += w.takeAll(counts[i].ID)
	}
	require.EqualValues(t, 500, sum)
	require.EqualValues(t, 500, taken)
	w.balanced()
}

// One replay is taking dead letters back while another is being accepted: those
// are not counted again.
func TestAReplayDoesNotCountWhatAnotherIsTakingBack(t *testing.T) {
	t.Parallel()
	w := graves(t, 20)
	ref := w.cemetery("article-1", 20, 20)
	first := w.replay(fanfare.ReplayFilter{Topic: "writer-1"})
	release := w.hold(`SELECT FROM batches FOR UPDATE`) // the taking has begun, and goes no further
	var wg sync.WaitGroup
	var errs [2]error
	var second fanfare.Replay
	wg.Go(func() { _, errs[0] = w.ReopenForReplay(t.Context(), first.ID, ref) })
	w.waitingFor(1)
	wg.Go(func() { second, errs[1] = w.AcceptReplay(t.Context(), fanfare.ReplayFilter{Topic: "writer-1"}, "") })
	w.waitingFor(2)
	release()
	wg.Wait()
	require.NoError(t, errs[0])
	require.NoError(t, errs[1])
	require.Zero(t, second.Count)
	w.balanced()
}

func TestAnIdempotencyKeyIsOneReplay(t *testing.T) {
	t.Parallel()
	w := graves(t, 5)
	w.cemetery("article-1", 5, 10)
	first, err := w.AcceptReplay(t.Context(), fanfare.ReplayFilter{Topic: "writer-1"}, "again-1")
	require.NoError(t, err)
	second, err := w.AcceptReplay(t.Context(), fanfare.ReplayFilter{Topic: "writer-1"}, "again-1")
	require.NoError(t, err)
	require.Equal(t, first, second)
	_, err = w.AcceptReplay(t.Context(), fanfare.ReplayFilter{Channel: fanfare.Email}, "again-1")
	require.ErrorIs(t, err, fanfare.ErrKeyReused)
}

func TestACancelledReplayTakesUpNobodyElse(t *testing.T) {
	t.Parallel()
	w := graves(t, 20)
	ref := w.cemetery("article-1", 20, 10)
	r := w.replay(fanfare.ReplayFilter{Publication: "article-1"})
	n, err := w.ReopenForReplay(t.Context(), r.ID, ref)
	require.NoError(t, err)
	require.EqualValues(t, 10, n)
	for range 2 {
		r, err = w.CancelReplay(t.Context(), r.ID)
		require.NoError(t, err)
		require.Equal(t, fanfare.ReplayCancelled, r.State)
		require.EqualValues(t, 10, r.Passed)
		require.EqualValues(t, 10, r.Reopened)
	}
	require.Zero(t, w.takeAll(r.ID))
	require.EqualValues(t, 10, w.publication(ref.Publication).Totals.Dead)
	require.EqualValues(t, 10, w.replay(fanfare.ReplayFilter{Publication: "article-1"}).Count, "the others wait for nobody any more")
	_, err = w.CancelReplay(t.Context(), "01890000-0000-7000-8000-000000000001")
	require.ErrorIs(t, err, fanfare.ErrNotFound)
}

func TestHeldBecauseOfDoubtIsSentAgainOnlyByNameAndOnce(t *testing.T) {
	t.Parallel()
	w := graves(t, 2)
	ref := w.cemetery("article-1", 2, 10, 1)
	require.EqualValues(t, 1, w.takeAll(w.replay(fanfare.ReplayFilter{Reason: "doubt_held"}).ID))
	require.Equal(t, 1, w.row(ref, 1).Resends, "that is sending again without evidence, and counts as such")
	call := w.claimDue(ref, 10).Call
	w.settle(ref, call, fanfare.OutcomeAmbiguous)
	w.decide(ref, call)
	require.Equal(t, "dead doubt_held", w.state(ref, 1))
	require.EqualValues(t, 1, w.balanced().Resent)
}

func TestWhatMayNotBeSentAnyMoreIsNotReopened(t *testing.T) {
	t.Parallel()
	w := graves(t, 3)
	ref := w.cemetery("article-1", 3, 10)
	w.exec(`UPDATE publications SET state = 'cancelled', stopped_at = now()`)
	require.Equal(t, map[string]int64{"cancelled": 3}, w.preview(fanfare.ReplayFilter{Topic: "writer-1"}).Excluded)
	n, why, err := w.Reopen(t.Context(), ref, "run-2")
	require.NoError(t, err)
	require.Zero(t, n)
	require.Equal(t, "the publication was cancelled", why)

	w.exec(`UPDATE publications SET state = 'completed_with_failures', stopped_at = NULL, expires_at = clock_timestamp(), request = request || '{"expires_at": "2026-01-01T00:00:00Z"}'`)
	require.Equal(t, map[string]int64{"expired": 3}, w.preview(fanfare.ReplayFilter{Topic: "writer-1"}).Excluded)
	_, why, err = w.Reopen(t.Context(), ref, "run-3")
	require.NoError(t, err)
	require.Equal(t, "the time that its publisher set is over", why)
	require.Equal(t, fanfare.CompletedWithFailures, w.publication(ref.Publication).State)

	// What expired because nobody said when it should lives again.
	w.exec(`UPDATE publications SET state = 'expired', stopped_at = now(), request = request - 'expires_at'`)
	n, why, err = w.Reopen(t.Context(), ref, "run-4")
	require.NoError(t, err)
	require.EqualValues(t, 3, n)
	require.Empty(t, why)
	require.Equal(t, fanfare.Running, w.publication(ref.Publication).State)
	w.balanced()
	_, _, err = w.Reopen(t.Context(), fanfare.BatchRef{Publication: "01890000-0000-7000-8000-000000000001", Channel: fanfare.Email, N: 1}, "run")
	require.ErrorIs(t, err, fanfare.ErrNotFound)
}

// The time of a publication is over, and those who were not sent to are just being
// skipped: nobody may be sent to late because somebody else's dead letter is.
func TestWhatIsJustExpiringIsNotReopened(t *testing.T) {
	t.Parallel()
	w := graves(t, 20)
	ref := w.running("article-1", 10)
	two := ref
	two.N = 2
	w.settle(ref, w.claimNew(ref, 10).Call, fanfare.OutcomeThrottled)
	w.exec(`UPDATE deliveries SET state = 'dead', due_at = NULL, reason = 'retries_exhausted'`)
	w.exec(`UPDATE publications SET state = 'expired', stopped_at = now()`)
	r := w.replay(fanfare.ReplayFilter{Topic: "writer-1"})
	require.EqualValues(t, 10, r.Count)
	require.Zero(t, w.takeAll(r.ID))
	n, why, err := w.Reopen(t.Context(), ref, "run-2")
	require.NoError(t, err)
	require.Zero(t, n)
	require.Contains(t, why, "just being closed")
	require.Equal(t, fanfare.Expired, w.publication(ref.Publication).State)
	require.Empty(t, w.claimNew(two, 10).Recipients)

	_, err = w.CloseBatch(t.Context(), two, 100)
	require.NoError(t, err)
	require.Equal(t, fanfare.Expired, w.finish(ref.Publication).State)
	require.EqualValues(t, 10, w.takeAll(r.ID), "they went on waiting")
	require.EqualValues(t, 10, w.publication(ref.Publication).Totals.Skipped, "who was skipped stays so")
	w.balanced()
}

func TestARunReopensABatchOnce(t *testing.T) {
	t.Parallel()
	w := graves(t, 12)
	ref := w.cemetery("article-1", 12, 6, 2)
	n, _, err := w.Reopen(t.Context(), ref, "run-2")
	require.NoError(t, err)
	require.EqualValues(t, 5, n, "of this batch, and without the one held because of doubt")
	require.Equal(t, []string{"wake"}, all[string](w, `SELECT kind FROM outbox ORDER BY outbox_id DESC LIMIT 1`))
	w.exec(`UPDATE deliveries SET state = 'dead', reason = 'retries_exhausted', due_at = NULL WHERE state = 'pending'`)
	n, _, err = w.Reopen(t.Context(), ref, "run-2")
	require.NoError(t, err)
	require.Zero(t, n, "asked again by the same run")
	n, _, err = w.Reopen(t.Context(), ref, "run-3")
	require.NoError(t, err)
	require.EqualValues(t, 5, n)
	w.balanced()
}

func TestReplaysAreSweptLikePublications(t *testing.T) {
	t.Parallel()
	w := graves(t, 1)
	w.cemetery("article-1", 1, 10)
	r := w.replay(fanfare.ReplayFilter{Topic: "writer-1"})
	ids, err := w.UnfinishedReplays(t.Context(), 10)
	require.NoError(t, err)
	require.Equal(t, []fanfare.ReplayID{r.ID}, ids)
	orders, err := w.LeaseOrders(t.Context(), 100, time.Minute)
	require.NoError(t, err)
	require.Contains(t, fmt.Sprintf("%+v", orders), string(r.ID))
}

func BenchmarkReplay(b *testing.B) {
	w := newWorld(b, func(cfg *ledger.Config) { cfg.Ladder = nil })
	w.subscribed(100_000)
	w.cemetery("article-1", 100_000, 10_000)
	b.ResetTimer()
	begun := time.Now()
	r := w.replay(fanfare.ReplayFilter{Topic: "writer-1"})
	b.ReportMetric(time.Since(begun).Seconds(), "s/accept")
	begun = time.Now()
	require.EqualValues(b, 100_000, w.takeAll(r.ID))
	b.ReportMetric(time.Since(begun).Seconds(), "s/take")
}

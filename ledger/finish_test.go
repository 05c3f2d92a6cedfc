package ledger_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/ledger"
)

func TestNothingIsCompletedWhileSomethingIsUnfinished(t *testing.T) {
	t.Parallel()
	for name, unfinished := range map[string]func(w *world, ref fanfare.BatchRef){
		"never claimed": func(*world, fanfare.BatchRef) {},
		"under way":     func(w *world, ref fanfare.BatchRef) { w.claimNew(ref, 1) },
		"waiting":       func(w *world, ref fanfare.BatchRef) { w.settle(ref, w.claimNew(ref, 1).Call, fanfare.OutcomeThrottled) },
		"in doubt":      func(w *world, ref fanfare.BatchRef) { w.settle(ref, w.claimNew(ref, 1).Call, fanfare.OutcomeAmbiguous) },
	} {
		w := newWorld(t)
		w.subscribed(3)
		ref := w.running("article-1", 2)
		w.settle(ref, w.claimNew(ref, 2).Call, fanfare.OutcomeAccepted)
		ref.N = 2
		unfinished(w, ref)
		p := w.finish(ref.Publication)
		require.Equal(t, fanfare.Running, p.State, name)
		require.Nil(t, p.FinishedAt)
		require.EqualValues(t, 1, p.Totals.Unfinished())
	}
}

func TestWhatWasNotPlannedIsNotFinished(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(4)
	id := w.accept("article-1").ID
	require.NoError(t, w.Start(t.Context(), id))
	_, complete, err := w.Plan(t.Context(), id, 2, 1)
	require.NoError(t, err)
	require.False(t, complete)
	ref := fanfare.BatchRef{Publication: id, Channel: fanfare.Email, N: 1}
	w.settle(ref, w.claimNew(ref, 2).Call, fanfare.OutcomeAccepted)
	require.Equal(t, fanfare.Running, w.finish(id).State)
	_, err = w.Finish(t.Context(), "018cc251-f400-7000-8000-000000000000")
	require.ErrorIs(t, err, fanfare.ErrNotFound)
}

func TestAllChannelsMustBeFinished(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *ledger.Config) { c.Channels = []fanfare.Channel{fanfare.InApp, fanfare.Email} })
	w.subscribed(2)
	ref := w.running("article-1", 10)
	w.settle(ref, w.claimNew(ref, 2).Call, fanfare.OutcomeAccepted)
	p := w.finish(ref.Publication)
	require.Equal(t, fanfare.Running, p.State)
	require.Equal(t, fanfare.Totals{Intended: 4, Pending: 2, Sent: 2}, p.Totals, "the whole audience is intended on each channel")
	ref.Channel = fanfare.InApp
	w.settle(ref, w.claimNew(ref, 2).Call, fanfare.OutcomeAccepted)
	require.Equal(t, fanfare.Completed, w.finish(ref.Publication).State)
	w.balanced()
}

func TestFailuresShowInTheFinalState(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		do    func(w *world, ref fanfare.BatchRef)
		state fanfare.PublicationState
	}{
		"all sent":     {func(w *world, ref fanfare.BatchRef) { w.settle(ref, w.claimNew(ref, 9).Call, fanfare.OutcomeAccepted) }, fanfare.Completed},
		"all rejected": {func(w *world, ref fanfare.BatchRef) { w.settle(ref, w.claimNew(ref, 9).Call, fanfare.OutcomeRejected) }, fanfare.CompletedWithFailures},
		"one rejected": {func(w *world, ref fanfare.BatchRef) {
			r := result(fanfare.OutcomeAccepted)
			r.Named = map[fanfare.SubscriberNumber]fanfare.Outcome{2: {Kind: fanfare.OutcomeRejected, Code: "550"}}
			w.settleWith(ref, w.claimNew(ref, 9).Call, r)
		}, fanfare.CompletedWithFailures},
		"one skipped, which is no failure": {func(w *world, ref fanfare.BatchRef) {
			w.unsubscribe(1)
			w.settle(ref, w.claimNew(ref, 9).Call, fanfare.OutcomeAccepted)
		}, fanfare.Completed},
	} {
		w := newWorld(t)
		w.subscribed(3)
		ref := w.running("article-1", 10)
		c.do(w, ref)
		p := w.finish(ref.Publication)
		require.Equal(t, c.state, p.State, name)
		require.NotNil(t, p.FinishedAt)
		again := w.finish(ref.Publication)
		require.Empty(t, cmp.Diff(p, again), "finishing again changes nothing")
		require.NoError(t, w.Expire(t.Context(), ref.Publication))
		require.NoError(t, w.Start(t.Context(), ref.Publication))
		require.Empty(t, cmp.Diff(p, w.publication(ref.Publication)), "what is finished stays as it is")
		w.balanced()
	}
}

func TestAPausedPublicationIsNotFinished(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(1)
	ref := w.running("article-1", 10)
	w.settle(ref, w.claimNew(ref, 1).Call, fanfare.OutcomeAccepted)
	_, err := w.Pause(t.Context(), ref.Publication)
	require.NoError(t, err)
	require.Equal(t, fanfare.Paused, w.finish(ref.Publication).State)
	_, err = w.Resume(t.Context(), ref.Publication)
	require.NoError(t, err)
	require.Equal(t, fanfare.Completed, w.finish(ref.Publication).State)
}

func TestExpiryComesWhenTheTimeIsOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(1)
	id := w.running("article-1", 10).Publication
	require.NoError(t, w.Expire(t.Context(), id))
	require.Equal(t, fanfare.Running, w.publication(id).State, "not before")
	w.exec(`UPDATE publications SET accepted_at = now() - interval '2 h', expires_at = now() - interval '1 h'`)
	require.NoError(t, w.Expire(t.Context(), id))
	require.Equal(t, fanfare.Expired, w.publication(id).State)
}

// Temporal may have been away while the last call was settled.
func TestWhatWasSentInTimeDoesNotExpire(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(1)
	ref := w.running("article-1", 10)
	w.settle(ref, w.claimNew(ref, 1).Call, fanfare.OutcomeAccepted)
	w.exec(`UPDATE publications SET accepted_at = now() - interval '2 h', expires_at = now() - interval '1 h'`)
	require.NoError(t, w.Expire(t.Context(), ref.Publication))
	require.Equal(t, fanfare.Completed, w.finish(ref.Publication).State)
}

func TestCancelCountsEveryoneExactly(t *testing.T) {
	t.Parallel()
	for _, stop := range []fanfare.PublicationState{fanfare.Cancelled, fanfare.Expired} {
		w := newWorld(t)
		w.subscribed(60)
		ref := w.running("article-1", 30)
		sent := w.claimNew(ref, 5)
		w.settle(ref, sent.Call, fanfare.OutcomeAccepted)
		waiting := w.claimNew(ref, 4)
		w.settle(ref, waiting.Call, fanfare.OutcomeThrottled)
		failed := w.claimNew(ref, 1)
		w.settle(ref, failed.Call, fanfare.OutcomeRejected)
		doubtful := w.doubtful(ref, 3)
		open := w.claimNew(ref, 2)
		released := w.claimNew(ref, 2)
		require.Equal(t, fanfare.Totals{Intended: 60, Pending: 4 + 43, Sending: 4, InDoubt: 3, Sent: 5, Failed: 1}, w.publication(ref.Publication).Totals)

		if stop == fanfare.Cancelled {
			_, err := w.Cancel(t.Context(), ref.Publication)
			require.NoError(t, err)
		} else {
			w.exec(`UPDATE publications SET accepted_at = now() - interval '2 h', expires_at = now() - interval '1 h'`)
			require.NoError(t, w.Expire(t.Context(), ref.Publication))
		}
		closeAll := func() {
			for n := 1; n <= 2; n++ {
				pages := 0
				for done := false; !done; pages++ {
					var err error
					done, err = w.CloseBatch(t.Context(), fanfare.BatchRef{Publication: ref.Publication, Channel: fanfare.Email, N: n}, 7)
					require.NoError(t, err)
					require.Less(t, pages, 6, "it gets on")
				}
			}
		}
		closeAll()
		require.Equal(t, fanfare.Totals{Intended: 60, Sending: 4, InDoubt: 3, Sent: 5, Failed: 1, Skipped: 47}, w.publication(ref.Publication).Totals, stop)
		require.Equal(t, stop, w.finish(ref.Publication).State)
		require.Nil(t, w.publication(ref.Publication).FinishedAt, "calls under way and doubts are still to be settled")

		w.settle(ref, open.Call, fanfare.OutcomeAccepted)
		w.settle(ref, released.Call, fanfare.OutcomeReleased)
		closeAll()
		require.NoError(t, w.ApplyPolicy(t.Context(), doubtful))
		p := w.finish(ref.Publication)
		require.Equal(t, stop, p.State)
		require.NotNil(t, p.FinishedAt)
		require.Equal(t, fanfare.Totals{Intended: 60, Sent: 7, Failed: 1, Skipped: 49, Dead: 3}, p.Totals)
		require.Empty(t, cmp.Diff(map[string]int64{string(stop): 49}, p.SkippedByReason))
		require.Empty(t, cmp.Diff(map[string]int64{"sendgrid:400": 1}, p.FailedByCode))
		closeAll()
		require.Equal(t, p.Totals, w.publication(ref.Publication).Totals, "closing again changes nothing")
		w.balanced()
	}
}

func TestCancelBeforeAnythingIsPlanned(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(25)
	id := w.accept("article-1").ID
	_, err := w.Cancel(t.Context(), id)
	require.NoError(t, err)
	require.Nil(t, w.finish(id).FinishedAt, "nobody has a reason yet")
	for n := 1; n <= w.planned(id, 10); n++ {
		done, err := w.CloseBatch(t.Context(), fanfare.BatchRef{Publication: id, Channel: fanfare.Email, N: n}, 100)
		require.NoError(t, err)
		require.True(t, done)
	}
	p := w.finish(id)
	require.Equal(t, fanfare.Totals{Intended: 25, Skipped: 25}, p.Totals)
	require.NotNil(t, p.FinishedAt)
	w.balanced()
}

func TestOnlyAStoppedPublicationIsClosed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(3)
	ref := w.running("article-1", 10)
	w.settle(ref, w.claimNew(ref, 1).Call, fanfare.OutcomeReleased)
	_, err := w.CloseBatch(t.Context(), ref, 10)
	require.ErrorIs(t, err, fanfare.ErrWrongState, "who asks for it in a loop must not go on for ever")
	require.Equal(t, "pending", w.state(ref, 1))
	ref.N = 9
	_, err = w.CloseBatch(t.Context(), ref, 10)
	require.ErrorIs(t, err, fanfare.ErrNotFound)
}

func TestBatchProblemsNameWhoWasNotSentTo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(12)
	ref := w.running("article-1", 10)
	w.unsubscribe(1)
	w.suppress("reader-2@mail.example")
	w.suppress("reader-12@mail.example") // of another batch
	r := result(fanfare.OutcomeAccepted)
	r.Named = map[fanfare.SubscriberNumber]fanfare.Outcome{3: {Kind: fanfare.OutcomeRejected, Code: "550"}, 4: {Kind: fanfare.OutcomeRejected, Code: "550"}}
	w.settleWith(ref, w.claimNew(ref, 6).Call, r)
	d := w.doubtful(ref, 2)
	_, err := w.Cancel(t.Context(), ref.Publication)
	require.NoError(t, err)
	require.NoError(t, w.ApplyPolicy(t.Context(), d))

	p, err := w.BatchProblems(t.Context(), ref, 100)
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(map[string]int64{
		"skipped unsubscribed": 1, "skipped suppressed": 1, "failed sendgrid:550": 2, "dead doubt_held": 2,
	}, p.Reasons))
	named := []string{}
	for _, n := range []string{"dead 7", "dead 8", "failed 3", "failed 4", "skipped 1", "skipped 2"} {
		var state string
		var number fanfare.SubscriberNumber
		_, err := fmt.Sscan(n, &state, &number)
		require.NoError(t, err)
		named = append(named, state+" "+fanfare.DeliveryID{Publication: ref.Publication, Channel: fanfare.Email, Number: number}.String())
	}
	require.ElementsMatch(t, named, p.Deliveries)
	p, err = w.BatchProblems(t.Context(), ref, 3)
	require.NoError(t, err)
	require.Len(t, p.Deliveries, 3)
	require.Len(t, p.Reasons, 4, "the rest is counted")
}

func TestATallySaysWhenToLookAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(10)
	ref := w.running("article-1", 10)
	tally, err := w.Tally(t.Context(), ref)
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(fanfare.BatchTally{Publication: fanfare.Running, Totals: fanfare.Totals{Intended: 10, Pending: 10}}, tally))

	for _, wait := range []time.Duration{time.Minute, 20 * time.Second} {
		r := result(fanfare.OutcomeThrottled)
		r.Outcome.RetryAfter = wait
		w.settleWith(ref, w.claimNew(ref, 1).Call, r)
	}
	old := w.claimNew(ref, 1)
	w.age(old.Call, 5*time.Second)
	w.claimNew(ref, 7)
	tally, err = w.Tally(t.Context(), ref)
	require.NoError(t, err)
	require.True(t, tally.AllClaimed)
	require.False(t, tally.Done())
	require.InDelta(t, 20, tally.NextDue.Seconds(), 2, "the first of those who wait")
	require.InDelta(t, 12, tally.NextLapse.Seconds(), 2, "the oldest of the open calls")
}

package ledger_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
)

// The longest a stop may take: the second in which calls may begin, the quarter
// behind it, and a busy machine.
const stopWithin = 1750 * time.Millisecond

func TestAfterCancelNothingIsClaimed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(10)
	ref := w.running("article-1", 10)
	waiting := w.claimNew(ref, 3)
	w.settle(ref, waiting.Call, fanfare.OutcomeThrottled)

	p, err := w.Cancel(t.Context(), ref.Publication)
	require.NoError(t, err)
	require.Equal(t, fanfare.Cancelled, p.State)
	for _, c := range []claimed{w.claimNew(ref, 10), w.claimDue(ref, 10)} {
		require.Empty(t, c.Recipients)
		require.False(t, c.More)
	}
	require.Equal(t, 1, one[int](w, `SELECT count(*) FROM calls`))
	require.Equal(t, 3, one[int](w, `SELECT claimed_through FROM batches`), "a claim that was refused moves nothing")

	again, err := w.Cancel(t.Context(), ref.Publication)
	require.NoError(t, err, "cancelling again is no error")
	require.Equal(t, fanfare.Cancelled, again.State)
	w.balanced()
}

func TestWhilePausedNothingIsClaimed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(10)
	ref := w.running("article-1", 10)
	w.settle(ref, w.claimNew(ref, 3).Call, fanfare.OutcomeReleased)

	p, err := w.Pause(t.Context(), ref.Publication)
	require.NoError(t, err)
	require.Equal(t, fanfare.Paused, p.State)
	require.Empty(t, w.claimNew(ref, 10).Recipients)
	require.Empty(t, w.claimDue(ref, 10).Recipients)
	_, err = w.Pause(t.Context(), ref.Publication)
	require.NoError(t, err, "pausing again is no error")

	p, err = w.Resume(t.Context(), ref.Publication)
	require.NoError(t, err)
	require.Equal(t, fanfare.Running, p.State)
	_, err = w.Resume(t.Context(), ref.Publication)
	require.NoError(t, err, "resuming again is no error")
	require.Len(t, w.claimDue(ref, 10).Recipients, 3)
	require.Len(t, w.claimNew(ref, 10).Recipients, 7)
}

func TestAfterExpiryNothingIsClaimed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(10)
	ref := w.running("article-1", 10)
	w.settle(ref, w.claimNew(ref, 3).Call, fanfare.OutcomeReleased)
	w.exec(`UPDATE publications SET accepted_at = now() - interval '2 h', expires_at = now() - interval '1 h'`)
	for _, c := range []claimed{w.claimNew(ref, 10), w.claimDue(ref, 10)} {
		require.Empty(t, c.Recipients, "also before anybody wrote that it has expired")
		require.False(t, c.More)
	}
	require.Equal(t, fanfare.Running, w.tally(ref).Publication)
	require.True(t, w.tally(ref).Expired)
	require.NoError(t, w.Expire(t.Context(), ref.Publication))
	require.Empty(t, w.claimDue(ref, 10).Recipients)
	require.Equal(t, fanfare.Expired, w.publication(ref.Publication).State)
}

func TestAStopIsRefusedWhereItMakesNoSense(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(0)
	done := w.running("done", 10).Publication
	require.Equal(t, fanfare.Completed, w.finish(done).State)
	cancelled := w.running("cancelled", 10).Publication
	_, err := w.Cancel(t.Context(), cancelled)
	require.NoError(t, err)

	type op func(context.Context, fanfare.PublicationID) (fanfare.Publication, error)
	for _, c := range []struct {
		name string
		op   op
		id   fanfare.PublicationID
		want error
	}{
		{"cancel what is completed", w.Cancel, done, fanfare.ErrWrongState},
		{"pause what is completed", w.Pause, done, fanfare.ErrWrongState},
		{"resume what is completed", w.Resume, done, fanfare.ErrWrongState},
		{"pause what is cancelled", w.Pause, cancelled, fanfare.ErrWrongState},
		{"resume what is cancelled", w.Resume, cancelled, fanfare.ErrWrongState},
		{"cancel nothing", w.Cancel, "018cc251-f400-7000-8000-000000000000", fanfare.ErrNotFound},
		{"pause nothing", w.Pause, "018cc251-f400-7000-8000-000000000000", fanfare.ErrNotFound},
		{"resume nothing", w.Resume, "018cc251-f400-7000-8000-000000000000", fanfare.ErrNotFound},
	} {
		_, err := c.op(t.Context(), c.id)
		require.ErrorIs(t, err, c.want, c.name)
	}
}

func TestPauseRemembersWhereToResume(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.topic("writer-1")
	soon := time.Now().Add(time.Hour)
	scheduled := draft("scheduled")
	scheduled.ScheduledAt = &soon
	s, err := w.Accept(t.Context(), scheduled, "")
	require.NoError(t, err)
	for id, state := range map[fanfare.PublicationID]fanfare.PublicationState{
		w.accept("accepted").ID: fanfare.Accepted, s.ID: fanfare.Scheduled, w.running("running", 10).Publication: fanfare.Running,
	} {
		p, err := w.Pause(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, fanfare.Paused, p.State)
		require.NoError(t, w.Start(t.Context(), id))
		require.Equal(t, fanfare.Paused, w.publication(id).State, "a paused publication does not start")
		p, err = w.Resume(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, state, p.State)
	}
}

func TestEveryStopOrdersAWake(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.topic("writer-1")
	id := w.running("article-1", 10).Publication
	for i, op := range []func(context.Context, fanfare.PublicationID) (fanfare.Publication, error){w.Pause, w.Resume, w.Cancel} {
		for range 2 { // the second time changes nothing and orders nothing
			_, err := op(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, i+1, one[int](w, `SELECT count(*) FROM outbox WHERE kind = 'wake'`))
		}
	}
}

// A stop waits for calls that may still begin, and no longer.
func TestAStopWaitsForOpenCallsUntilTheyMayNoLongerBegin(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(10)
	for name, stop := range map[string]func(context.Context, fanfare.PublicationID) (fanfare.Publication, error){"cancel": w.Cancel, "pause": w.Pause} {
		ref := w.running(name, 10)
		w.claimNew(ref, 5)
		start := time.Now()
		_, err := stop(t.Context(), ref.Publication)
		require.NoError(t, err)
		require.Less(t, time.Since(start), stopWithin, name)
		require.True(t, one[bool](w, `SELECT clock_timestamp() >= max(begin_by) FROM calls WHERE publication_id = $1`, ref.Publication),
			"%s was answered before the call could no longer begin", name)
	}
}

func TestASettledCallLetsAStopGoEarlier(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(10)
	for _, kind := range []fanfare.OutcomeKind{fanfare.OutcomeAccepted, fanfare.OutcomeReleased, fanfare.OutcomeAmbiguous} {
		ref := w.running(string(kind), 10)
		c := w.claimNew(ref, 5)
		stopped := make(chan error, 1)
		go func() {
			_, err := w.Cancel(context.WithoutCancel(t.Context()), ref.Publication)
			stopped <- err
		}()
		require.Eventually(t, func() bool { return w.publication(ref.Publication).State == fanfare.Cancelled }, 5*time.Second, time.Millisecond)
		select {
		case <-stopped:
			t.Fatal("it did not wait for the open call")
		default:
		}
		w.settle(ref, c.Call, kind)
		require.NoError(t, <-stopped)
		require.True(t, one[bool](w, `SELECT clock_timestamp() < begin_by FROM calls WHERE call_id = $1`, c.Call), "it waited although the call was %s", kind)
	}
}

// A claim that began before a stop is waited for; the stop then sees its call.
func TestAClaimInFlightHoldsUpAStop(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(10)
	ref := w.running("article-1", 10)
	// Holding the batch stops the claim behind the gate.
	release := w.hold(`SELECT FROM batches FOR UPDATE`)

	var wg sync.WaitGroup
	var claim claimed
	var claimErr, cancelErr error
	wg.Go(func() { claim, claimErr = tryNew(t.Context(), w.Ledger, ref, 5) })
	w.waitingFor(1)
	wg.Go(func() { _, cancelErr = w.Cancel(t.Context(), ref.Publication) })
	w.waitingFor(2)
	require.Equal(t, fanfare.Running, w.publication(ref.Publication).State, "the claim is inside the gate")
	var late claimed
	var lateErr error
	wg.Go(func() { late, lateErr = tryNew(t.Context(), w.Ledger, ref, 5) })
	w.waitingFor(3)

	release()
	wg.Wait()
	require.NoError(t, claimErr)
	require.NoError(t, cancelErr)
	require.NoError(t, lateErr)
	require.Len(t, claim.Recipients, 5)
	require.Empty(t, late.Recipients, "who came behind the cancel gets nothing")
	require.True(t, one[bool](w, `SELECT clock_timestamp() >= begin_by FROM calls`))
}

// With a row lock FOR SHARE a cancel waited for as long as claims overlapped.
func TestAStopIsNotStarvedByClaimsThatOverlap(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const streams = 10
	w.subscribed(100 * streams)
	ref := w.running("article-1", 100)
	w.exec(`CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END'`)
	w.exec(`CREATE TRIGGER slowly BEFORE INSERT ON calls FOR EACH ROW EXECUTE FUNCTION slowly()`)

	ctx, stop := context.WithCancel(t.Context())
	var claims atomic.Int64
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	for n := 1; n <= streams; n++ {
		wg.Go(func() {
			batch := fanfare.BatchRef{Publication: ref.Publication, Channel: fanfare.Email, N: n}
			for ctx.Err() == nil {
				if _, err := tryNew(ctx, w.Ledger, batch, 1); err == nil {
					claims.Add(1)
				}
			}
		})
	}
	require.Eventually(t, func() bool { return claims.Load() > 5*streams }, 10*time.Second, time.Millisecond)
	start := time.Now()
	_, err := w.Cancel(t.Context(), ref.Publication)
	require.NoError(t, err)
	require.Less(t, time.Since(start), stopWithin)
}

// Whoever resumes while a pause still waits makes new calls that the pause need
// not wait for.
func TestAResumeDoesNotHoldUpAPause(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(200)
	ref := w.running("article-1", 200)
	w.claimNew(ref, 1)
	start := time.Now()
	paused := make(chan error, 1)
	go func() {
		_, err := w.Pause(context.WithoutCancel(t.Context()), ref.Publication)
		paused <- err
	}()
	require.Eventually(t, func() bool { return w.publication(ref.Publication).State == fanfare.Paused }, 5*time.Second, time.Millisecond)
	_, err := w.Resume(t.Context(), ref.Publication)
	require.NoError(t, err)
	for {
		select {
		case err := <-paused:
			require.NoError(t, err)
			require.Less(t, time.Since(start), stopWithin)
			return
		default:
			w.claimNew(ref, 1)
			require.Less(t, time.Since(start), 5*time.Second)
		}
	}
}

// The database's clock is set forward, or another server with another clock took
// over, between a claim and a cancel.
func TestACancelDoesNotTrustTheDatabasesClock(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(1)
	ref := w.running("article-1", 10)
	start := time.Now()
	c := w.claimNew(ref, 1)
	lease := fanfare.NewLease(c.Call, start, c.BeginWithin, c.CallWithin)
	w.age(c.Call, 2*time.Second)
	_, err := w.Cancel(t.Context(), ref.Publication)
	require.NoError(t, err)
	require.ErrorIs(t, lease.MayBegin(), fanfare.ErrTooLate, "cancel has been answered")
}

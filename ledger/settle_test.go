package ledger_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/ledger"
)

// attempts are a delivery's rows in the attempts table, oldest first.
func (w *world) attempts(ref fanfare.BatchRef, number int) []string {
	w.t.Helper()
	return all[string](w, `
		SELECT trim(a.outcome || ' ' || COALESCE(a.code, '')) FROM attempts a
		WHERE publication_id = $1 AND channel = $2 AND subscriber_number = $3 ORDER BY call_id`, ref.Publication, ref.Channel, number)
}

// call is what the ledger keeps of a call: outcome, code, provider's id and evidence.
func (w *world) call(id fanfare.CallID) string {
	w.t.Helper()
	return one[string](w, `SELECT concat_ws(' ', COALESCE(outcome::text, 'open'), code, provider_id, evidence) FROM calls WHERE call_id = $1`, id)
}

func (w *world) doubts() int { return one[int](w, `SELECT count(*) FROM doubts`) }

func TestEveryOutcomeIsWrittenForAllOfACall(t *testing.T) {
	t.Parallel()
	for kind, state := range everyKind {
		w := newWorld(t)
		w.subscribed(5)
		ref := w.running("article-1", 10)
		c := w.claimNew(ref, 4)
		r := result(kind)
		r.Outcome.RetryAfter = 90 * time.Second
		tally := w.settleWith(ref, c.Call, r)

		want := fanfare.Totals{Intended: 5, Pending: 1}
		attempts := []string{}
		switch kind {
		case fanfare.OutcomeAccepted:
			want.Sent = 4
		case fanfare.OutcomeRejected:
			want.Failed = 4
			attempts = []string{"rejected sendgrid:400"}
		case fanfare.OutcomeAmbiguous:
			want.InDoubt = 4
			attempts = []string{"ambiguous"}
		case fanfare.OutcomeReleased:
			want.Pending = 5
		default:
			want.Pending = 5
			attempts = []string{string(kind)}
		}
		require.Empty(t, cmp.Diff(want, tally.Totals), kind)
		require.Nil(t, tally.NextLapse, "no call is open")
		for n := 1; n <= 4; n++ {
			r := w.row(ref, n)
			require.Equal(t, state, r.State, kind)
			require.Equal(t, string(c.Call), r.Call)
			require.Equal(t, map[bool]string{true: "sendgrid:400"}[kind == fanfare.OutcomeRejected], r.Code)
			require.Empty(t, r.Reason)
			require.Equal(t, map[bool]int{true: 1}[kind == fanfare.OutcomeThrottled], r.Attempts, "only who was told to wait has lost an attempt")
			require.Equal(t, attempts, w.attempts(ref, n), kind)
		}
		if state == "pending" {
			require.InDelta(t, 90, tally.NextDue.Seconds(), 2, kind)
		} else {
			require.Nil(t, tally.NextDue)
		}
		require.Equal(t, map[bool]int{true: 1}[kind == fanfare.OutcomeAmbiguous], w.doubts(), kind)
		require.True(t, strings.HasPrefix(w.call(c.Call), string(kind)))
		require.Equal(t, map[string]int64{}, w.publication(ref.Publication).SkippedByReason)
		if kind == fanfare.OutcomeRejected {
			require.Equal(t, map[string]int64{"sendgrid:400": 4}, w.publication(ref.Publication).FailedByCode)
		}
		w.balanced()

		versions := all[string](w, `SELECT xmin::text || changed_at FROM deliveries ORDER BY subscriber_number`)
		require.Empty(t, cmp.Diff(tally.Totals, w.settleWith(ref, c.Call, r).Totals))
		if kind != fanfare.OutcomeAccepted {
			require.Empty(t, cmp.Diff(tally.Totals, w.settle(ref, c.Call, fanfare.OutcomeAmbiguous).Totals))
		}
		require.Equal(t, versions, all[string](w, `SELECT xmin::text || changed_at FROM deliveries ORDER BY subscriber_number`), "settling again writes nothing")
		require.Equal(t, attempts, w.attempts(ref, 1))
	}
}

func TestThoseRejectedByNameFailAndTheOthersFollowTheCall(t *testing.T) {
	t.Parallel()
	for kind, state := range everyKind {
		w := newWorld(t)
		w.subscribed(6)
		ref := w.running("article-1", 10)
		c := w.claimNew(ref, 5)
		r := result(kind)
		r.Named = map[fanfare.SubscriberNumber]fanfare.Outcome{
			2: {Kind: fanfare.OutcomeRejected, Code: "550"},
			4: {Kind: fanfare.OutcomeRejected},              // the provider gave no code
			6: {Kind: fanfare.OutcomeRejected, Code: "550"}, // not of this call
		}
		w.settleWith(ref, c.Call, r)
		for n := 1; n <= 5; n += 2 {
			require.Equal(t, state, w.row(ref, n).State, kind)
		}
		own := map[bool]string{true: "400", false: "rejected"}[kind == fanfare.OutcomeRejected]
		require.Equal(t, "failed sendgrid:550", w.state(ref, 2), kind)
		require.Equal(t, "failed sendgrid:"+own, w.state(ref, 4), kind)
		require.Equal(t, []string{"rejected sendgrid:550"}, w.attempts(ref, 2), kind)
		require.Equal(t, []string{"rejected sendgrid:" + own}, w.attempts(ref, 4), kind)
		require.Equal(t, 5, one[int](w, `SELECT count(*) FROM deliveries`), "number 6 was not claimed")
		require.Equal(t, string(kind), strings.Fields(w.call(c.Call))[0], "the call is what it is for the others")

		d, err := w.Delivery(t.Context(), fanfare.DeliveryID{Publication: ref.Publication, Channel: fanfare.Email, Number: 2})
		require.NoError(t, err)
		require.Len(t, d.Attempts, 1)
		require.Equal(t, "rejected", d.Attempts[0].Outcome, "a call that was %s for others was not for this one", kind)
		require.Equal(t, "sendgrid:550", d.Attempts[0].Code)
		w.balanced()
	}
}

// A result that is known takes the place of one that was in doubt, whichever it is.
func TestAKnownResultTakesThePlaceOfADoubt(t *testing.T) {
	t.Parallel()
	for kind, state := range everyKind {
		if kind == fanfare.OutcomeAmbiguous {
			continue
		}
		w := newWorld(t)
		w.subscribed(3)
		ref := w.running("article-1", 10)
		c := w.claimNew(ref, 3)
		w.settle(ref, c.Call, fanfare.OutcomeAmbiguous)
		require.Equal(t, "in_doubt", w.state(ref, 1))
		r := result(kind)
		r.Evidence = "the log shows it"
		w.settleWith(ref, c.Call, r)
		require.Equal(t, state, w.row(ref, 1).State, kind)
		require.Zero(t, w.doubts(), "the doubt is gone")
		require.Contains(t, w.call(c.Call), "the log shows it")
		w.balanced()

		w.settle(ref, c.Call, fanfare.OutcomeAmbiguous)
		require.Equal(t, state, w.row(ref, 1).State, "a doubt that comes late changes nothing")
		require.Zero(t, w.doubts())
		for later := range everyKind {
			w.settle(ref, c.Call, later)
			require.Equal(t, state, w.row(ref, 1).State, "%s after %s", later, kind)
		}
	}
}

// lapsed claims n recipients and lets the call's time run out.
func (w *world) lapsed(ref fanfare.BatchRef, n int) fanfare.CallID {
	w.t.Helper()
	c := w.claimNew(ref, n)
	w.age(c.Call, time.Minute)
	tally, err := w.DoubtLapsed(w.t.Context(), ref)
	require.NoError(w.t, err)
	require.EqualValues(w.t, n, tally.Totals.InDoubt)
	return c.Call
}

func TestAcceptanceIsProvedLate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		before func(w *world, ref fanfare.BatchRef, d fanfare.Doubt)
		from   string
	}{
		{"in doubt", func(*world, fanfare.BatchRef, fanfare.Doubt) {}, "in_doubt"},
		{"to be re-sent", func(w *world, _ fanfare.BatchRef, d fanfare.Doubt) {
			require.NoError(w.t, w.ApplyPolicy(w.t.Context(), d))
		}, "pending"},
		{"dead", func(w *world, ref fanfare.BatchRef, d fanfare.Doubt) {
			_, err := w.Cancel(w.t.Context(), ref.Publication)
			require.NoError(w.t, err)
			require.NoError(w.t, w.ApplyPolicy(w.t.Context(), d))
		}, "dead doubt_held"},
		{"dead by the stop that found it waiting to be re-sent", func(w *world, ref fanfare.BatchRef, d fanfare.Doubt) {
			require.NoError(w.t, w.ApplyPolicy(w.t.Context(), d))
			_, err := w.Cancel(w.t.Context(), ref.Publication)
			require.NoError(w.t, err)
			_, err = w.CloseBatch(w.t.Context(), ref, 100)
			require.NoError(w.t, err)
		}, "dead doubt_held"},
	} {
		w := newWorld(t)
		w.subscribed(3)
		ref := w.running("article-1", 10)
		call := w.lapsed(ref, 3)
		due, _, err := w.Doubts(t.Context(), ref.Publication, fanfare.Email, 10)
		require.NoError(t, err)
		require.Len(t, due, 1)
		c.before(w, ref, due[0])
		require.Equal(t, c.from, w.state(ref, 1), c.name)

		r := result(fanfare.OutcomeAccepted)
		r.Evidence = "the log shows it"
		r.Named = map[fanfare.SubscriberNumber]fanfare.Outcome{3: {Kind: fanfare.OutcomeRejected, Code: "550"}}
		w.settleWith(ref, call, r)
		for n := 1; n <= 2; n++ {
			require.Equal(t, "sent", w.state(ref, n), c.name)
			require.Equal(t, string(call), w.row(ref, n).Call)
		}
		require.Equal(t, map[bool]string{true: "failed sendgrid:550", false: c.from}[c.from == "in_doubt"], w.state(ref, 3),
			"%s: a rejection proves nothing about who was given up", c.name)
		require.Contains(t, w.call(call), "accepted 202 m-1 the log shows it")
		require.Zero(t, w.doubts())
		w.balanced()
	}
}

// The resent call holds the deliveries now: what the first one reports is kept
// on its own record and moves nothing.
func TestALateResultNeverMovesANewerClaim(t *testing.T) {
	t.Parallel()
	for kind := range everyKind {
		w := newWorld(t)
		w.subscribed(2)
		ref := w.running("article-1", 10)
		old := w.lapsed(ref, 2)
		due, _, err := w.Doubts(t.Context(), ref.Publication, fanfare.Email, 10)
		require.NoError(t, err)
		require.NoError(t, w.ApplyPolicy(t.Context(), due[0]))
		newer := w.claimDue(ref, 10)
		require.Len(t, newer.Recipients, 2)

		w.settle(ref, old, kind)
		require.Equal(t, row{State: "sending", Call: string(newer.Call), Resends: 1}, w.row(ref, 1), kind)
		want := string(kind)
		require.Equal(t, want, strings.Fields(w.call(old))[0], "it is kept on the call's record")
		w.settle(ref, newer.Call, fanfare.OutcomeAccepted)
		w.settle(ref, old, fanfare.OutcomeRejected)
		require.Equal(t, "sent", w.state(ref, 1))
		duplicates := map[bool]int64{true: 2}[kind == fanfare.OutcomeAccepted]
		require.Equal(t, duplicates, w.balanced().Duplicates, "accepted by both calls: %s", kind)
	}
}

func TestASettleOfAnotherBatchMovesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(4)
	ref := w.running("article-1", 2)
	c := w.claimNew(ref, 2)
	other := ref
	other.N = 2
	w.settle(other, c.Call, fanfare.OutcomeAccepted)
	require.Equal(t, "sending", w.state(ref, 1))
	w.settle(ref, c.Call, fanfare.OutcomeAccepted)
	require.Equal(t, "sent", w.state(ref, 1), "the right settle still works")
	err := w.Settle(t.Context(), fanfare.BatchRef{Publication: ref.Publication, Channel: fanfare.Email, N: 9}, c.Call, result(fanfare.OutcomeAccepted))
	require.ErrorIs(t, err, fanfare.ErrNotFound)
}

func TestTheProvidersIdIsKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(1)
	ref := w.running("article-1", 10)
	c := w.claimNew(ref, 1)
	w.settle(ref, c.Call, fanfare.OutcomeAccepted)
	require.Equal(t, "accepted 202 m-1", w.call(c.Call))
	require.Equal(t, "as the provider said", one[string](w, `SELECT detail FROM calls`))
}

// Claims, settles, doubts, policies and closes of the same batches run at once;
// whatever comes of it, nothing deadlocks and the books balance.
func TestNothingDeadlocksUnderAStorm(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.topic("writer-1")
	w.imported(1, 120, func(i int) fanfare.Subscriber {
		return fanfare.Subscriber{ID: reader(i), Email: fmt.Sprintf("family-%d@mail.example", i%70)}
	})
	refs := []fanfare.BatchRef{}
	for _, key := range []string{"article-1", "article-2"} {
		ref := w.running(key, 40)
		for n := 1; n <= 3; n++ {
			ref.N = n
			refs = append(refs, ref)
		}
	}
	var mu sync.Mutex
	calls := map[fanfare.BatchRef][]fanfare.CallID{}
	atOnce(t, 14, func(i int) error {
		random := rand.New(rand.NewPCG(uint64(i), 7))
		for range 60 {
			ref := refs[random.IntN(len(refs))]
			err := w.anything(random, ref, &mu, calls)
			if err != nil && !errors.Is(err, fanfare.ErrWrongState) {
				return err
			}
		}
		return nil
	})
	w.balanced()
}

// anything does one thing to a batch that could happen to it.
func (w *world) anything(random *rand.Rand, ref fanfare.BatchRef, mu *sync.Mutex, calls map[fanfare.BatchRef][]fanfare.CallID) error {
	ctx := w.t.Context()
	kinds := []fanfare.OutcomeKind{
		fanfare.OutcomeAccepted, fanfare.OutcomeRejected, fanfare.OutcomeThrottled, fanfare.OutcomeUnavailable, fanfare.OutcomeAmbiguous, fanfare.OutcomeReleased,
	}
	var c claimed
	var err error
	switch random.IntN(12) {
	case 0, 1, 2:
		c, err = tryNew(ctx, w.Ledger, ref, 1+random.IntN(8))
	case 3, 4:
		c, err = tryDue(ctx, w.Ledger, ref, 1+random.IntN(8), everyone)
	case 5, 6, 7, 8:
		mu.Lock()
		open := calls[ref]
		mu.Unlock()
		if len(open) > 0 {
			err = w.Settle(ctx, ref, open[random.IntN(len(open))], result(kinds[random.IntN(len(kinds))]))
		}
	case 9:
		_, err = w.DoubtLapsed(ctx, ref)
	case 10:
		var due []fanfare.Doubt
		if due, _, err = w.Doubts(ctx, ref.Publication, ref.Channel, 5); err == nil {
			for _, d := range due {
				if random.IntN(2) == 0 {
					err = errors.Join(err, w.LookAgain(ctx, d, time.Millisecond, random.IntN(2) == 0, "not shown yet"))
				} else {
					err = errors.Join(err, w.ApplyPolicy(ctx, d))
				}
			}
		}
	case 11:
		switch random.IntN(20) {
		case 0:
			_, err = w.Cancel(ctx, ref.Publication)
		case 1:
			if _, err = w.CloseBatch(ctx, ref, 10); err == nil {
				_, err = w.Finish(ctx, ref.Publication)
			}
		default:
			_, err = w.Tally(ctx, ref)
		}
	}
	if len(c.Recipients) > 0 {
		mu.Lock()
		calls[ref] = append(calls[ref], c.Call)
		mu.Unlock()
	}
	return err
}

func TestWhoIsThrottledClimbsTheLadderAndDiesAtItsEnd(t *testing.T) {
	t.Parallel()
	ladder := []time.Duration{time.Second, time.Minute, time.Hour}
	w := newWorld(t, func(cfg *ledger.Config) { cfg.Ladder = ladder })
	w.subscribed(3)
	ref := w.running("article-1", 10)
	call := w.claimNew(ref, 3).Call
	for n, wait := range ladder {
		// 3 is told by name; a wait that the provider asks for counts when it is longer.
		r := fanfare.Result{Outcome: fanfare.Outcome{Kind: fanfare.OutcomeThrottled, Code: "429", RetryAfter: 30 * time.Second}}
		r.Named = map[fanfare.SubscriberNumber]fanfare.Outcome{3: {Kind: fanfare.OutcomeThrottled, Code: "450"}}
		tally := w.settleWith(ref, call, r)
		require.EqualValues(t, 3, tally.Totals.Pending)
		require.Equal(t, n+1, w.row(ref, 1).Attempts)
		require.InDelta(t, max(wait, 30*time.Second).Seconds(), one[float64](w, `SELECT extract(epoch FROM due_at - changed_at)::float8 FROM deliveries WHERE subscriber_number = 1`), 1)
		w.exec(`UPDATE deliveries SET due_at = clock_timestamp()`)
		call = w.claimDue(ref, 3).Call

		// What is nobody's fault costs nobody an attempt.
		w.settle(ref, call, fanfare.OutcomeUnavailable)
		w.exec(`UPDATE deliveries SET due_at = clock_timestamp()`)
		call = w.claimDue(ref, 3).Call
		require.Equal(t, n+1, w.row(ref, 1).Attempts)
	}
	r := result(fanfare.OutcomeReleased)
	r.Named = map[fanfare.SubscriberNumber]fanfare.Outcome{3: {Kind: fanfare.OutcomeThrottled, Code: "450"}}
	w.settleWith(ref, call, r)
	require.Equal(t, "dead retries_exhausted", w.state(ref, 3))
	require.Equal(t, "pending", w.state(ref, 1), "released with the others, and owes nothing")
	w.exec(`UPDATE deliveries SET due_at = clock_timestamp() WHERE state = 'pending'`)
	w.settle(ref, w.claimDue(ref, 3).Call, fanfare.OutcomeThrottled)
	require.Equal(t, []string{"sendgrid:429", "sendgrid:429", "sendgrid:450"}, all[string](w, `SELECT code FROM deliveries WHERE state = 'dead' ORDER BY subscriber_number`))
	w.balanced()
	problems, err := w.BatchProblems(t.Context(), ref, 10)
	require.NoError(t, err)
	require.Equal(t, map[string]int64{"dead retries_exhausted": 3}, problems.Reasons)
}

func TestProofOutranksEveryAnswer(t *testing.T) {
	t.Parallel()
	for _, kind := range []fanfare.OutcomeKind{fanfare.OutcomeThrottled, fanfare.OutcomeUnavailable, fanfare.OutcomeReleased, fanfare.OutcomeAmbiguous} {
		w := newWorld(t)
		w.subscribed(2)
		ref := w.running("article-1", 10)
		call := w.claimNew(ref, 2).Call
		w.settle(ref, call, kind)
		require.Equal(t, everyKind[kind], w.state(ref, 1))
		proof := result(fanfare.OutcomeAccepted)
		proof.Evidence = "an event"
		require.EqualValues(t, 2, w.settleWith(ref, call, proof).Totals.Sent, kind)
		require.Zero(t, w.doubts())
		// And nothing outranks proof.
		require.EqualValues(t, 2, w.settle(ref, call, kind).Totals.Sent, kind)
		w.balanced()
	}
}

func TestProofForAnEarlierCallReachesThoseWhoWereNotReachedSince(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(4)
	ref := w.running("article-1", 10)
	first := w.claimNew(ref, 4).Call
	w.settle(ref, first, fanfare.OutcomeAmbiguous)
	w.decide(ref, first) // sent again, once
	second := w.claimDue(ref, 4).Call
	r := result(fanfare.OutcomeAmbiguous)
	r.Named = map[fanfare.SubscriberNumber]fanfare.Outcome{4: {Kind: fanfare.OutcomeRejected, Code: "550"}}
	w.settleWith(ref, second, r)
	w.decide(ref, second)
	require.Equal(t, "dead doubt_held", w.state(ref, 1))

	proof := result(fanfare.OutcomeAccepted)
	proof.Evidence = "an event"
	tally := w.settleWith(ref, first, proof)
	require.EqualValues(t, 3, tally.Totals.Sent, "nobody is given up who was sent to")
	require.EqualValues(t, 1, tally.Totals.Failed)
	require.Equal(t, string(first), w.row(ref, 1).Call, "the call that reached them")
	w.balanced()
	v, err := w.Verify(t.Context(), ref.Publication, nil)
	require.NoError(t, err)
	require.Zero(t, v.Duplicates)

	w.settleWith(ref, second, proof)
	v, err = w.Verify(t.Context(), ref.Publication, nil)
	require.NoError(t, err)
	require.EqualValues(t, 3, v.Duplicates, "both calls were accepted, and both say so")
}

func TestProofLeavesACallThatMayBeUnderWayToItsWorker(t *testing.T) {
	t.Parallel()
	for kind, then := range map[fanfare.OutcomeKind]string{
		fanfare.OutcomeAccepted: "second", fanfare.OutcomeUnavailable: "first", fanfare.OutcomeReleased: "first",
		fanfare.OutcomeThrottled: "first", fanfare.OutcomeRejected: "first", fanfare.OutcomeAmbiguous: "first",
	} {
		w := newWorld(t)
		w.subscribed(2)
		ref := w.running("article-1", 10)
		calls := map[string]fanfare.CallID{"first": w.claimNew(ref, 2).Call}
		w.settle(ref, calls["first"], fanfare.OutcomeAmbiguous)
		w.decide(ref, calls["first"])
		calls["second"] = w.claimDue(ref, 2).Call
		proof := result(fanfare.OutcomeAccepted)
		proof.Evidence = "an event"
		w.settleWith(ref, calls["first"], proof)
		require.Equal(t, "sending", w.state(ref, 1))

		// What the second call did not reach for certain, the first one did.
		require.EqualValues(t, 2, w.settle(ref, calls["second"], kind).Totals.Sent, kind)
		require.Equal(t, string(calls[then]), w.row(ref, 1).Call, kind)
		require.Empty(t, w.claimDue(ref, 2).Recipients, "nobody gets a third")
		w.settleWith(ref, calls["second"], proof)
		require.Equal(t, kind != fanfare.OutcomeRejected, w.balanced().Duplicates == 2, kind)
	}
}

// decide applies the policy to a call.
func (w *world) decide(ref fanfare.BatchRef, call fanfare.CallID) {
	w.t.Helper()
	require.NoError(w.t, w.ApplyPolicy(w.t.Context(), fanfare.Doubt{Ref: ref, Call: call}))
}

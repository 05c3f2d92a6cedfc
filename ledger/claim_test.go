package ledger_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
)

func TestClaimSettleFinish(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(25)
	ref := w.running("article-1", 20)

	first := w.claimNew(ref, 15)
	require.Len(t, first.Recipients, 15)
	require.Equal(t, "reader-1@mail.example", first.Recipients[0].Address)
	require.True(t, first.More)
	second := w.claimNew(ref, 15)
	require.Len(t, second.Recipients, 5)
	require.False(t, second.More)
	require.Empty(t, w.claimNew(ref, 15).Recipients, "nobody is left to claim")
	w.balanced()

	w.settle(ref, first.Call, fanfare.OutcomeAccepted)
	tally := w.settle(ref, second.Call, fanfare.OutcomeAccepted)
	require.Equal(t, fanfare.Totals{Intended: 20, Sent: 20}, tally.Totals)
	require.Equal(t, tally, w.settle(ref, second.Call, fanfare.OutcomeAccepted), "settling again changes nothing")

	p := w.finish(ref.Publication)
	require.Equal(t, fanfare.Running, p.State, "the second batch is not sent")
	require.Equal(t, fanfare.Totals{Intended: 25, Pending: 5, Sent: 20}, p.Totals)

	ref.N = 2
	w.settle(ref, w.claimNew(ref, 100).Call, fanfare.OutcomeAccepted)
	p = w.finish(ref.Publication)
	require.Equal(t, fanfare.Completed, p.State)
	require.Equal(t, fanfare.Totals{Intended: 25, Sent: 25}, p.Totals)
	require.NotNil(t, p.FinishedAt)
	w.balanced()
}

func TestAClaimIsALease(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(10)
	ref := w.running("article-1", 10)
	c := w.claimNew(ref, 4)
	require.Equal(t, time.Second, c.BeginWithin)
	require.Equal(t, 15*time.Second, c.CallWithin)
	require.Equal(t, []int{1, 2, 3, 4}, numbers(c))
	require.Equal(t, fanfare.Totals{Intended: 10, Pending: 6, Sending: 4}, w.tally(ref).Totals)
	require.InDelta(t, 17, w.tally(ref).NextLapse.Seconds(), 2, "the call's end and a margin")
	require.Nil(t, w.tally(ref).NextDue, "nobody waits")

	var call struct {
		First, Last, Size, Batch int
		Provider                 string
		Begin, Until             float64
	}
	require.NoError(t, w.db.QueryRow(t.Context(), `
		SELECT first_number, last_number, size, batch, provider, extract(epoch FROM begin_by - claimed_at)::float8, extract(epoch FROM call_until - claimed_at)::float8
		FROM calls WHERE call_id = $1`, c.Call).Scan(&call.First, &call.Last, &call.Size, &call.Batch, &call.Provider, &call.Begin, &call.Until))
	require.Equal(t, []int{1, 4, 4, 1}, []int{call.First, call.Last, call.Size, call.Batch})
	require.Equal(t, "sendgrid", call.Provider)
	require.Equal(t, []float64{1, 15}, []float64{call.Begin, call.Until})
	require.Equal(t, row{State: "sending", Call: string(c.Call)}, w.row(ref, 4))
}

func TestClaimsOfNothingAreNotFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(1)
	ref := w.running("article-1", 10)
	for _, ref := range []fanfare.BatchRef{
		{Publication: ref.Publication, Channel: fanfare.Email, N: 2},
		{Publication: ref.Publication, Channel: fanfare.SMS, N: 1},
		{Publication: "018cc251-f400-7000-8000-000000000000", Channel: fanfare.Email, N: 1},
	} {
		_, err := tryNew(t.Context(), w.Ledger, ref, 1)
		require.ErrorIs(t, err, fanfare.ErrNotFound)
		_, err = tryDue(t.Context(), w.Ledger, ref, 1, everyone)
		require.ErrorIs(t, err, fanfare.ErrNotFound)
		_, err = w.Tally(t.Context(), ref)
		require.ErrorIs(t, err, fanfare.ErrNotFound)
	}
}

func TestNothingIsClaimedBeforeAPublicationRuns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(3)
	p := w.accept("article-1")
	w.planned(p.ID, 10)
	c := w.claimNew(fanfare.BatchRef{Publication: p.ID, Channel: fanfare.Email, N: 1}, 10)
	require.Empty(t, c.Recipients)
	require.False(t, c.More)
}

// troubles are all that can be wrong with one recipient, and the reason that is
// written. Where two things are wrong the first of the list is told.
var troubles = []struct {
	reason string
	make   func(w *world, i int)
}{
	{"erased", func(w *world, i int) { require.NoError(w.t, w.EraseSubscriber(w.t.Context(), reader(i))) }},
	{"unsubscribed", func(w *world, i int) { w.unsubscribe(i) }},
	{"no_address", func(w *world, i int) { w.put(fanfare.Subscriber{ID: reader(i)}) }},
	{"suppressed", func(w *world, i int) { w.suppress(fmt.Sprintf("Reader-%d@MAIL.example", i)) }},
}

func TestEveryReasonToSkipIsTold(t *testing.T) {
	t.Parallel()
	// Sender 1 is well; then each trouble alone, and each pair of them.
	type trouble struct{ what []int }
	cases := map[int]trouble{}
	people := 1
	for a := range troubles {
		people++
		cases[people] = trouble{[]int{a}}
		for b := a + 1; b < len(troubles); b++ {
			people++
			cases[people] = trouble{[]int{b, a}} // the later of the list is made first
		}
	}
	for name, claim := range map[string]func(*world, fanfare.BatchRef) claimed{
		"new": func(w *world, ref fanfare.BatchRef) claimed { return w.claimNew(ref, 100) },
		"due": func(w *world, ref fanfare.BatchRef) claimed { return w.claimDue(ref, 100) },
	} {
		w := newWorld(t)
		w.subscribed(people)
		ref := w.running("article-1", 100)
		if name == "due" {
			w.settle(ref, w.claimNew(ref, 100).Call, fanfare.OutcomeReleased)
		}
		want := map[string]int64{}
		for i, c := range cases {
			for _, what := range c.what {
				if what == 3 && slices.Contains(c.what, 2) {
					w.suppress(fmt.Sprintf("reader-%d@mail.example", i))
					continue // then the address goes
				}
				troubles[what].make(w, i)
			}
			want[troubles[c.what[len(c.what)-1]].reason]++
		}
		c := claim(w, ref)
		require.Equal(t, []int{1}, numbers(c), name)
		for i, c := range cases {
			require.Equal(t, "skipped "+troubles[c.what[len(c.what)-1]].reason, w.state(ref, i), "%s %v", name, c.what)
		}
		require.Empty(t, cmp.Diff(want, w.publication(ref.Publication).SkippedByReason))
		require.Equal(t, fanfare.Totals{Intended: int64(people), Sending: 1, Skipped: int64(people - 1)}, w.tally(ref).Totals)
		require.Equal(t, 1, one[int](w, `SELECT size FROM calls ORDER BY claimed_at DESC LIMIT 1`), "the call counts only whom it is for")
		w.balanced()
	}
}

func TestAChunkOfSkippedRecipientsMakesNoCall(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(10)
	for i := 1; i <= 5; i++ {
		w.put(fanfare.Subscriber{ID: reader(i)})
	}
	ref := w.running("article-1", 10)
	c := w.claimNew(ref, 5)
	require.Empty(t, c.Recipients)
	require.True(t, c.More)
	require.Zero(t, one[int](w, `SELECT count(*) FROM calls`))
	require.Equal(t, []int{6, 7, 8, 9, 10}, numbers(w.claimNew(ref, 5)))
}

func TestWhoUnsubscribesAfterAcceptanceIsSkippedAndWhoComesBackIsNot(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(4)
	ref := w.running("article-1", 10)
	w.settle(ref, w.claimNew(ref, 2).Call, fanfare.OutcomeReleased)
	for i := 1; i <= 4; i++ {
		w.unsubscribe(i)
	}
	for _, i := range []int{1, 3} {
		w.subscribe(i)
		w.unsubscribe(i)
		w.subscribe(i)
	}
	require.Equal(t, []int{1}, numbers(w.claimDue(ref, 10)))
	require.Equal(t, []int{3}, numbers(w.claimNew(ref, 10)))
	require.Equal(t, "skipped unsubscribed", w.state(ref, 2))
	require.Equal(t, "skipped unsubscribed", w.state(ref, 4))
	w.balanced()
}

func TestTheFirstEligibleOfASharedAddressIsSentTo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.topic("writer-1")
	// Two families of four; the eldest of the second is not eligible.
	w.imported(1, 8, func(i int) fanfare.Subscriber {
		return fanfare.Subscriber{ID: reader(i), Email: fmt.Sprintf("Family-%d@mail.example", i%2)}
	})
	w.unsubscribe(1)
	w.subscribe(1)
	ref := w.running("article-1", 3) // 1-3, 4-6, 7-8
	w.unsubscribe(2)
	sent := map[string][]int{}
	for n := 1; n <= 3; n++ {
		ref.N = n
		c := w.claimNew(ref, 10)
		for _, r := range c.Recipients {
			sent[r.Address] = append(sent[r.Address], int(r.Number))
		}
		if len(c.Recipients) > 0 {
			w.settle(ref, c.Call, fanfare.OutcomeAccepted)
		}
	}
	require.Empty(t, cmp.Diff(map[string][]int{"Family-1@mail.example": {1}, "Family-0@mail.example": {4}}, sent))
	require.Empty(t, cmp.Diff(map[string]int64{"unsubscribed": 1, "duplicate_address": 5}, w.publication(ref.Publication).SkippedByReason))
	w.balanced()

	again := w.running("article-2", 100)
	require.Equal(t, []int{1, 4}, numbers(w.claimNew(again, 100)), "another publication is another turn")
}

func TestASharedAddressKeepsItsTurnThroughRetries(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.topic("writer-1")
	w.imported(1, 3, func(i int) fanfare.Subscriber {
		return fanfare.Subscriber{ID: reader(i), Email: "family@mail.example"}
	})
	ref := w.running("article-1", 10)
	w.settle(ref, w.claimNew(ref, 1).Call, fanfare.OutcomeReleased)
	for range 3 {
		c := w.claimDue(ref, 10)
		require.Equal(t, []int{1}, numbers(c))
		w.settle(ref, c.Call, fanfare.OutcomeReleased)
		require.Empty(t, w.claimNew(ref, 1).Recipients)
	}
	require.Equal(t, "skipped duplicate_address", w.state(ref, 2))
	require.Equal(t, "skipped duplicate_address", w.state(ref, 3))
	w.balanced()
}

func TestAnAddressSharedOnlyLaterIsNotSentToAgain(t *testing.T) {
	t.Parallel()
	for _, kind := range []fanfare.OutcomeKind{"", fanfare.OutcomeAccepted, fanfare.OutcomeReleased, fanfare.OutcomeAmbiguous, fanfare.OutcomeRejected} {
		w := newWorld(t)
		w.subscribed(3)
		ref := w.running("article-1", 10)
		first := w.claimNew(ref, 1)
		if kind != "" {
			w.settle(ref, first.Call, kind)
		}
		w.put(fanfare.Subscriber{ID: "reader-2", Email: "READER-1@mail.example"})
		w.imported(3, 3, func(int) fanfare.Subscriber {
			return fanfare.Subscriber{ID: "reader-3", Email: "Reader-1@mail.example"}
		})
		if kind == fanfare.OutcomeReleased { // nobody was sent to: whoever is claimed first now is
			require.Equal(t, []int{2}, numbers(w.claimNew(ref, 10)))
			require.Empty(t, w.claimDue(ref, 10).Recipients)
			require.Equal(t, "skipped duplicate_address", w.state(ref, 1))
		} else {
			require.Empty(t, w.claimNew(ref, 10).Recipients, "the first is %q", kind)
			require.Equal(t, "skipped duplicate_address", w.state(ref, 2))
		}
		require.Equal(t, "skipped duplicate_address", w.state(ref, 3))
		w.balanced()
	}
}

func TestOfTwoWhoWaitAndShareAnAddressSinceOneIsSentTo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(2)
	ref := w.running("article-1", 10)
	w.settle(ref, w.claimNew(ref, 10).Call, fanfare.OutcomeUnavailable)
	w.put(fanfare.Subscriber{ID: reader(2), Email: "reader-1@mail.example"})
	require.Equal(t, []int{1}, numbers(w.claimDue(ref, 10)))
	require.Equal(t, "skipped duplicate_address", w.state(ref, 2))
	w.balanced()
}

// Many claim different batches at once; families are spread over them, and
// people change their addresses meanwhile.
func TestNobodySendsTwiceToOneAddress(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.topic("writer-1")
	const people, families, batches = 400, 40, 20
	family := func(i int) string { return fmt.Sprintf("family-%d@mail.example", i%families) }
	w.imported(1, people, func(i int) fanfare.Subscriber {
		s := person(i)
		if i%2 == 0 {
			s.Email = family(i / 2)
		}
		return s
	})
	ref := w.running("article-1", people/batches)
	var mu sync.Mutex
	sent := map[string][]int{}
	atOnce(t, batches+4, func(i int) error {
		if i >= batches {
			random := rand.New(rand.NewPCG(uint64(i), 0))
			for range 20 {
				s := person(1 + 2*random.IntN(people/2))
				s.Email = family(random.IntN(families))
				if _, err := w.PutSubscriber(t.Context(), s); err != nil {
					return err
				}
			}
			return nil
		}
		batch := fanfare.BatchRef{Publication: ref.Publication, Channel: fanfare.Email, N: 1 + i}
		for retries := 0; ; {
			c, err := tryNew(t.Context(), w.Ledger, batch, 7)
			if err == nil && len(c.Recipients) == 0 {
				c, err = tryDue(t.Context(), w.Ledger, batch, 7, everyone)
			}
			if err != nil {
				return err
			}
			if len(c.Recipients) == 0 {
				if tally, err := w.Tally(t.Context(), batch); err != nil || tally.Done() {
					return err
				}
				continue
			}
			kind := fanfare.OutcomeAccepted
			if retries++; retries%3 == 0 {
				kind = fanfare.OutcomeReleased
			} else {
				mu.Lock()
				for _, r := range c.Recipients {
					sent[r.Address] = append(sent[r.Address], int(r.Number))
				}
				mu.Unlock()
			}
			if err := w.Settle(t.Context(), batch, c.Call, result(kind)); err != nil {
				return err
			}
		}
	})
	for address, who := range sent {
		require.Len(t, who, 1, address)
	}
	require.GreaterOrEqual(t, len(sent), families)
	require.Equal(t, fanfare.Completed, w.finish(ref.Publication).State)
	w.balanced()
}

func TestClaimersOfOneBatchNeverGetTheSameRecipient(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(300)
	ref := w.running("article-1", 300)
	var mu sync.Mutex
	holder := map[int]int{}
	atOnce(t, 12, func(i int) error {
		random := rand.New(rand.NewPCG(uint64(i), 0))
		for {
			c, err := tryNew(t.Context(), w.Ledger, ref, 1+random.IntN(9))
			if err == nil && len(c.Recipients) == 0 {
				c, err = tryDue(t.Context(), w.Ledger, ref, 1+random.IntN(9), everyone)
			}
			if err != nil {
				return err
			}
			if len(c.Recipients) == 0 {
				if tally, err := w.Tally(t.Context(), ref); err != nil || tally.Done() {
					return err
				}
				continue
			}
			mu.Lock()
			for _, n := range numbers(c) {
				if other, held := holder[n]; held {
					t.Errorf("%d was claimed by %d while %d held it", n, i, other)
				}
				holder[n] = i
			}
			mu.Unlock()
			kind := fanfare.OutcomeAccepted
			if random.IntN(2) == 0 {
				kind = fanfare.OutcomeReleased
				mu.Lock()
				for _, n := range numbers(c) {
					delete(holder, n) // before the ledger hears of it
				}
				mu.Unlock()
			}
			if err := w.Settle(t.Context(), ref, c.Call, result(kind)); err != nil {
				return err
			}
		}
	})
	require.Len(t, holder, 300)
	w.balanced()
}

func TestClaimDueTakesWhoIsDueInTheRange(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(12)
	ref := w.running("article-1", 10)
	throttled := result(fanfare.OutcomeThrottled)
	throttled.Outcome.RetryAfter = 30 * time.Second
	waits := w.claimNew(ref, 3) // 1-3 wait half a minute
	require.InDelta(t, 30, w.settleWith(ref, waits.Call, throttled).NextDue.Seconds(), 2)
	ready := w.claimNew(ref, 3) // 4-6 wait no longer
	require.Zero(t, *w.settle(ref, ready.Call, fanfare.OutcomeReleased).NextDue)
	w.claimNew(ref, 1) // 7 is under way, 8-10 were never claimed
	other := fanfare.BatchRef{Publication: ref.Publication, Channel: fanfare.Email, N: 2}
	w.settle(other, w.claimNew(other, 1).Call, fanfare.OutcomeReleased) // 11 is due, in another batch

	for _, c := range []struct {
		name   string
		limit  int
		within fanfare.Range
		want   []int
	}{
		{"nobody is due there", 10, fanfare.Range{First: 1, Last: 3}, []int{}},
		{"not early enough", 10, fanfare.Range{First: 1, Last: 3, DueIn: 10 * time.Second}, []int{}},
		{"early, for the halves of a call", 10, fanfare.Range{First: 2, Last: 3, DueIn: 40 * time.Second}, []int{2, 3}},
		{"in order, as many as asked for", 2, everyone, []int{4, 5}},
		{"the rest", 10, everyone, []int{6}},
		{"nobody is left", 10, everyone, []int{}},
	} {
		claim, err := tryDue(t.Context(), w.Ledger, ref, c.limit, c.within)
		require.NoError(t, err)
		require.Equal(t, c.want, numbers(claim), c.name)
	}
	require.Equal(t, "pending", w.state(ref, 1))
	w.balanced()
}

func TestASecondClaimIsANewCall(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(3)
	ref := w.running("article-1", 10)
	first := w.claimNew(ref, 10)
	w.settle(ref, first.Call, fanfare.OutcomeReleased)
	second := w.claimDue(ref, 10)
	require.NotEqual(t, first.Call, second.Call)
	require.Equal(t, row{State: "sending", Call: string(second.Call)}, w.row(ref, 1))
	require.Greater(t, second.Call, first.Call, "ids of calls order by time")
}

func TestTotalsBalanceWhileManyClaim(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(200)
	ref := w.running("article-1", 20)
	done := make(chan struct{})
	var checks int
	var checked sync.WaitGroup
	checked.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				p, err := w.Publication(t.Context(), ref.Publication)
				if err != nil {
					t.Error(err)
					return
				}
				sum := p.Totals.Unfinished() + p.Totals.Sent + p.Totals.Delivered + p.Totals.Failed + p.Totals.Skipped + p.Totals.Dead
				if p.Totals.Intended != 200 || sum != 200 || p.Totals.Pending < 0 {
					t.Errorf("they do not balance: %+v", p.Totals)
				}
				checks++
			}
		}
	})
	atOnce(t, 10, func(i int) error {
		batch := ref
		batch.N = i + 1
		for {
			c, err := tryNew(t.Context(), w.Ledger, batch, 3)
			if err != nil || len(c.Recipients) == 0 {
				return err
			}
			kinds := slices.Sorted(maps.Keys(everyKind))
			if err := w.Settle(t.Context(), batch, c.Call, result(kinds[i%len(kinds)])); err != nil {
				return err
			}
		}
	})
	close(done)
	checked.Wait()
	require.Positive(t, checks)
	w.balanced()
}

// everyKind are all outcomes and the state they lead to.
var everyKind = map[fanfare.OutcomeKind]string{
	fanfare.OutcomeAccepted: "sent", fanfare.OutcomeRejected: "failed", fanfare.OutcomeThrottled: "pending",
	fanfare.OutcomeUnavailable: "pending", fanfare.OutcomeAmbiguous: "in_doubt", fanfare.OutcomeReleased: "pending",
}

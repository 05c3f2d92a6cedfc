package activities_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/activities"
)

// named gives a played provider another name.
type named struct {
	*provider
	name string
}

func (n named) Name() string { return n.name }

// twoProviders is a desk with a first and a second provider.
func twoProviders(t *testing.T, book *batchBook, first, second *provider) (*desk, *doors) {
	t.Helper()
	d, door := newDesk(t, book, first), &doors{shut: map[string]fanfare.Permit{}}
	second.size, second.takes = 1000, 100*time.Millisecond
	d.Senders = []activities.Sender{named{first, "first"}, named{second, "second"}}
	d.Breaker = door
	return d, door
}

func answer(kind fanfare.OutcomeKind) func(fanfare.Call) fanfare.Reply {
	return func(fanfare.Call) fanfare.Reply { return fanfare.Reply{Outcome: fanfare.Outcome{Kind: kind}} }
}

func TestACallRefusedAsAWholeGoesToTheNextProvider(t *testing.T) {
	virtually(t, func(t *testing.T) {
		for _, kind := range []fanfare.OutcomeKind{fanfare.OutcomeUnavailable, fanfare.OutcomeThrottled} {
			book, first, second := newBatchBook(10_000), &provider{reply: answer(kind)}, &provider{}
			d, door := twoProviders(t, book, first, second)
			result, err := d.send(activities.SendInput{})
			require.NoError(t, err)
			require.EqualValues(t, 10_000, result.Tally.Totals.Sent)
			require.Zero(t, result.Wait)
			require.Len(t, second.numbers(), 10_000)
			require.Len(t, first.calls, 10)
			require.Len(t, door.taken, door.given, "every permit was told what became of it")
			for _, s := range book.settled {
				require.NotEqual(t, fanfare.OutcomeThrottled, s.result.Outcome.Kind, "nobody loses an attempt")
			}
		}
	})
}

func TestDoubtNeverFailsOver(t *testing.T) {
	virtually(t, func(t *testing.T) {
		for _, kind := range []fanfare.OutcomeKind{fanfare.OutcomeAmbiguous, fanfare.OutcomeRejected, fanfare.OutcomeReleased} {
			book, first, second := newBatchBook(1), &provider{reply: answer(kind)}, &provider{}
			d, _ := twoProviders(t, book, first, second)
			if kind == fanfare.OutcomeReleased {
				first.reply = func(call fanfare.Call) fanfare.Reply {
					return fanfare.Reply{Outcome: fanfare.Outcome{Kind: kind}, Named: map[int]fanfare.Outcome{0: {Kind: fanfare.OutcomeRejected, Code: "550"}}}
				}
			}
			_, err := d.send(activities.SendInput{})
			require.NoError(t, err)
			require.Len(t, first.calls, 1, kind)
			require.Empty(t, second.calls, kind)
		}
	})
}

func TestWhenEveryProviderRefusesTheBatchWaits(t *testing.T) {
	virtually(t, func(t *testing.T) {
		book, first, second := newBatchBook(1000), &provider{reply: answer(fanfare.OutcomeUnavailable)}, &provider{reply: answer(fanfare.OutcomeUnavailable)}
		d, door := twoProviders(t, book, first, second)
		second.during = func(context.Context, int) {
			// The breakers open: nobody is called any more.
			door.mu.Lock()
			defer door.mu.Unlock()
			door.shut["first"] = fanfare.Permit{Wait: 10 * time.Second, Why: "first is open"}
			door.shut["second"] = fanfare.Permit{Wait: 3 * time.Second, Why: "second is open"}
		}
		result, err := d.send(activities.SendInput{})
		require.NoError(t, err)
		require.Len(t, first.calls, 1)
		require.Len(t, second.calls, 1)
		require.EqualValues(t, 1000, result.Tally.Totals.Pending)
		require.Equal(t, 3*time.Second, result.Wait, "until the first of them may be called")

		book.claimed, book.recipients = 0, map[fanfare.SubscriberNumber]*recipient{}
		result, err = d.send(activities.SendInput{})
		require.NoError(t, err)
		require.Equal(t, 3*time.Second, result.Wait)
		require.Equal(t, "second is open", result.Why)
		require.EqualValues(t, 1000, result.Tally.Totals.Pending)
		require.Len(t, first.calls, 1, "nobody was claimed, nobody was called")
	})
}

func TestAnOpenBreakerSendsByTheNextProvider(t *testing.T) {
	virtually(t, func(t *testing.T) {
		book, first, second := newBatchBook(3000), &provider{}, &provider{}
		d, door := twoProviders(t, book, first, second)
		door.shut["first"] = fanfare.Permit{Wait: time.Minute, Why: "first is open"}
		result, err := d.send(activities.SendInput{})
		require.NoError(t, err)
		require.EqualValues(t, 3000, result.Tally.Totals.Sent)
		require.Empty(t, first.calls)
		require.Len(t, second.calls, 3)
	})
}

func TestAProbeTakesOneRecipient(t *testing.T) {
	virtually(t, func(t *testing.T) {
		book, p := newBatchBook(3), &provider{}
		d := newDesk(t, book, p)
		d.Breaker = &doors{probe: true}
		result, err := d.send(activities.SendInput{})
		require.NoError(t, err)
		require.EqualValues(t, 3, result.Tally.Totals.Sent)
		require.Len(t, p.calls, 3, "nobody knows what becomes of a probe")
	})
}

func TestAPermitNobodyNeedsIsGivenBack(t *testing.T) {
	virtually(t, func(t *testing.T) {
		book, p := newBatchBook(2), &provider{}
		d, door := newDesk(t, book, p), &doors{}
		d.Breaker = door
		_, err := d.send(activities.SendInput{})
		require.NoError(t, err)
		require.Len(t, door.taken, door.given)
		require.Contains(t, door.taken, fanfare.OutcomeAccepted)
		require.Contains(t, door.taken, fanfare.OutcomeReleased)
	})
}

// Whoever is claimed anew may stand among others who are, and read another locale.
func TestCallsInSeveralLocalesFailOverTogether(t *testing.T) {
	virtually(t, func(t *testing.T) {
		book, first, second := newBatchBook(3000), &provider{reply: answer(fanfare.OutcomeUnavailable)}, &provider{}
		d, door := twoProviders(t, book, first, second)
		d.Planner, d.Settler = localized{book}, unhurried{book}
		result, err := d.send(activities.SendInput{})
		require.NoError(t, err)
		require.EqualValues(t, 3000, result.Tally.Totals.Sent)
		require.Len(t, second.numbers(), 3000)
		require.Len(t, door.taken, door.given, "every permit was told what became of it")
		for _, call := range second.calls {
			for _, r := range call.Recipients {
				require.Equal(t, call.Recipients[0].Number%3, r.Number%3, "each call is in one locale")
			}
		}
	})
}

// A refusal that is known is written, whatever else fails: left to lapse, it would be
// doubt about nothing.
func TestARefusalIsSettledWhenNoOtherProviderCanBeChosen(t *testing.T) {
	virtually(t, func(t *testing.T) {
		book, first, second := newBatchBook(1000), &provider{reply: answer(fanfare.OutcomeUnavailable)}, &provider{}
		d, door := twoProviders(t, book, first, second)
		d.Breaker = broken{door}
		_, err := d.send(activities.SendInput{})
		require.ErrorContains(t, err, fanfare.ErrUnavailable.Error())
		require.Len(t, first.calls, 1)
		require.Equal(t, fanfare.Totals{Intended: 1000, Pending: 1000}, book.tally().Totals)
		require.Equal(t, fanfare.OutcomeUnavailable, book.settled[0].result.Outcome.Kind)
	})
}

// broken cannot say whether the second provider may be called.
type broken struct{ *doors }

func (b broken) Permit(ctx context.Context, provider string) (fanfare.Permit, error) {
	if provider == "second" {
		return fanfare.Permit{}, fanfare.ErrUnavailable
	}
	return b.doors.Permit(ctx, provider)
}

func TestNoOtherProviderIsCalledOnceTheWorkerStops(t *testing.T) {
	virtually(t, func(t *testing.T) {
		book, first, second := newBatchBook(1), &provider{reply: answer(fanfare.OutcomeUnavailable)}, &provider{}
		d, door := twoProviders(t, book, first, second)
		book.settleErr = func(n int) error {
			if n == 1 {
				close(d.stop)
			}
			return nil
		}
		_, err := d.send(activities.SendInput{})
		require.NoError(t, err)
		require.Empty(t, second.calls)
		require.EqualValues(t, 1, book.tally().Totals.Pending)
		require.Len(t, door.taken, door.given, "every permit was told what became of it")
	})
}

// Where nobody takes it, a throttle is heeded as if there were one provider: whoever is
// called in spite of it loses an attempt.
func TestWhenEveryProviderThrottlesTheBatchWaits(t *testing.T) {
	virtually(t, func(t *testing.T) {
		book, first, second := newBatchBook(10_000), &provider{reply: answer(fanfare.OutcomeThrottled)}, &provider{reply: answer(fanfare.OutcomeThrottled)}
		d, door := twoProviders(t, book, first, second)
		result, err := d.send(activities.SendInput{Failures: 1})
		require.NoError(t, err)
		require.LessOrEqual(t, len(second.calls), 4, "the calls that were under way, and none behind them")
		require.Equal(t, 3*time.Second, result.Wait)
		require.EqualValues(t, 10_000, result.Tally.Totals.Pending)
		require.Len(t, door.taken, door.given, "every permit was told what became of it")
	})
}

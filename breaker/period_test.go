package breaker

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
)

var (
	good = fanfare.Outcome{Kind: fanfare.OutcomeAccepted}
	bad  = fanfare.Outcome{Kind: fanfare.OutcomeUnavailable, Code: "503", Detail: "it is away"}
)

func TestFiveFailuresInARowTripHoweverSlowlyTheyCome(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPeriod(time.Now())
		for range 4 {
			require.False(t, p.take(bad))
			<-time.After(15 * time.Second) // as long as a call that hangs
		}
		require.False(t, p.take(good), "not in a row")
		for range 4 {
			require.False(t, p.take(fanfare.Outcome{Kind: fanfare.OutcomeAmbiguous}))
			<-time.After(15 * time.Second)
		}
		require.True(t, p.take(bad))
		require.Equal(t, "5 calls in a row failed, the last: it is away", p.why)
		require.False(t, p.account)
		require.False(t, p.take(bad), "it trips once")
		<-time.After(31 * 24 * time.Hour)
		for range 10 {
			require.False(t, p.take(bad), "nor again by itself")
		}
	})
}

func TestSixInTenOfTwentyCallsTrip(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPeriod(time.Now())
		for i := range 19 {
			require.False(t, p.take(outcome(i)), "of %d calls a share says nothing", i+1)
			<-time.After(450 * time.Millisecond)
		}
		require.True(t, p.take(outcome(19)))
		require.Equal(t, "12 of 20 calls in 10s failed, the last: it is away", p.why)
	})
}

func TestWhatIsBehindTheWindowCountsNoMore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPeriod(time.Now())
		for i := range 200 { // 16 calls in any 10 seconds
			require.False(t, p.take(outcome(i)), i)
			<-time.After(625 * time.Millisecond)
		}
	})
}

func TestHalfOfTheCallsMayFail(t *testing.T) {
	t.Parallel()
	p := newPeriod(time.Now())
	for range 1000 {
		require.False(t, p.take(good))
		require.False(t, p.take(bad))
	}
}

func TestRejectedAndThrottledAreAnswers(t *testing.T) {
	t.Parallel()
	p := newPeriod(time.Now())
	for _, kind := range []fanfare.OutcomeKind{fanfare.OutcomeRejected, fanfare.OutcomeThrottled} {
		for range 30 {
			require.False(t, p.take(fanfare.Outcome{Kind: kind}))
		}
		for range 4 {
			require.False(t, p.take(bad))
		}
	}
}

func TestAFaultOfTheAccountTripsAtOnce(t *testing.T) {
	t.Parallel()
	p := newPeriod(time.Now())
	require.True(t, p.take(fanfare.Outcome{Kind: fanfare.OutcomeUnavailable, Code: "401", Account: true}))
	require.True(t, p.account)
	require.Equal(t, "unavailable (401)", p.why)
	require.False(t, p.take(fanfare.Outcome{Kind: fanfare.OutcomeUnavailable, Account: true}))
}

// outcome of the i-th call, of which three in five fail, the first ones do not.
func outcome(i int) fanfare.Outcome {
	if i%5 < 2 {
		return good
	}
	return bad
}

package ledger_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/ledger"
)

// cooldown are the waits of an ordinary deployment.
var cooldown = []time.Duration{time.Second, 3 * time.Second, 10 * time.Second, 30 * time.Second, 2 * time.Minute}

// registered is a world with the provider sendgrid.
func registered(t testing.TB) *world {
	t.Helper()
	w := newWorld(t)
	require.NoError(t, w.RegisterProviders(t.Context(), []fanfare.Provider{{Name: "sendgrid", Channel: fanfare.Email}}))
	return w
}

func (w *world) provider() fanfare.Provider {
	w.t.Helper()
	list, err := w.Providers(w.t.Context())
	require.NoError(w.t, err)
	require.Len(w.t, list, 1)
	return list[0]
}

// trip opens the breaker under which calls are made at the moment.
func (w *world) trip(reason string, account bool) {
	w.t.Helper()
	require.NoError(w.t, w.Trip(w.t.Context(), "sendgrid", w.provider().Since, reason, account, cooldown))
}

// due moves the next probe's time to now.
func (w *world) due() {
	w.t.Helper()
	require.EqualValues(w.t, 1, w.exec(`UPDATE providers SET probe_at = clock_timestamp() WHERE probe_at IS NOT NULL`))
}

func (w *world) leaseProbe() (lease time.Time, granted bool) {
	w.t.Helper()
	lease, granted, err := w.LeaseProbe(w.t.Context(), "sendgrid")
	require.NoError(w.t, err)
	return lease, granted
}

func (w *world) leased() time.Time {
	w.t.Helper()
	lease, granted := w.leaseProbe()
	require.True(w.t, granted)
	return lease
}

func (w *world) endProbe(lease time.Time, kind fanfare.OutcomeKind) {
	w.t.Helper()
	require.NoError(w.t, w.EndProbe(w.t.Context(), "sendgrid", lease, fanfare.Outcome{Kind: kind, Detail: "as the provider said"}, cooldown))
}

// nextProbe is in how many seconds.
func (w *world) nextProbe() float64 {
	w.t.Helper()
	return one[float64](w, `SELECT round(extract(epoch FROM probe_at - clock_timestamp()), 1)::float8 FROM providers`)
}

func (w *world) openings() int {
	w.t.Helper()
	return one[int](w, `SELECT openings FROM providers`)
}

func TestRegisteringAProviderKeepsWhatIsKnownOfIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	list := []fanfare.Provider{{Name: "smtp", Channel: fanfare.Email}, {Name: "sendgrid", Channel: fanfare.Email}, {Name: "sendgrid-2", Channel: fanfare.Email}}
	atOnce(t, 4, func(int) error { return w.RegisterProviders(t.Context(), list) })
	require.NoError(t, w.OpenProvider(t.Context(), "smtp", true))
	before, err := w.Providers(t.Context())
	require.NoError(t, err)
	require.Len(t, before, 3)
	require.Equal(t, "sendgrid", before[0].Name)
	require.Equal(t, fanfare.Provider{Name: "sendgrid", Channel: fanfare.Email, State: fanfare.BreakerClosed, Since: before[0].Since}, before[0])
	require.Equal(t, fanfare.BreakerOpen, before[2].State)

	require.NoError(t, w.RegisterProviders(t.Context(), list))
	after, err := w.Providers(t.Context())
	require.NoError(t, err)
	require.Equal(t, before, after)

	require.NoError(t, w.RegisterProviders(t.Context(), nil))
	require.ErrorContains(t, w.RegisterProviders(t.Context(), []fanfare.Provider{{Name: "Send Grid", Channel: fanfare.Email}}), "provider_name_is_1_to_100_plain_characters")
}

func TestAProviderNobodyRegisteredIsNotFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	require.ErrorIs(t, w.OpenProvider(t.Context(), "pigeon", false), fanfare.ErrNotFound)
	require.ErrorIs(t, w.CloseProvider(t.Context(), "pigeon", true), fanfare.ErrNotFound)
	_, granted := w.leaseProbe()
	require.False(t, granted)
}

func TestProvidersSayHowManyEventsNamedNoDelivery(t *testing.T) {
	t.Parallel()
	w := registered(t)
	w.exec(`
		INSERT INTO stray_events (digest, provider, type, at, received_at, why)
		SELECT sha256(n::text::bytea), CASE WHEN n < 4 THEN 'sendgrid' ELSE 'another' END, 'opened', now(), now(), 'names no delivery' FROM generate_series(1, 5) n`)
	require.EqualValues(t, 3, w.provider().UnknownEvents)
}

func TestTwoWorkersThatTripAtOnceOpenOnce(t *testing.T) {
	t.Parallel()
	w := registered(t)
	since := w.provider().Since
	release := w.hold(`UPDATE providers SET reason = ''`)
	var wg sync.WaitGroup
	errs := make([]error, 3)
	for i := range errs {
		wg.Go(func() { errs[i] = w.Trip(t.Context(), "sendgrid", since, "5 calls in a row failed", false, cooldown) })
	}
	w.waitingFor(3)
	release()
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	p := w.provider()
	require.Equal(t, fanfare.BreakerOpen, p.State)
	require.Equal(t, "5 calls in a row failed", p.Reason)
	require.False(t, p.Account)
	require.True(t, p.Since.After(since))
	require.Equal(t, 1, w.openings())
	require.InDelta(t, 1, w.nextProbe(), 0.3)
}

func TestALateFailureOpensNothing(t *testing.T) {
	t.Parallel()
	w := registered(t)
	first := w.provider().Since
	w.trip("it was away", false)
	opened := w.provider()

	require.NoError(t, w.Trip(t.Context(), "sendgrid", first, "late", true, cooldown))
	require.NoError(t, w.Trip(t.Context(), "sendgrid", opened.Since, "late", true, cooldown))
	require.Equal(t, opened, w.provider(), "it is open already")

	require.NoError(t, w.CloseProvider(t.Context(), "sendgrid", false))
	require.NoError(t, w.Trip(t.Context(), "sendgrid", first, "late", true, cooldown))
	closed := w.provider()
	require.Equal(t, fanfare.BreakerClosed, closed.State, "it was opened and closed since that call began")
	require.Zero(t, w.openings())

	w.trip("it is away again", false)
	require.Equal(t, fanfare.BreakerOpen, w.provider().State)
}

func TestTheWaitsGrowWithEveryFailedProbeAndTheLastRepeats(t *testing.T) {
	t.Parallel()
	w := registered(t)
	w.trip("it is away", false)
	opened := w.provider().Since
	for i := range len(cooldown) + 2 {
		want := cooldown[min(i, len(cooldown)-1)].Seconds()
		require.InDelta(t, want, w.nextProbe(), 0.3, "after opening %d", i+1)
		_, granted := w.leaseProbe()
		require.False(t, granted, "before its time")
		w.due()
		w.endProbe(w.leased(), fanfare.OutcomeAmbiguous)
		p := w.provider()
		require.Equal(t, fanfare.BreakerOpen, p.State)
		require.Equal(t, "as the provider said", p.Reason)
		require.True(t, p.Since.Equal(opened), "the outage goes on")
	}
}

func TestAfterAFaultOfTheAccountTheWaitIsLonger(t *testing.T) {
	t.Parallel()
	w := registered(t)
	w.trip("the API key was refused: put a valid one into SENDGRID_API_KEY", true)
	require.True(t, w.provider().Account)
	require.InDelta(t, 10, w.nextProbe(), 0.3, "the third")
	w.due()
	lease := w.leased()
	require.True(t, w.provider().Account, "while it is probed too")
	require.NoError(t, w.EndProbe(t.Context(), "sendgrid", lease, fanfare.Outcome{Kind: fanfare.OutcomeRejected, Account: true}, cooldown))
	require.Equal(t, fanfare.BreakerOpen, w.provider().State, "whatever the kind, the account is at fault")
	require.InDelta(t, 10, w.nextProbe(), 0.3)
	w.due()
	w.endProbe(w.leased(), fanfare.OutcomeUnavailable)
	require.False(t, w.provider().Account, "it fails for another reason now")
	require.InDelta(t, 10, w.nextProbe(), 0.3, "the third opening")

	require.NoError(t, w.CloseProvider(t.Context(), "sendgrid", false))
	require.NoError(t, w.Trip(t.Context(), "sendgrid", w.provider().Since, "", true, cooldown[:2]))
	require.InDelta(t, 3, w.nextProbe(), 0.3, "there are only two waits")
}

func TestNoMoreThanThreeProbesAreOut(t *testing.T) {
	t.Parallel()
	w := registered(t)
	_, granted := w.leaseProbe()
	require.False(t, granted, "it is closed")
	w.trip("it is away", false)
	w.due()

	release := w.hold(`UPDATE providers SET reason = 'held'`)
	var mu sync.Mutex
	leases := map[string]bool{}
	var wg sync.WaitGroup
	var failures atomic.Int64
	for range 8 {
		wg.Go(func() {
			lease, granted, err := w.LeaseProbe(t.Context(), "sendgrid")
			if err != nil {
				failures.Add(1)
			}
			if granted {
				mu.Lock()
				defer mu.Unlock()
				leases[lease.String()] = true
			}
		})
	}
	w.waitingFor(8)
	release()
	wg.Wait()
	require.Zero(t, failures.Load())
	require.Len(t, leases, 3, "of eight that asked at the same moment")
	p := w.provider()
	require.Equal(t, fanfare.BreakerHalfOpen, p.State)
	require.Nil(t, p.NextProbe)
}

func TestTheLeaseOfADeadProberLapses(t *testing.T) {
	t.Parallel()
	w := registered(t)
	w.trip("it is away", false)
	w.due()
	lost := w.leased()
	w.leased()
	w.leased()
	require.InDelta(t, 20, one[float64](w, `SELECT extract(epoch FROM probes[1] - clock_timestamp())::float8 FROM providers`), 0.5)
	_, granted := w.leaseProbe()
	require.False(t, granted)

	w.exec(`UPDATE providers SET probes = ARRAY(SELECT p - interval '20 s' FROM unnest(probes) p)`)
	lost = lost.Add(-20 * time.Second)
	second := w.leased()
	w.endProbe(lost, fanfare.OutcomeUnavailable)
	require.Equal(t, fanfare.BreakerHalfOpen, w.provider().State, "another has taken its place: it counts no more")
	w.endProbe(lost, fanfare.OutcomeAccepted)
	w.endProbe(second, fanfare.OutcomeAccepted)
	require.Equal(t, fanfare.BreakerHalfOpen, w.provider().State, "one success, not two")
	w.endProbe(second, fanfare.OutcomeAccepted)
	require.Equal(t, fanfare.BreakerHalfOpen, w.provider().State, "a probe counts once")
	w.endProbe(w.leased(), fanfare.OutcomeRejected)
	require.Equal(t, fanfare.BreakerClosed, w.provider().State, "a rejection is an answer")
}

func TestTwoSuccessesClose(t *testing.T) {
	t.Parallel()
	w := registered(t)
	w.trip("it is away", true)
	opened := w.provider().Since
	w.due()
	a, b, late := w.leased(), w.leased(), w.leased()
	w.endProbe(a, fanfare.OutcomeAccepted)
	require.Equal(t, fanfare.BreakerHalfOpen, w.provider().State)
	w.endProbe(b, fanfare.OutcomeThrottled)
	p := w.provider()
	require.Equal(t, fanfare.Provider{Name: "sendgrid", Channel: fanfare.Email, State: fanfare.BreakerClosed, Since: p.Since, Reason: "it is away"}, p)
	require.True(t, p.Since.After(opened))
	require.Zero(t, w.openings())
	w.endProbe(late, fanfare.OutcomeUnavailable)
	require.Equal(t, p, w.provider(), "what the third probe comes to is late")

	w.trip("it is away again", false)
	require.InDelta(t, 1, w.nextProbe(), 0.3, "the waits begin anew")
}

func TestOneFailedProbeOpensOnceAndTheOthersAreLate(t *testing.T) {
	t.Parallel()
	w := registered(t)
	w.trip("it is away", false)
	w.due()
	leases := []time.Time{w.leased(), w.leased(), w.leased()}
	w.endProbe(leases[0], fanfare.OutcomeAccepted)
	atOnce(t, 2, func(i int) error {
		return w.EndProbe(t.Context(), "sendgrid", leases[1+i], fanfare.Outcome{Kind: fanfare.OutcomeUnavailable}, cooldown)
	})
	require.Equal(t, 2, w.openings(), "two failures, one opening")
	require.InDelta(t, 3, w.nextProbe(), 0.3)

	w.due()
	fresh := w.leased()
	for _, lease := range leases {
		w.endProbe(lease, fanfare.OutcomeAccepted)
	}
	require.Equal(t, fanfare.BreakerHalfOpen, w.provider().State, "probes of the opening before close nothing")
	w.endProbe(fresh, fanfare.OutcomeAccepted)
	require.Equal(t, fanfare.BreakerHalfOpen, w.provider().State, "nor does the success before the failure count")
}

func TestAReleasedProbeGivesItsLeaseBack(t *testing.T) {
	t.Parallel()
	w := registered(t)
	w.trip("it is away", false)
	w.due()
	unused := w.leased()
	w.leased()
	w.leased()
	w.endProbe(unused, fanfare.OutcomeReleased)
	require.Equal(t, fanfare.BreakerHalfOpen, w.provider().State)
	w.leased()
	_, granted := w.leaseProbe()
	require.False(t, granted)
}

func TestAThrottleIsTheLongestThatWasAskedFor(t *testing.T) {
	t.Parallel()
	w := registered(t)
	throttle := func(d time.Duration, why string) fanfare.Breaker {
		require.NoError(t, w.Throttle(t.Context(), "sendgrid", d, why))
		list, err := w.Breakers(t.Context())
		require.NoError(t, err)
		require.Len(t, list, 1)
		return list[0]
	}
	b := throttle(30*time.Second, "the limit of the minute is used up")
	require.InDelta(t, 30, b.ThrottledUntil.Sub(b.ReadAt).Seconds(), 0.5)
	require.Equal(t, "the limit of the minute is used up", b.ThrottledWhy)
	require.Equal(t, fanfare.BreakerClosed, b.State, "it answers")

	b = throttle(time.Second, "shorter")
	require.InDelta(t, 30, b.ThrottledUntil.Sub(b.ReadAt).Seconds(), 0.5)
	require.Equal(t, "the limit of the minute is used up", b.ThrottledWhy)
	b = throttle(time.Minute, "longer")
	require.InDelta(t, 60, b.ThrottledUntil.Sub(b.ReadAt).Seconds(), 0.5)
	require.Equal(t, "longer", b.ThrottledWhy)
	require.NotNil(t, w.provider().ThrottledUntil)

	w.trip("it is away", false)
	w.due()
	_, granted := w.leaseProbe()
	require.False(t, granted, "it is not probed before the time it asked for")
	w.exec(`UPDATE providers SET throttled_until = clock_timestamp()`)
	require.Nil(t, w.provider().ThrottledUntil, "that is over")
	w.leased()

	b = throttle(1<<62, "for ever")
	require.InDelta(t, 86400, b.ThrottledUntil.Sub(b.ReadAt).Seconds(), 0.5, "nobody is waited for longer than a day")
}

func TestWhatAPersonPinnedStays(t *testing.T) {
	t.Parallel()
	w := registered(t)
	ctx := t.Context()
	require.NoError(t, w.OpenProvider(ctx, "sendgrid", true))
	p := w.provider()
	require.Equal(t, fanfare.BreakerOpen, p.State)
	require.True(t, p.Pinned)
	require.Nil(t, p.NextProbe)
	require.Equal(t, "opened by a person", p.Reason)
	_, granted := w.leaseProbe()
	require.False(t, granted)
	require.NoError(t, w.OpenProvider(ctx, "sendgrid", true))
	require.Equal(t, p, w.provider(), "saying it again changes nothing")

	require.NoError(t, w.CloseProvider(ctx, "sendgrid", true))
	p = w.provider()
	require.Equal(t, fanfare.BreakerClosed, p.State)
	require.True(t, p.Pinned)
	w.trip("it is away", true)
	require.Equal(t, p, w.provider(), "calls flow whatever becomes of them")

	require.NoError(t, w.CloseProvider(ctx, "sendgrid", false))
	require.False(t, w.provider().Pinned)
	require.NoError(t, w.Trip(ctx, "sendgrid", p.Since, "a call made while it was pinned", false, cooldown))
	require.Equal(t, fanfare.BreakerClosed, w.provider().State)
	w.trip("it is away", false)
	require.Equal(t, fanfare.BreakerOpen, w.provider().State)
}

func TestWhatAPersonOpensWithoutPinningIsProbed(t *testing.T) {
	t.Parallel()
	w := registered(t)
	ctx := t.Context()
	require.NoError(t, w.OpenProvider(ctx, "sendgrid", false))
	require.InDelta(t, 30, w.nextProbe(), 0.3)
	w.due()
	probe := w.leased()

	require.NoError(t, w.OpenProvider(ctx, "sendgrid", true), "also while it is probed")
	w.endProbe(probe, fanfare.OutcomeAccepted)
	require.True(t, w.provider().Pinned)
	require.NoError(t, w.OpenProvider(ctx, "sendgrid", false))
	require.False(t, w.provider().Pinned)
	require.InDelta(t, 30, w.nextProbe(), 0.3)
	w.due()
	w.endProbe(w.leased(), fanfare.OutcomeUnavailable)
	require.InDelta(t, 3, w.nextProbe(), 0.3, "the second opening in a row")
	w.due()
	w.endProbe(w.leased(), fanfare.OutcomeAccepted)
	w.endProbe(w.leased(), fanfare.OutcomeAccepted)
	require.Equal(t, fanfare.BreakerClosed, w.provider().State)
}

func TestWhatAPersonClosesIsForgiven(t *testing.T) {
	t.Parallel()
	w := registered(t)
	w.trip("the API key was refused", true)
	w.due()
	probe := w.leased()
	require.NoError(t, w.CloseProvider(t.Context(), "sendgrid", false))
	p := w.provider()
	require.Equal(t, fanfare.Provider{Name: "sendgrid", Channel: fanfare.Email, State: fanfare.BreakerClosed, Since: p.Since, Reason: "the API key was refused"}, p)
	w.endProbe(probe, fanfare.OutcomeUnavailable)
	require.Equal(t, p, w.provider())
	require.NoError(t, w.CloseProvider(t.Context(), "sendgrid", false))
	require.Equal(t, p, w.provider(), "saying it again changes nothing")
}

func TestWhereAProviderStandsOutlivesEverybody(t *testing.T) {
	t.Parallel()
	w := registered(t)
	w.trip("it is away", false)
	before := w.provider()
	w.Close()
	w.Ledger = w.open(ledger.Config{})
	require.NoError(t, w.RegisterProviders(t.Context(), []fanfare.Provider{{Name: "sendgrid", Channel: fanfare.Email}}))
	require.Equal(t, before, w.provider())
}

func TestLongWordsOfAProviderAreCut(t *testing.T) {
	t.Parallel()
	w := registered(t)
	long := ""
	for range 1000 {
		long += "ñandú "
	}
	w.trip(long, false)
	require.Len(t, []rune(w.provider().Reason), 500)
	require.NoError(t, w.Throttle(t.Context(), "sendgrid", time.Second, long))
	w.due()
	w.exec(`UPDATE providers SET throttled_until = NULL`)
	require.NoError(t, w.EndProbe(t.Context(), "sendgrid", w.leased(), fanfare.Outcome{Kind: fanfare.OutcomeUnavailable, Detail: long}, cooldown))
}

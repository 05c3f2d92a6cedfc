package breaker_test

import (
	"bytes"
	"context"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/breaker"
	"github.com/fanfare-dev/fanfare/ledger"
	"github.com/fanfare-dev/fanfare/local/localtest"
)

func TestMain(m *testing.M) { os.Exit(localtest.Main(m)) }

// soon is several readings: what a worker must know of the others' doing by then.
const soon = 10 * time.Second

// rest are waits that no test lives to see the end of, unless it moves the clock.
var rest = []time.Duration{time.Minute, time.Hour}

var (
	accepted    = fanfare.Outcome{Kind: fanfare.OutcomeAccepted}
	unavailable = fanfare.Outcome{Kind: fanfare.OutcomeUnavailable, Code: "503", Detail: "it is away"}
	released    = fanfare.Outcome{Kind: fanfare.OutcomeReleased}
)

// world is a database with the provider sendgrid, and what is logged over it.
type world struct {
	*ledger.Ledger
	t   testing.TB
	url string
	db  *pgx.Conn
	log lines
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, url: localtest.Database(t)}
	w.Ledger = w.open()
	var err error
	w.db, err = pgx.Connect(t.Context(), w.url)
	require.NoError(t, err)
	t.Cleanup(func() { w.db.Close(context.Background()) })
	require.NoError(t, w.RegisterProviders(t.Context(), []fanfare.Provider{{Name: "sendgrid", Channel: fanfare.Email}}))
	return w
}

func (w *world) open() *ledger.Ledger {
	w.t.Helper()
	l, err := ledger.Open(w.t.Context(), w.url, 8, ledger.Config{})
	require.NoError(w.t, err)
	w.t.Cleanup(l.Close)
	return l
}

// worker is the breaker of another worker process.
func (w *world) worker() *worker {
	w.t.Helper()
	return w.workerWith(rest)
}

func (w *world) workerWith(cooldown []time.Duration) *worker {
	w.t.Helper()
	b := breaker.New(w.open(), cooldown, slog.New(slog.NewTextHandler(&w.log, nil)))
	ctx, stop := context.WithCancel(w.t.Context())
	var running sync.WaitGroup
	running.Go(func() { b.Run(ctx) })
	w.t.Cleanup(func() { stop(); running.Wait() })
	return &worker{Breaker: b, t: w.t}
}

func (w *world) exec(sql string) {
	w.t.Helper()
	tag, err := w.db.Exec(w.t.Context(), sql)
	require.NoError(w.t, err)
	require.EqualValues(w.t, 1, tag.RowsAffected())
}

// due moves the next probe's time to now.
func (w *world) due() {
	w.t.Helper()
	w.exec(`UPDATE providers SET probe_at = clock_timestamp() WHERE probe_at IS NOT NULL`)
}

func (w *world) provider() fanfare.Provider {
	list, err := w.Providers(w.t.Context())
	require.NoError(w.t, err)
	require.Len(w.t, list, 1)
	return list[0]
}

func (w *world) openings() (n int) {
	w.t.Helper()
	require.NoError(w.t, w.db.QueryRow(w.t.Context(), `SELECT openings FROM providers`).Scan(&n))
	return n
}

type worker struct {
	*breaker.Breaker
	t testing.TB
}

func (w *worker) permit() fanfare.Permit {
	w.t.Helper()
	p, err := w.Permit(w.t.Context(), "sendgrid")
	require.NoError(w.t, err)
	require.Equal(w.t, p.Allowed, p.Done != nil)
	require.Equal(w.t, p.Allowed, p.Wait == 0 && p.Why == "")
	return p
}

func (w *worker) allowed() fanfare.Permit {
	w.t.Helper()
	p := w.permit()
	require.True(w.t, p.Allowed, p.Why)
	require.False(w.t, p.Probe)
	return p
}

func (w *worker) refused() fanfare.Permit {
	w.t.Helper()
	p := w.permit()
	require.False(w.t, p.Allowed)
	return p
}

// call makes n calls, one after the other, that come to o.
func (w *worker) call(n int, o fanfare.Outcome) {
	w.t.Helper()
	for range n {
		w.allowed().Done(o)
	}
}

// probe waits until the worker is given a probe.
func (w *worker) probe() (p fanfare.Permit) {
	w.t.Helper()
	require.Eventually(w.t, func() bool {
		p = w.permit()
		require.Equal(w.t, p.Allowed, p.Probe)
		return p.Allowed
	}, soon, 10*time.Millisecond)
	return p
}

// refusedSoon waits until the worker has heard of what another one did.
func (w *worker) refusedSoon() (p fanfare.Permit) {
	w.t.Helper()
	require.Eventually(w.t, func() bool {
		if p = w.permit(); p.Allowed {
			p.Done(released)
		}
		return !p.Allowed
	}, soon, 10*time.Millisecond)
	return p
}

func (w *worker) allowedSoon() {
	w.t.Helper()
	require.Eventually(w.t, func() bool {
		p := w.permit()
		if p.Allowed {
			require.False(w.t, p.Probe)
			p.Done(released)
		}
		return p.Allowed
	}, soon, 10*time.Millisecond)
}

// lines are what was logged.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(line)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func TestOneWorkerOpensForAll(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.worker(), w.worker()
	b.call(1, accepted)
	a.call(4, unavailable)
	a.call(1, fanfare.Outcome{Kind: fanfare.OutcomeAmbiguous, Detail: "no answer came"})

	refusal := a.refused()
	require.Greater(t, refusal.Wait, 50*time.Second, "the first wait, less what the test took")
	require.LessOrEqual(t, refusal.Wait, time.Minute)
	require.Regexp(t, `^the breaker of sendgrid is open since [\d-]*\s?\d\d:\d\d:\d\d UTC, next probe at [\d-]*\s?\d\d:\d\d:\d\d UTC: 5 calls in a row failed, the last: no answer came$`, refusal.Why)
	other := b.refusedSoon()
	require.Equal(t, refusal.Why, other.Why)
	require.InDelta(t, refusal.Wait.Seconds(), other.Wait.Seconds(), 3)
	require.Equal(t, 1, w.openings())
	require.Contains(t, w.log.String(), "level=WARN")
}

func TestWorkersThatTripTogetherOpenOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	workers := []*worker{w.worker(), w.worker(), w.worker()}
	var last []fanfare.Permit
	for _, worker := range workers {
		worker.call(4, unavailable)
		last = append(last, worker.allowed())
	}
	var calls sync.WaitGroup
	for _, permit := range last {
		calls.Go(func() { permit.Done(unavailable) })
	}
	calls.Wait()
	for _, worker := range workers {
		worker.refusedSoon()
	}
	require.Equal(t, 1, w.openings())
}

func TestProbesAreCountedOverAllWorkersAndCloseForAll(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.worker(), w.worker()
	a.call(5, unavailable)
	b.refusedSoon()
	w.due()

	var mu sync.Mutex
	var probes []fanfare.Permit
	ask := func(worker *worker) {
		p := worker.permit()
		mu.Lock()
		defer mu.Unlock()
		if p.Allowed {
			probes = append(probes, p)
		}
	}
	require.Eventually(t, func() bool {
		var asking sync.WaitGroup
		for range 10 {
			asking.Go(func() { ask(a) })
			asking.Go(func() { ask(b) })
		}
		asking.Wait()
		return len(probes) >= 3
	}, soon, 10*time.Millisecond)
	for range 100 {
		ask(a)
		ask(b)
	}
	require.Len(t, probes, 3, "over both")
	for _, p := range probes {
		require.True(t, p.Probe)
	}
	var refusal fanfare.Permit
	require.Eventually(t, func() bool { refusal = b.refused(); return refusal.Wait == time.Second }, soon, 10*time.Millisecond)
	require.Equal(t, time.Second, a.refused().Wait)
	require.Regexp(t, `^the breaker of sendgrid is half open, and probes are under way; it was opened at .* UTC: 5 calls in a row failed, the last: it is away$`, refusal.Why)

	probes[0].Done(accepted)
	probes[1].Done(accepted)
	a.allowedSoon()
	b.allowedSoon()
	closed := w.provider()
	require.Equal(t, fanfare.BreakerClosed, closed.State)
	probes[2].Done(unavailable)
	a.call(4, unavailable)
	require.Equal(t, closed, w.provider(), "the third probe came late")
	a.call(1, unavailable)
	a.refused()
}

func TestAFailedProbeOpensAgainForLonger(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.worker(), w.worker()
	a.call(5, unavailable)
	w.due()
	a.probe().Done(unavailable)
	refusal := a.refused()
	require.Greater(t, refusal.Wait, 50*time.Minute, "the second wait")
	require.Contains(t, refusal.Why, ": a probe failed: it is away")
	require.Equal(t, refusal.Why, b.refusedSoon().Why)
}

func TestAProbeThatIsNotMadeGoesToAnother(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.worker(), w.worker()
	a.call(5, unavailable)
	b.refusedSoon()
	w.due()
	first := a.probe()
	a.probe()
	a.probe()
	require.Eventually(t, func() bool { return b.refused().Wait == time.Second }, soon, 10*time.Millisecond)
	first.Done(released)
	b.probe().Done(accepted)
	require.Equal(t, fanfare.BreakerHalfOpen, w.provider().State)
	b.probe().Done(accepted)
	require.Equal(t, fanfare.BreakerClosed, w.provider().State)
}

func TestTheProbesOfADeadWorkerLapse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.worker(), w.worker()
	a.call(5, unavailable)
	b.refusedSoon()
	w.due()
	for range 3 {
		a.probe()
	}
	b.refusedSoon()
	w.exec(`UPDATE providers SET probes = ARRAY(SELECT p - interval '20 s' FROM unnest(probes) p)`)
	b.probe().Done(accepted)
	b.probe().Done(accepted)
	b.allowed()
	a.allowedSoon()
}

func TestAThrottledProbeIsAnAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.worker()
	a.call(5, unavailable)
	w.due()
	a.probe().Done(accepted)
	a.probe().Done(fanfare.Outcome{Kind: fanfare.OutcomeThrottled, RetryAfter: time.Minute, Detail: "the limit of the minute is used up"})
	require.Equal(t, fanfare.BreakerClosed, w.provider().State)
	require.Contains(t, a.refused().Why, "the limit of the minute is used up")
}

func TestTheStateSurvivesEverybody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.worker()
	a.call(5, unavailable)
	why := a.refused().Why

	fresh := &worker{Breaker: breaker.New(w.open(), rest, slog.New(slog.NewTextHandler(&w.log, nil))), t: t}
	require.Equal(t, why, fresh.refused().Why, "at the first permit, before any reading of its own")
}

func TestAPersonPinsItOpenAndClosed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.worker(), w.worker()
	a.call(1, accepted)
	require.NoError(t, w.OpenProvider(t.Context(), "sendgrid", true))
	refusal := a.refusedSoon()
	require.Equal(t, 30*time.Second, refusal.Wait)
	require.Regexp(t, `^the breaker of sendgrid is open since .* UTC: a person pinned it, and calls wait until a person closes it$`, refusal.Why)
	require.Equal(t, refusal.Why, b.refusedSoon().Why)

	require.NoError(t, w.CloseProvider(t.Context(), "sendgrid", true))
	a.allowedSoon()
	a.call(30, unavailable)
	a.call(3, fanfare.Outcome{Kind: fanfare.OutcomeUnavailable, Account: true, Detail: "the API key was refused"})
	a.allowed()
	require.Equal(t, fanfare.BreakerClosed, w.provider().State)
	require.Equal(t, 1, strings.Count(w.log.String(), "level=ERROR"), "said once")
	a.call(1, fanfare.Outcome{Kind: fanfare.OutcomeThrottled, RetryAfter: time.Minute})
	require.Contains(t, a.refused().Why, "throttled until", "the time it asks for is given all the same")
	b.refusedSoon()
}

func TestUnpinnedItCountsAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.worker()
	require.NoError(t, w.CloseProvider(t.Context(), "sendgrid", true))
	a.call(30, unavailable)
	require.NoError(t, w.CloseProvider(t.Context(), "sendgrid", false))
	var calls int
	require.Eventually(t, func() bool {
		a.call(1, unavailable)
		calls++
		return !a.permit().Allowed
	}, soon, 200*time.Millisecond)
	require.GreaterOrEqual(t, calls, 5)
	require.Equal(t, fanfare.BreakerOpen, w.provider().State)
}

func TestAFaultOfTheAccountOpensAtOnceAndLoudly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.worker(), w.worker()
	b.call(1, accepted)
	a.call(1, fanfare.Outcome{Kind: fanfare.OutcomeUnavailable, Account: true, Code: "401", Detail: "the API key was refused: put a valid one into SENDGRID_API_KEY"})
	require.Contains(t, a.refused().Why, ": the API key was refused: put a valid one into SENDGRID_API_KEY")
	b.refusedSoon()
	require.True(t, w.provider().Account)
	require.Greater(t, time.Until(*w.provider().NextProbe), 50*time.Minute, "there is no third wait: the last")
	require.Regexp(t, `level=ERROR msg="provider is not called: its account, key or settings are at fault, and a person has to see to it" provider=sendgrid detail="the API key was refused: put a valid one into SENDGRID_API_KEY"`, w.log.String())
}

func TestTheTimeThatAProviderAsksForIsGivenToTheMoment(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.worker(), w.worker()
	b.call(1, accepted)
	begun := a.allowed()
	before := time.Now()
	a.call(1, fanfare.Outcome{Kind: fanfare.OutcomeThrottled, RetryAfter: 10 * time.Minute, Detail: "the limit of the hour is used up"})
	refusal := a.refused()
	require.GreaterOrEqual(t, time.Since(before)+refusal.Wait, 10*time.Minute, "never early")
	require.LessOrEqual(t, refusal.Wait, 10*time.Minute)
	require.Regexp(t, `^sendgrid is throttled until [\d-]*\s?\d\d:\d\d:\d\d UTC: the limit of the hour is used up$`, refusal.Why)

	other := b.refusedSoon()
	require.GreaterOrEqual(t, time.Since(before)+other.Wait, 10*time.Minute, "nor by another worker's clock")
	require.Contains(t, other.Why, "the limit of the hour is used up")

	begun.Done(fanfare.Outcome{Kind: fanfare.OutcomeThrottled, RetryAfter: time.Second, Detail: "shorter"})
	require.Greater(t, a.refused().Wait, 9*time.Minute, "an earlier call's shorter time takes nothing back")
	require.Equal(t, fanfare.BreakerClosed, w.provider().State)
}

func TestWhoIsUnavailableMayAskForTimeToo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.worker(), w.worker()
	a.call(1, fanfare.Outcome{Kind: fanfare.OutcomeUnavailable, Code: "503", RetryAfter: time.Minute, Detail: "it says it is not available"})
	require.Contains(t, a.refused().Why, "throttled until")
	b.refusedSoon()
}

// Calls with one message each are under way by the dozen, and all of them are told the
// same. The others hear of it once, and no result waits for that to be written.
func TestCallsThatAreThrottledTogetherSayItOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	store := &counting{Ledger: w.open()}
	a := &worker{Breaker: breaker.New(store, rest, slog.New(slog.NewTextHandler(&w.log, nil))), t: t}
	b := w.worker()
	b.call(1, accepted)
	permits := make([]fanfare.Permit, 64)
	for i := range permits {
		permits[i] = a.allowed()
	}
	var calls sync.WaitGroup
	for _, permit := range permits {
		calls.Go(func() {
			permit.Done(fanfare.Outcome{Kind: fanfare.OutcomeThrottled, RetryAfter: time.Minute, Detail: "the limit of the minute is used up"})
		})
	}
	calls.Wait()
	require.LessOrEqual(t, store.throttles.Load(), int64(4))
	require.Greater(t, a.refused().Wait, 50*time.Second)
	require.Contains(t, b.refusedSoon().Why, "the limit of the minute is used up")
}

// counting counts the times that a provider asked for, as they are written.
type counting struct {
	*ledger.Ledger

	throttles atomic.Int64
}

func (c *counting) Throttle(ctx context.Context, name string, d time.Duration, why string) error {
	c.throttles.Add(1)
	return c.Ledger.Throttle(ctx, name, d, why)
}

func TestAThrottleEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.worker()
	before := time.Now()
	a.call(1, fanfare.Outcome{Kind: fanfare.OutcomeThrottled, RetryAfter: 300 * time.Millisecond})
	require.GreaterOrEqual(t, a.refused().Wait, 100*time.Millisecond)
	a.allowedSoon()
	require.GreaterOrEqual(t, time.Since(before), 300*time.Millisecond)
	a.call(1, fanfare.Outcome{Kind: fanfare.OutcomeThrottled})
	a.allowed()
}

func TestLateOutcomesMoveNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.worker()
	begun := make([]fanfare.Permit, 30)
	for i := range begun {
		begun[i] = a.allowed()
	}
	a.call(5, unavailable)
	opened := w.provider()
	for _, p := range begun[:10] {
		p.Done(unavailable)
	}
	require.Equal(t, 1, w.openings())
	for _, p := range begun[10:20] {
		p.Done(accepted)
	}
	require.Equal(t, opened, w.provider(), "a success of an old call closes nothing")

	w.due()
	a.probe().Done(accepted)
	a.probe().Done(accepted)
	closed := w.provider()
	require.Equal(t, fanfare.BreakerClosed, closed.State)
	begun[20].Done(fanfare.Outcome{Kind: fanfare.OutcomeUnavailable, Account: true})
	for _, p := range begun[21:] {
		p.Done(unavailable)
	}
	require.Equal(t, closed, w.provider(), "failures of calls from before it was opened are old news")
	a.call(4, unavailable)
	a.allowed()
}

func TestReleasedCallsSayNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.worker()
	a.call(4, unavailable)
	a.call(20, released)
	a.allowed()
	a.call(1, unavailable)
	a.refused()
}

func TestAProviderNobodyRegisteredIsNotFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.worker()
	_, err := a.Permit(t.Context(), "smtp")
	require.ErrorIs(t, err, fanfare.ErrNotFound)
	require.NoError(t, w.RegisterProviders(t.Context(), []fanfare.Provider{{Name: "smtp", Channel: fanfare.Email}}))
	p, err := a.Permit(t.Context(), "smtp")
	require.NoError(t, err)
	require.True(t, p.Allowed)
	for range 5 {
		p, err = a.Permit(t.Context(), "smtp")
		require.NoError(t, err)
		p.Done(unavailable)
	}
	a.allowed()
	p, err = a.Permit(t.Context(), "smtp")
	require.NoError(t, err)
	require.False(t, p.Allowed, "each provider has a breaker of its own")
}

func TestAClosedBreakerAsksNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.open()
	b := &worker{Breaker: breaker.New(l, rest, slog.New(slog.NewTextHandler(&w.log, nil))), t: t}
	b.call(1, accepted)
	l.Close() // and with it every connection
	b.call(1000, accepted)
	_, err := breaker.New(l, rest, slog.New(slog.NewTextHandler(&w.log, nil))).Permit(t.Context(), "sendgrid")
	require.Error(t, err, "nothing is known yet")
}

func TestWhatCannotBeWrittenIsWrittenLater(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.worker(), w.worker()
	b.call(1, accepted)
	a.call(4, unavailable)
	last := a.allowed()
	tx, err := w.db.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `LOCK TABLE providers IN ACCESS EXCLUSIVE MODE`)
	require.NoError(t, err)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	last.Done(unavailable)
	p, err := a.Permit(ctx, "sendgrid")
	require.NoError(t, err)
	require.False(t, p.Allowed)
	require.Equal(t, time.Second, p.Wait)
	require.Equal(t, "the breaker of sendgrid is about to open: 5 calls in a row failed, the last: it is away", p.Why)
	b.call(10, accepted)
	require.Contains(t, w.log.String(), "breaker trips and cannot be written, trying again every second")

	require.NoError(t, tx.Rollback(t.Context()))
	b.refusedSoon()
	require.Equal(t, 1, w.openings())
}

func TestAReadingThatHangsHoldsNobodyUpForLong(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tx, err := w.db.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `LOCK TABLE providers IN ACCESS EXCLUSIVE MODE`)
	require.NoError(t, err)
	b := breaker.New(w.open(), rest, slog.New(slog.NewTextHandler(&w.log, nil)))
	before := time.Now()
	var asking sync.WaitGroup
	errs := make([]error, 10)
	for i := range errs {
		asking.Go(func() { _, errs[i] = b.Permit(t.Context(), "sendgrid") })
	}
	asking.Wait()
	for _, err := range errs {
		require.ErrorIs(t, err, fanfare.ErrUnavailable)
	}
	require.Less(t, time.Since(before), 9*time.Second, "they wait for the same one")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = b.Permit(ctx, "sendgrid")
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, tx.Rollback(t.Context()))
	p, err := b.Permit(t.Context(), "sendgrid")
	require.NoError(t, err)
	require.True(t, p.Allowed)
}

// Several workers call, all at once, a provider that comes and goes. Whatever
// they do, no more than three of them probe it at a time, no write is refused, and in the
// end calls flow.
func TestAStormOfCallsKeepsTheRules(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const people, calls = 4, 400
	workers := make([]*worker, 3)
	for i := range workers {
		workers[i] = w.workerWith([]time.Duration{time.Millisecond, 20 * time.Millisecond})
	}
	var made atomic.Int64
	var mu sync.Mutex
	var probing, most int
	answer := func(random *rand.Rand) fanfare.Outcome {
		switch n := made.Add(1); {
		case n/150%2 == 0 && random.IntN(10) > 0: // mostly there for a while, then mostly away
			return accepted
		case random.IntN(5) == 0:
			return released
		case random.IntN(50) == 0:
			return fanfare.Outcome{Kind: fanfare.OutcomeThrottled, RetryAfter: time.Millisecond}
		}
		return unavailable
	}
	var storm sync.WaitGroup
	errs := make([]error, len(workers)*people)
	for i := range errs {
		storm.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 7))
			for made.Load() < calls && errs[i] == nil {
				p, err := workers[i%len(workers)].Permit(t.Context(), "sendgrid")
				switch {
				case err != nil:
					errs[i] = err
				case !p.Allowed:
					<-time.After(10 * time.Millisecond)
				case p.Probe:
					mu.Lock()
					probing++
					most = max(most, probing)
					mu.Unlock()
					<-time.After(time.Duration(random.IntN(10)) * time.Millisecond)
					mu.Lock()
					probing--
					mu.Unlock()
					p.Done(answer(random))
				default:
					p.Done(answer(random))
				}
			}
		})
	}
	storm.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	require.Positive(t, most)
	require.LessOrEqual(t, most, 3)
	require.NotContains(t, w.log.String(), "cannot be")
	for _, worker := range workers {
		require.Eventually(t, func() bool {
			p := worker.permit()
			if p.Allowed {
				p.Done(accepted)
			}
			return p.Allowed && !p.Probe
		}, soon, 10*time.Millisecond)
	}
	require.Equal(t, fanfare.BreakerClosed, w.provider().State)
}

func BenchmarkPermitAndDoneClosed(b *testing.B) {
	w := newWorld(b)
	a := w.worker()
	a.call(1, accepted)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			p, err := a.Permit(b.Context(), "sendgrid")
			if err != nil || !p.Allowed {
				b.Fatal(err, p.Why)
			}
			p.Done(accepted)
		}
	})
}

// Package breaker decides whether a provider may be called now.
//
// It owns each worker's count of what its calls came to, and the words in which
// a refusal is told. Where a provider stands is in the ledger, one row for all workers,
// and outlives them; this package reads it every second and writes it when
// something changes, never for a call that went as usual. It never calls a provider, and knows
// nothing of recipients, Temporal or SQL.
//
// It promises:
//
//   - A provider that one worker found failing is left alone by all of them
//     about a second later, and by that worker at once.
//   - An open breaker lets single calls through to see, so many as the ledger
//     leases over all workers and no more, and closes when they succeed.
//   - The time that a provider asked for is given to the moment; by workers that it did
//     not ask, to a quarter of a second.
//   - What a person pinned stays until a person changes it.
//   - A call that began before the breaker was opened or closed does not move it.
package breaker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	fanfare "github.com/fanfare-dev/fanfare"
)

const (
	// readEvery is how often the rows are read: the longest that a worker calls
	// a provider that another one gave up.
	readEvery = time.Second
	// readWithin bounds a reading, so that one that hangs does not end them all.
	readWithin = 5 * time.Second
	// writeWithin bounds how long the end of a call waits for the row to be written.
	writeWithin = 2 * time.Second
	// sameThrottle is how far the ends of times that a provider asked for may lie apart
	// and count as one, which is written once: calls with one message each are under way by
	// the hundred, and all of them are told. The worker that was told gives the last.
	sameThrottle = 250 * time.Millisecond
	// shortestWait keeps who is refused from asking again at once.
	shortestWait = 100 * time.Millisecond
	// askAgain is the wait when somebody else finds out: their calls take about a second.
	askAgain = time.Second
	// pinnedWait is the wait when only a person can change it. Waiting batches
	// look at the ledger as often anyway.
	pinnedWait = 30 * time.Second
)

// Store is where all providers stand, for all workers. The ledger is one.
type Store interface {
	Switch
	Probes
}

// Switch reads the rows and opens breakers.
type Switch interface {
	Breakers(ctx context.Context) ([]fanfare.Breaker, error)
	Trip(ctx context.Context, name string, since time.Time, reason string, account bool, cooldown []time.Duration) error
	Throttle(ctx context.Context, name string, d time.Duration, why string) error
}

// Probes hands out the calls that find out whether a provider is back.
type Probes interface {
	LeaseProbe(ctx context.Context, name string) (lease time.Time, granted bool, err error)
	EndProbe(ctx context.Context, name string, lease time.Time, o fanfare.Outcome, cooldown []time.Duration) error
}

// Breaker answers for all providers of one worker process. It is safe for
// concurrent use.
type Breaker struct {
	store    Store
	cooldown []time.Duration
	log      *slog.Logger

	// reading is held from before the rows are read until they are taken over:
	// an older reading never overwrites a newer one. A channel, because whoever
	// waits for it has a deadline.
	reading  chan struct{}
	failure  error // of the last reading; under reading, as is failedAt
	failedAt time.Time

	mu        sync.Mutex
	providers map[string]*provider
}

// New makes the breakers of a worker process. cooldown are the waits between a
// breaker's opening and its first probe: the first after the first opening, the next
// when its probes failed, and so on; the last repeats. It needs at least one.
func New(store Store, cooldown []time.Duration, log *slog.Logger) *Breaker {
	return &Breaker{store: store, cooldown: cooldown, log: log, reading: make(chan struct{}, 1), providers: map[string]*provider{}}
}

// Run reads the rows every second until ctx ends, and writes what could not be
// written when it happened. While PostgreSQL is away, what is known stays.
func (b *Breaker) Run(ctx context.Context) {
	tick := time.NewTicker(readEvery)
	defer tick.Stop()
	for {
		b.tripAgain(ctx)
		_ = b.read(ctx) // logged there; the next one comes in a second
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Permit answers whether a provider may be called now. One that is allowed is
// for one call, and its Done must be told once what that came to. On most calls neither
// asks the database anything; Done does when it changes where the provider stands, and
// does not mind that ctx has ended. A name that nobody registered is
// fanfare.ErrNotFound; when PostgreSQL is away and has to be asked it is fanfare.ErrUnavailable.
func (b *Breaker) Permit(ctx context.Context, name string) (fanfare.Permit, error) {
	if err := b.know(ctx, name); err != nil {
		return fanfare.Permit{}, err
	}
	permit, mayProbe := b.look(ctx, name)
	if !mayProbe {
		return permit, nil
	}
	lease, granted, err := b.store.LeaseProbe(ctx, name)
	switch {
	case err != nil:
		return fanfare.Permit{}, err
	case granted:
		return fanfare.Permit{Allowed: true, Probe: true, Done: func(o fanfare.Outcome) { b.probed(ctx, name, lease, o) }}, nil
	}
	// All probes are out, or another worker or a person was faster.
	b.askLater(name, time.Now().Add(askAgain))
	_ = b.read(ctx) // logged there; what is known will do
	permit, _ = b.look(ctx, name)
	return permit, nil
}

// look answers from what is known. The permit is a refusal also when a probe
// may be asked for.
func (b *Breaker) look(ctx context.Context, name string) (permit fanfare.Permit, mayProbe bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p, now := b.providers[name], time.Now()
	wait, mayProbe := p.wait(now)
	if wait > 0 {
		return fanfare.Permit{Wait: max(wait, shortestWait), Why: p.refusal(now)}, mayProbe
	}
	in := p.period
	return fanfare.Permit{Allowed: true, Done: func(o fanfare.Outcome) { b.ended(ctx, name, in, o) }}, false
}

// ended takes in what a call came to that was made while the breaker was closed.
func (b *Breaker) ended(ctx context.Context, name string, in *period, o fanfare.Outcome) {
	if o.Kind == fanfare.OutcomeReleased {
		return
	}
	b.heed(ctx, name, o)
	if b.count(name, in, o) {
		b.trip(ctx, name, in)
	}
}

// count reports whether the outcome trips the breaker.
func (b *Breaker) count(name string, in *period, o fanfare.Outcome) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.providers[name]
	switch {
	case p.period != in: // the call began before the breaker was opened or closed
		return false
	case !p.row.Pinned:
		return in.take(o)
	case o.Account && !in.told:
		in.told = true
		b.log.Error("provider fails and is pinned closed: its account, key or settings are at fault, and a person has to see to it", "provider", name, "detail", sentence(o))
	}
	return false
}

// trip writes that the breaker is open. This worker makes no calls from now on
// in any case.
func (b *Breaker) trip(ctx context.Context, name string, in *period) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeWithin)
	defer cancel()
	if err := b.store.Trip(ctx, name, in.since, in.why, in.account, b.cooldown); err != nil {
		b.log.Warn("breaker trips and cannot be written, trying again every second", "provider", name, "reason", in.why, "error", err)
		return
	}
	_ = b.read(ctx) // logged there; until the next one nothing is let through
}

// tripAgain writes what tripped while PostgreSQL was away.
func (b *Breaker) tripAgain(ctx context.Context) {
	tripped := map[string]*period{}
	b.mu.Lock()
	for name, p := range b.providers {
		if p.period != nil && p.period.tripped {
			tripped[name] = p.period
		}
	}
	b.mu.Unlock()
	for name, in := range tripped {
		b.trip(ctx, name, in)
	}
}

// heed leaves the provider alone for as long as it asked: this worker at once,
// the others when they read it.
func (b *Breaker) heed(ctx context.Context, name string, o fanfare.Outcome) {
	if o.Kind != fanfare.OutcomeThrottled && o.Kind != fanfare.OutcomeUnavailable || o.RetryAfter <= 0 {
		return
	}
	b.mu.Lock()
	news := b.providers[name].throttle(time.Now().Add(o.RetryAfter), sentence(o))
	b.mu.Unlock()
	if !news {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeWithin)
	defer cancel()
	if err := b.store.Throttle(ctx, name, o.RetryAfter, sentence(o)); err != nil {
		b.log.Warn("provider asks for time and that cannot be written, other workers will have to be told by it", "provider", name, "error", err)
	}
}

// probed takes in what a probe came to.
func (b *Breaker) probed(ctx context.Context, name string, lease time.Time, o fanfare.Outcome) {
	b.heed(ctx, name, o)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeWithin)
	defer cancel()
	if o.BlamesProvider() {
		o.Detail = "a probe failed: " + sentence(o)
	}
	if err := b.store.EndProbe(ctx, name, lease, o, b.cooldown); err != nil {
		b.log.Warn("probe cannot be reported, its lease will lapse", "provider", name, "error", err)
		return
	}
	b.askLater(name, time.Time{})
	_ = b.read(ctx) // logged there; the next one comes in a second
}

func (b *Breaker) askLater(name string, at time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.providers[name].askAt = at
}

// know reads the rows if the provider is not among what is known: before the
// first permit, and when it was registered a moment ago.
func (b *Breaker) know(ctx context.Context, name string) error {
	if b.knows(name) {
		return nil
	}
	if err := b.read(ctx); err != nil {
		return err
	}
	if b.knows(name) {
		return nil
	}
	return fmt.Errorf("permit to call %s: it is not registered: %w", name, fanfare.ErrNotFound)
}

func (b *Breaker) knows(name string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.providers[name] != nil
}

// read takes over where all providers stand. It logs what changed, and the
// first of several failures in a row.
func (b *Breaker) read(ctx context.Context) error {
	asked := time.Now()
	ctx, cancel := context.WithTimeout(ctx, readWithin)
	defer cancel()
	select {
	case b.reading <- struct{}{}:
		defer func() { <-b.reading }()
	case <-ctx.Done():
		return fmt.Errorf("read breakers, behind a reading that hangs: %w", errors.Join(fanfare.ErrUnavailable, ctx.Err()))
	}
	// Those who wait behind a reading that fails do not each try it again.
	if b.failedAt.After(asked) {
		return b.failure
	}
	rows, err := b.store.Breakers(ctx)
	switch {
	case errors.Is(err, context.Canceled): // nobody else's business
		return err
	case err != nil:
		if b.failure == nil {
			b.log.Warn("breakers cannot be read, going by what is known", "error", err)
		}
		b.failure, b.failedAt = err, time.Now()
		return err
	}
	b.failure, b.failedAt = nil, time.Time{}
	b.learn(rows)
	return nil
}

func (b *Breaker) learn(rows []fanfare.Breaker) {
	b.mu.Lock()
	defer b.mu.Unlock()
	// Taken behind the reading: a worker's waits end a moment late and never early.
	now := time.Now()
	for _, row := range rows {
		p := b.providers[row.Name]
		if p == nil {
			p = &provider{}
			b.providers[row.Name] = p
		}
		if p.learn(row, now) {
			b.report(row)
		}
	}
}

// report logs a change. Nobody reads everything: what asks for a person is an
// error, and says what to do.
func (b *Breaker) report(row fanfare.Breaker) {
	switch {
	case row.State == fanfare.BreakerOpen && row.Pinned:
		b.log.Warn("provider is not called, a person pinned its breaker open", "provider", row.Name)
	case row.State == fanfare.BreakerOpen && row.Account:
		b.log.Error("provider is not called: its account, key or settings are at fault, and a person has to see to it", "provider", row.Name, "detail", row.Reason, "next_probe", row.NextProbe)
	case row.State == fanfare.BreakerOpen:
		b.log.Warn("provider is not called, its breaker is open", "provider", row.Name, "reason", row.Reason, "next_probe", row.NextProbe)
	case row.State == fanfare.BreakerHalfOpen:
		b.log.Info("provider is being probed", "provider", row.Name)
	default:
		b.log.Info("provider is called, its breaker is closed", "provider", row.Name, "pinned", row.Pinned)
	}
}

package ledger

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	fanfare "github.com/fanfare-dev/fanfare"
)

const (
	// maxProbes are out at once, over all workers. Two have to succeed; one
	// more keeps a worker that died with its probe from holding the others up.
	// The constraint a_breaker_has_at_most_3_probes knows it too.
	maxProbes = 3
	// probeSuccesses close a breaker. One may be luck: of a provider that fails
	// six calls in ten, which is what opens a breaker, four single probes in ten succeed,
	// but only one pair in six.
	probeSuccesses = 2
	// probeWithin is when the lease of a probe lapses: a call's longest life and
	// time to report it, so that a probe is never taken for lost while it runs.
	probeWithin = callWithin + 5*time.Second
	// accountStep is the first wait, counted from one, after a fault of the
	// account: a person has to see to it, and persons are not back in a second.
	accountStep = 3
	// restWithin is when a breaker that a person opened, without pinning it, is
	// probed: as soon as every waiting batch has looked at the ledger again.
	restWithin = 30 * time.Second
	// maxThrottle is the longest a provider is taken at its word: as long as a
	// publication lives by default. Who says more has made a mistake.
	maxThrottle = 24 * time.Hour
	// maxSentence is how many characters of a provider's own words are kept.
	maxSentence = 500
)

// RegisterProviders makes the rows of providers that have none yet, closed. Of
// each, Name and Channel are read. What is known of a provider stays.
func (l *Ledger) RegisterProviders(ctx context.Context, list []fanfare.Provider) error {
	names, channels := make([]string, len(list)), make([]string, len(list))
	for i, p := range list {
		names[i], channels[i] = p.Name, string(p.Channel)
	}
	// In one order, so that workers that start together do not deadlock.
	_, err := l.pool.Exec(ctx, `
		INSERT INTO providers (provider, channel)
		SELECT DISTINCT ON (name) name, channel::channel FROM unnest($1::text[], $2::text[]) AS n (name, channel) ORDER BY name
		ON CONFLICT (provider) DO UPDATE SET channel = excluded.channel WHERE providers.channel <> excluded.channel`, names, channels)
	return failed("register providers", err)
}

// Providers lists every provider ever registered, by channel and name, for
// people. It counts all events that named no delivery.
func (l *Ledger) Providers(ctx context.Context) ([]fanfare.Provider, error) {
	rows, err := l.pool.Query(ctx, `
		SELECT provider, channel, state, pinned, since, probe_at,
		  CASE WHEN throttled_until > clock_timestamp() THEN throttled_until END, account, reason, COALESCE(s.unknown, 0)
		FROM providers LEFT JOIN (SELECT provider, count(*) AS unknown FROM stray_events GROUP BY 1) s USING (provider)
		ORDER BY channel, provider`)
	if err != nil {
		return nil, failed("list providers", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[fanfare.Provider])
	return list, failed("list providers", err)
}

// Breakers is Providers for workers, who ask every second: by the database's
// clock, and without counting events.
func (l *Ledger) Breakers(ctx context.Context) ([]fanfare.Breaker, error) {
	rows, err := l.pool.Query(ctx, `
		SELECT provider, channel, state, pinned, since, probe_at, throttled_until, account, reason, throttled_why, clock_timestamp() FROM providers`)
	if err != nil {
		return nil, failed("read breakers", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (fanfare.Breaker, error) {
		var b fanfare.Breaker
		err := row.Scan(&b.Name, &b.Channel, &b.State, &b.Pinned, &b.Since, &b.NextProbe, &b.ThrottledUntil, &b.Account, &b.Reason, &b.ThrottledWhy, &b.ReadAt)
		return b, err
	})
	return list, failed("read breakers", err)
}

// cooldownSQL is the wait after the opening that is being written: waits are
// seconds, the first after the first opening, the last after all further ones.
const cooldownSQL = `make_interval(secs => (@cooldown::float8[])[LEAST(GREATEST(openings + 1, CASE WHEN @account THEN @account_step ELSE 1 END), cardinality(@cooldown::float8[]))])`

func opening(name, reason string, account bool, cooldown []time.Duration) pgx.NamedArgs {
	waits := make([]float64, len(cooldown))
	for i, d := range cooldown {
		waits[i] = seconds(d)
	}
	return pgx.NamedArgs{"name": name, "reason": reason, "account": account, "cooldown": waits, "account_step": accountStep, "max": maxSentence}
}

// Trip opens a closed breaker. since is the Since of the closed breaker under
// which the calls were made: if it was opened since then, by another worker or
// another cause, or a person has pinned it, nothing happens. cooldown are the waits until
// the first probe, after the first opening in a row, the second and so on; the last
// repeats. After a fault of the account it is at least the third.
func (l *Ledger) Trip(ctx context.Context, name string, since time.Time, reason string, account bool, cooldown []time.Duration) error {
	args := opening(name, reason, account, cooldown)
	args["since"] = since
	_, err := l.pool.Exec(ctx, `
		UPDATE providers SET state = 'open', since = clock_timestamp(), openings = openings + 1,
		  probe_at = clock_timestamp() + `+cooldownSQL+`, account = @account, reason = left(@reason, @max)
		WHERE provider = @name AND state = 'closed' AND NOT pinned AND since = @since`, args)
	return failed("open the breaker of "+name, err)
}

// LeaseProbe asks for one call to a provider whose breaker is open and due to be
// probed, or half open. At most three are out at once; a lease whose end is not reported lapses
// after 20 seconds. The lease goes to EndProbe.
func (l *Ledger) LeaseProbe(ctx context.Context, name string) (lease time.Time, granted bool, err error) {
	// Each part sees the row as it is behind the lock: the condition is looked at
	// again if somebody changed it meanwhile.
	const held = `ARRAY(SELECT p FROM unnest(probes) p WHERE p > clock_timestamp() ORDER BY p)`
	rows, err := l.pool.Query(ctx, `
		UPDATE providers SET state = 'half_open', probe_at = NULL,
		  probes = `+held+` || GREATEST(clock_timestamp() + make_interval(secs => $2), probes[cardinality(probes)] + interval '1 microsecond')
		WHERE provider = $1 AND NOT pinned AND (state = 'half_open' OR (state = 'open' AND probe_at <= clock_timestamp()))
		  AND COALESCE(throttled_until <= clock_timestamp(), true) AND cardinality(`+held+`) < $3
		RETURNING probes[cardinality(probes)]`, name, seconds(probeWithin), maxProbes)
	if err != nil {
		return lease, false, failed("lease a probe of "+name, err)
	}
	leases, err := pgx.CollectRows(rows, pgx.RowTo[time.Time])
	if err != nil || len(leases) == 0 {
		return lease, false, failed("lease a probe of "+name, err)
	}
	return leases[0], true, nil
}

// EndProbe tells what a leased call came to. Two successes close the breaker, a
// failure opens it again for the next of the waits in cooldown, a released call
// gives its lease back. A lease that counts no more changes nothing: it lapsed and
// went to another, or other probes have opened or closed the breaker.
func (l *Ledger) EndProbe(ctx context.Context, name string, lease time.Time, o fanfare.Outcome, cooldown []time.Duration) error {
	const mine = ` WHERE provider = @name AND state = 'half_open' AND @lease = ANY (probes)`
	args := opening(name, o.Detail, o.Account, cooldown)
	args["lease"], args["enough"] = lease, probeSuccesses
	sql := `
		UPDATE providers SET (state, since, openings, successes, probes, account) = (
		  SELECT 'half_open'::breaker_state, since, openings, successes + 1, array_remove(probes, @lease), account WHERE successes + 1 < @enough
		  UNION ALL SELECT 'closed', clock_timestamp(), 0, 0, '{}', false WHERE successes + 1 >= @enough)`
	switch {
	case o.BlamesProvider():
		sql = `
			UPDATE providers SET state = 'open', openings = openings + 1, probe_at = clock_timestamp() + ` + cooldownSQL + `,
			  probes = '{}', successes = 0, account = @account, reason = left(@reason, @max)`
	case o.Kind == fanfare.OutcomeReleased:
		sql = `UPDATE providers SET probes = array_remove(probes, @lease)`
	}
	_, err := l.pool.Exec(ctx, sql+mine, args)
	return failed("end a probe of "+name, err)
}

// Throttle leaves the provider alone for d from now, because it asked for that
// with the words why; or for longer, where it asked for longer before.
func (l *Ledger) Throttle(ctx context.Context, name string, d time.Duration, why string) error {
	_, err := l.pool.Exec(ctx, `
		UPDATE providers SET throttled_until = clock_timestamp() + make_interval(secs => $2), throttled_why = left($3, $4)
		WHERE provider = $1 AND COALESCE(throttled_until < clock_timestamp() + make_interval(secs => $2), true)`,
		name, seconds(min(d, maxThrottle)), why, maxSentence)
	return failed("throttle "+name, err)
}

// OpenProvider stops calls to a provider because a person says so. With pin they
// stay stopped until a person says otherwise. Without, and unpinning it where it was,
// it is probed after 30 seconds and closes when it is healthy. A name that nobody
// registered is fanfare.ErrNotFound.
func (l *Ledger) OpenProvider(ctx context.Context, name string, pin bool) error {
	return l.decide(ctx, "open provider "+name, `
		UPDATE providers SET state = 'open', pinned = $2, openings = GREATEST(openings, 1), probes = '{}', successes = 0,
		  since = CASE WHEN state = 'closed' OR pinned <> $2 THEN clock_timestamp() ELSE since END,
		  probe_at = CASE WHEN NOT $2 THEN clock_timestamp() + make_interval(secs => $3) END,
		  reason = CASE WHEN state = 'closed' THEN 'opened by a person' ELSE reason END
		WHERE provider = $1`, name, pin, seconds(restWithin))
}

// CloseProvider lets calls flow because a person says so. With pin they flow
// whatever becomes of them. Without, and unpinning it where it was, the breaker
// opens again when they fail. Time that the provider asked for is still given. A name that
// nobody registered is fanfare.ErrNotFound.
func (l *Ledger) CloseProvider(ctx context.Context, name string, pin bool) error {
	return l.decide(ctx, "close provider "+name, `
		UPDATE providers SET state = 'closed', pinned = $2, openings = 0, probes = '{}', successes = 0, probe_at = NULL, account = false,
		  since = CASE WHEN state <> 'closed' OR pinned <> $2 THEN clock_timestamp() ELSE since END
		WHERE provider = $1`, name, pin)
}

func (l *Ledger) decide(ctx context.Context, op, sql string, args ...any) error {
	tag, err := l.pool.Exec(ctx, sql, args...)
	if err == nil && tag.RowsAffected() == 0 {
		err = fmt.Errorf("no provider of that name was ever registered: %w", fanfare.ErrNotFound)
	}
	return failed(op, err)
}

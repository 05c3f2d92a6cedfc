package breaker

import (
	"fmt"
	"time"

	fanfare "github.com/fanfare-dev/fanfare"
)

// provider is where one provider stands, as this worker knows it. Its own times
// are by the worker's clock.
type provider struct {
	row          fanfare.Breaker
	skew         time.Duration // by how much the database's clock is ahead
	probeAt      time.Time
	throttled    time.Time
	throttledWhy string
	told         time.Time // the throttled that all workers can read
	askAt        time.Time // all probes are out: do not ask again before
	period       *period   // nil unless the breaker is closed
}

// learn takes the row over and reports whether it says something new.
func (p *provider) learn(row fanfare.Breaker, now time.Time) (news bool) {
	was := p.row
	p.row, p.skew, p.probeAt = row, row.ReadAt.Sub(now), time.Time{}
	if row.NextProbe != nil {
		p.probeAt = row.NextProbe.Add(-p.skew)
	}
	if until := row.ThrottledUntil; until != nil && (was.ThrottledUntil == nil || !until.Equal(*was.ThrottledUntil)) {
		p.throttle(until.Add(-p.skew), row.ThrottledWhy)
	}
	switch {
	case row.State != fanfare.BreakerClosed:
		p.period = nil
	case p.period == nil || !p.period.since.Equal(row.Since):
		p.period = newPeriod(row.Since)
	}
	if was.State == "" { // a worker has started: only what is not as usual is news
		return row.State != fanfare.BreakerClosed || row.Pinned
	}
	reopened := row.NextProbe != nil && was.NextProbe != nil && !row.NextProbe.Equal(*was.NextProbe)
	return row.State != was.State || row.Pinned != was.Pinned || reopened
}

// throttle reports whether that is longer than all workers can read, by more than the
// answers lie apart that calls get which were under way together.
func (p *provider) throttle(until time.Time, why string) (news bool) {
	if !until.After(p.throttled) {
		return false
	}
	p.throttled, p.throttledWhy = until, why
	if news = until.Sub(p.told) > sameThrottle; news {
		p.told = until
	}
	return news
}

// wait is how long not to call; zero says that calls flow. With mayProbe the
// ledger may have a probe to give.
func (p *provider) wait(now time.Time) (wait time.Duration, mayProbe bool) {
	switch {
	case p.row.State == fanfare.BreakerOpen && p.row.Pinned:
		return pinnedWait, false
	case now.Before(p.throttled):
		return p.throttled.Sub(now), false
	case p.row.State == fanfare.BreakerClosed && !p.period.tripped:
		return 0, false
	case p.row.State == fanfare.BreakerClosed: // tripped and not yet written
		return askAgain, false
	case now.Before(p.probeAt):
		return p.probeAt.Sub(now), false
	}
	return askAgain, !now.Before(p.askAt)
}

// refusal says why the provider is not called.
func (p *provider) refusal(now time.Time) string {
	name := p.row.Name
	switch {
	case p.row.State == fanfare.BreakerOpen && p.row.Pinned:
		return fmt.Sprintf("the breaker of %s is open since %s: a person pinned it, and calls wait until a person closes it", name, p.clock(p.row.Since, now))
	case now.Before(p.throttled):
		return fmt.Sprintf("%s is throttled until %s: %s", name, p.clock(p.throttled.Add(p.skew), now), p.throttledWhy)
	case p.row.State == fanfare.BreakerClosed:
		return fmt.Sprintf("the breaker of %s is about to open: %s", name, p.period.why)
	case p.row.State == fanfare.BreakerHalfOpen:
		return fmt.Sprintf("the breaker of %s is half open, and probes are under way; it was opened at %s: %s", name, p.clock(p.row.Since, now), p.row.Reason)
	}
	return fmt.Sprintf("the breaker of %s is open since %s, next probe at %s: %s", name, p.clock(p.row.Since, now), p.clock(*p.row.NextProbe, now), p.row.Reason)
}

// clock tells a moment by the database's clock, with its date unless it is
// today's.
func (p *provider) clock(at, now time.Time) string {
	at = at.UTC()
	if at.Format(time.DateOnly) == now.Add(p.skew).UTC().Format(time.DateOnly) {
		return at.Format("15:04:05 UTC")
	}
	return at.Format("2006-01-02 15:04:05 UTC")
}

package breaker

import (
	"errors"
	"fmt"
	"time"

	"github.com/sony/gobreaker/v2"

	fanfare "github.com/fanfare-dev/fanfare"
)

const (
	// tripInARow opens a breaker however slowly calls are made. A healthy
	// provider that fails one call in a hundred does that once in 10,000,000,000
	// times; one that is away costs five calls, and those under way by then, before it
	// is left alone.
	tripInARow = 5
	// tripOf calls in window, six in ten of them failed, open it too: a provider
	// that is half away never fails five times in a row for long. Of fewer
	// calls a share says nothing. At four in ten, calls that succeed after
	// a retry still carry more than waiting would.
	tripOf  = 20
	window  = 10 * time.Second
	buckets = 10 // so that the window slides by seconds
)

// errFailed is what gobreaker is told of a failure; it asks for nothing but an error.
var errFailed = errors.New("failed")

// period is the time from a breaker's closing to its next opening, and what
// calls came to in it. Guarded by the Breaker's lock.
type period struct {
	since time.Time // names it: the row's Since
	calls *gobreaker.TwoStepCircuitBreaker[struct{}]
	inRow int // gobreaker's own count of failures in a row forgets those behind the window

	tripped bool
	account bool
	why     string // it tripped
	told    bool   // that the account is at fault, while a person has pinned it
}

func newPeriod(since time.Time) *period {
	p := &period{since: since}
	p.calls = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Interval: window, BucketPeriod: window / buckets, ReadyToTrip: p.ready,
		// It is never asked again once it has tripped: when the ledger closes
		// the breaker, that begins a new period.
		Timeout: 365 * 24 * time.Hour,
	})
	return p
}

// take counts what a call came to, and reports whether that trips the breaker.
// It does so once.
func (p *period) take(o fanfare.Outcome) bool {
	switch {
	case p.tripped:
		return false
	case o.Account:
		p.tripped, p.account, p.why = true, true, sentence(o)
		return true
	}
	// Both steps at the call's end. gobreaker files an outcome under the second in
	// which its call began, and drops it when that is out of the window: a call that hangs
	// for 15 seconds would never count.
	done, err := p.calls.Allow()
	if err != nil {
		return false
	}
	if !o.BlamesProvider() {
		p.inRow = 0
		done(nil)
		return false
	}
	p.inRow++
	done(errFailed)
	if p.tripped {
		p.why += ", the last: " + sentence(o)
	}
	return p.tripped
}

// ready is asked by gobreaker after every failure.
func (p *period) ready(c gobreaker.Counts) bool {
	ended := c.TotalSuccesses + c.TotalFailures
	switch {
	case p.inRow >= tripInARow:
		p.why = fmt.Sprintf("%d calls in a row failed", p.inRow)
	case ended >= tripOf && 10*c.TotalFailures >= 6*ended:
		p.why = fmt.Sprintf("%d of %d calls in %s failed", c.TotalFailures, ended, window)
	default:
		return false
	}
	p.tripped = true
	return true
}

// sentence is what the provider said, or what kind of outcome it was.
func sentence(o fanfare.Outcome) string {
	switch {
	case o.Detail != "":
		return o.Detail
	case o.Code != "":
		return fmt.Sprintf("%s (%s)", o.Kind, o.Code)
	}
	return string(o.Kind)
}

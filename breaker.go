package fanfare

import "time"

// BreakerState is whether a provider may be called.
type BreakerState string

// The states of a provider's breaker.
const (
	BreakerClosed   BreakerState = "closed"    // calls flow
	BreakerOpen     BreakerState = "open"      // no calls: the provider failed, or a person said so
	BreakerHalfOpen BreakerState = "half_open" // a few probes find out whether it is back
)

// Provider is where one provider stands, for all workers.
type Provider struct {
	Name    string       `json:"name"`
	Channel Channel      `json:"channel"`
	State   BreakerState `json:"state"`
	// Pinned is true when a person set the state, and only a person changes it.
	Pinned bool      `json:"pinned"`
	Since  time.Time `json:"since"`
	// NextProbe is when an open breaker lets a call through to see; nil when it is
	// closed or pinned.
	NextProbe *time.Time `json:"next_probe,omitempty"`
	// ThrottledUntil is when the provider may be called again after it asked for time.
	ThrottledUntil *time.Time `json:"throttled_until,omitempty"`
	// Account is true when its key or settings are at fault: a person must see to it.
	Account bool `json:"account"`
	// Reason is a sentence about the last failure, without personal data.
	Reason string `json:"reason"`
	// UnknownEvents counts events that name no delivery of ours.
	UnknownEvents int64 `json:"unknown_events"`
}

// Permit is the answer to "may this provider be called now?".
type Permit struct {
	// Allowed means: one call may be made. Done must then be called exactly once.
	Allowed bool
	// Probe asks for the smallest call there can be: nobody knows whether the
	// provider is back.
	Probe bool
	// Wait is how long to leave the provider alone when it is not allowed, and
	// Why says so in a sentence.
	Wait time.Duration
	Why  string
	// Done tells what the call came to. OutcomeReleased: it was not made.
	Done func(Outcome)
}

// Breaker is a provider as a worker reads it.
type Breaker struct {
	Provider
	// ThrottledWhy is what the provider said when it asked for time.
	ThrottledWhy string
	// ReadAt is the database's clock at the reading. All other times are by that
	// clock too: only their distance from ReadAt means anything to a worker.
	ReadAt time.Time
}

// BlamesProvider reports whether an outcome counts against the provider. An
// acceptance, a rejection and a throttle are answers: it is there. A released
// call says nothing.
func (o Outcome) BlamesProvider() bool {
	return o.Account || o.Kind == OutcomeUnavailable || o.Kind == OutcomeAmbiguous
}

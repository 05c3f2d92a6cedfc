package fanfare

import "time"

// OutcomeKind is what a call came to. The set is closed: every answer, error
// and silence of every provider is one of these.
type OutcomeKind string

// The outcomes.
const (
	// OutcomeAccepted: the provider has it, and proved so.
	OutcomeAccepted OutcomeKind = "accepted"
	// OutcomeRejected: refused for good. Never retried.
	OutcomeRejected OutcomeKind = "rejected"
	// OutcomeThrottled: certainly not accepted; try again after RetryAfter.
	OutcomeThrottled OutcomeKind = "throttled"
	// OutcomeUnavailable: certainly not accepted, and not the recipient's fault
	// (network, 503, credentials). Costs nobody an attempt.
	OutcomeUnavailable OutcomeKind = "unavailable"
	// OutcomeAmbiguous: it may have been accepted. Never guess, never fail over.
	OutcomeAmbiguous OutcomeKind = "ambiguous"
	// OutcomeReleased: the call never began; the worker came too late to the
	// gate or stopped first.
	OutcomeReleased OutcomeKind = "released"
)

// Outcome says what became of a call, or of one recipient in it.
type Outcome struct {
	Kind OutcomeKind
	// Code is the provider's own code, without the provider's name ("400", "21610").
	Code string
	// Detail is a sentence for people. It never holds an address or content.
	Detail string
	// RetryAfter is how long the provider asked to wait; zero when it did not say.
	RetryAfter time.Duration
}

// Reply is what a provider's sender makes of one call.
type Reply struct {
	// Outcome holds for every recipient that Rejected does not name.
	Outcome Outcome
	// Rejected are the recipients the provider named as the reason for refusing
	// the call, by their place in Call.Recipients. The others were not
	// sent to either: Outcome is then OutcomeReleased and they take a new call.
	Rejected map[int]Outcome
	// Split asks for the halves to be tried apart: the provider refused the call
	// because of some recipient and did not say which.
	Split bool
	// ProviderID is the provider's own id of the accepted request.
	ProviderID string
}

// Sighting is what a look-up at the provider shows of a call.
type Sighting struct {
	// Seen is true when the provider shows a message of this very call. False
	// proves nothing.
	Seen bool
	// Evidence is a sentence for the record, without personal data.
	Evidence string
}

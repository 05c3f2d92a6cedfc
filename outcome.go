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
	// OutcomeThrottled: certainly not accepted; try again after RetryAfter. Costs
	// an attempt.
	OutcomeThrottled OutcomeKind = "throttled"
	// OutcomeUnavailable: certainly not accepted, and not the recipient's fault
	// (network, 503, credentials). Costs nobody an attempt.
	OutcomeUnavailable OutcomeKind = "unavailable"
	// OutcomeAmbiguous: it may have been accepted. Never guess, never fail over.
	OutcomeAmbiguous OutcomeKind = "ambiguous"
	// OutcomeReleased: the call never began, or was refused because of others in
	// it. Costs nobody an attempt.
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
	// Account is true when the account, its key or its settings are at fault:
	// trying again helps nobody before a person has seen to it.
	Account bool
}

// Reply is what a provider's sender makes of one call.
type Reply struct {
	// Outcome holds for every recipient that Named does not name.
	Outcome Outcome
	// Named are the recipients that have an outcome of their own, rejected or
	// throttled, by their place in Call.Recipients. Where a provider refuses the whole call
	// because of them, Outcome is OutcomeReleased and the others take a new call.
	Named map[int]Outcome
	// Split asks for the halves to be tried apart: the provider refused the call
	// because of some recipient and did not say which.
	Split bool
	// Wait is how long at least the recipients of a call wait that was refused without
	// Outcome.RetryAfter. It holds nobody else back.
	Wait time.Duration
	// ProviderID is the provider's own id of the accepted request.
	ProviderID string
	// Devices is what became of each device of a push, in the order of the recipient's.
	Devices []DeviceResult
	// Suppress are addresses that the provider refused for good, whatever is sent to them.
	Suppress []Refused
}

// DeviceResult is what became of one device of a push.
type DeviceResult struct {
	Device     string      `json:"device"` // the first 12 hexadecimal digits of its token's SHA-256
	Platform   string      `json:"platform,omitempty"`
	Outcome    OutcomeKind `json:"outcome"`
	Code       string      `json:"code,omitempty"`
	ProviderID string      `json:"provider_id,omitempty"`
}

// Refused is an address that must not be used again. Address is personal: the ledger
// takes its hash and keeps nothing else of it.
type Refused struct {
	Address string
	Reason  SuppressionReason
}

// Question is what a look-up is asked about: one call.
type Question struct {
	Call    CallID
	BeganAt time.Time // by the ledger's clock
	EndedAt time.Time
	// Address and Text are those of a call with one message, for providers that keep no
	// id of ours; empty otherwise. Both are personal.
	Address string
	Text    string
}

// Sighting is what a look-up at the provider shows of a call.
type Sighting struct {
	// Seen is true when the provider shows a message of this very call. False
	// proves nothing.
	Seen bool
	// Messages are the provider's ids of messages that may be this call's, where it keeps
	// no id of ours: it is this call's when exactly one of them belongs to no other.
	Messages []string
	// Evidence is a sentence for the record, without personal data.
	Evidence string
}

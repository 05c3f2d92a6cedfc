package fanfare

import "time"

// SuppressionReason says why an address must not be used, whoever wants it.
type SuppressionReason string

// The reasons.
const (
	SuppressedBounced      SuppressionReason = "bounced"      // refused by its receiver for good
	SuppressedSoftBounces  SuppressionReason = "soft_bounces" // refused for the time being too often
	SuppressedComplained   SuppressionReason = "complained"   // its reader called a message spam
	SuppressedUnsubscribed SuppressionReason = "unsubscribed" // at the provider, not here
	SuppressedStopped      SuppressionReason = "stopped"      // answered STOP to an SMS
	SuppressedInvalid      SuppressionReason = "invalid"      // no such number, or one that takes no SMS
	SuppressedDeadToken    SuppressionReason = "dead_token"   // the app is gone from the device
	SuppressedManual       SuppressionReason = "manual"       // by a person or an import
)

// Suppression is an address that must not be used. Only its hash is kept.
type Suppression struct {
	Channel   Channel           `json:"channel"`
	Hash      string            `json:"address_hash"` // SHA-256 of the address in lower case, hexadecimal
	Reason    SuppressionReason `json:"reason"`
	Provider  string            `json:"provider,omitempty"` // who said so; empty for a person
	CreatedAt time.Time         `json:"created_at"`
}

// Valid reports whether r is one of the reasons.
func (r SuppressionReason) Valid() bool {
	switch r {
	case SuppressedBounced, SuppressedSoftBounces, SuppressedComplained, SuppressedUnsubscribed,
		SuppressedStopped, SuppressedInvalid, SuppressedDeadToken, SuppressedManual:
		return true
	}
	return false
}

// SuppressionQuery chooses a page of suppressions. Empty fields choose all.
type SuppressionQuery struct {
	Channel Channel
	Reason  SuppressionReason
	Hash    string // of one address, hexadecimal
	Limit   int
	// AfterChannel and AfterHash are the last of the page before.
	AfterChannel Channel
	AfterHash    string
}

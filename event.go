package fanfare

import "time"

// EventType is what a provider reports about one message after it took it.
type EventType string

// The types of events, whatever each provider calls them. Every one but
// EventUnsubscribed and EventResubscribed proves that the provider accepted the call.
const (
	EventProcessed    EventType = "processed" // taken in by the provider
	EventDeferred     EventType = "deferred"  // the receiver said "later"; the provider goes on trying
	EventDelivered    EventType = "delivered"
	EventBounced      EventType = "bounced" // refused by the receiver for good
	EventDropped      EventType = "dropped" // taken in, and not sent on by the provider
	EventOpened       EventType = "opened"
	EventClicked      EventType = "clicked"
	EventComplained   EventType = "complained"   // the reader called it spam
	EventUnsubscribed EventType = "unsubscribed" // at the provider, not here
	EventResubscribed EventType = "resubscribed" // takes back what EventUnsubscribed said
)

// ProviderEvent is one event as a provider's webhook brought it.
type ProviderEvent struct {
	Provider string
	Type     EventType
	At       time.Time
	// Delivery is zero when the event does not name one of ours.
	Delivery DeliveryID
	// Call is empty when the event does not name it.
	Call CallID
	// Code is the provider's or the receiver's own code ("5.1.1"), if any. It
	// never holds an address.
	Code string
	// Permanent is true for a bounce after which the address must not be used again.
	Permanent bool
	// ProviderID is the provider's own id of the request, if the event shows it.
	ProviderID string
	// Address is personal. The ledger takes its hash and keeps nothing else of it. A bounce that
	// says nothing of the address has none.
	Address string
	// Channel is that of Address. It is needed where Delivery is zero and the event is about the
	// address alone: its owner wants nothing more from this account, or wants it again.
	Channel Channel
	// Digest is a SHA-256 of all that the event says, without the id that the provider
	// gave it: an event that comes again has the same digest even under a new id.
	Digest [32]byte
}

// Proves reports whether the event proves that the provider accepted the call.
func (t EventType) Proves() bool { return t != EventUnsubscribed && t != EventResubscribed }

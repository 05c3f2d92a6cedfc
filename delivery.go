package fanfare

import "time"

// State is where one delivery stands.
type State string

// The states of a delivery. docs/architecture.md draws the moves between them.
const (
	Pending   State = "pending"   // to be sent, or to be sent again
	Sending   State = "sending"   // claimed by a call that may be under way
	InDoubt   State = "in_doubt"  // the call was cut; nobody knows yet
	Sent      State = "sent"      // the provider accepted it
	Delivered State = "delivered" // the provider says it arrived
	Failed    State = "failed"    // rejected for good
	Skipped   State = "skipped"   // not sent to, for a reason
	Dead      State = "dead"      // given up; kept, and replayable
)

// Reasons why a delivery was skipped or is dead.
const (
	ReasonUnsubscribed     = "unsubscribed"
	ReasonSuppressed       = "suppressed"
	ReasonNoAddress        = "no_address"
	ReasonDuplicateAddress = "duplicate_address"
	ReasonOptedOut         = "opted_out" // by preferences
	ReasonErased           = "erased"
	ReasonExpired          = "expired"
	ReasonCancelled        = "cancelled"
	ReasonDoubtHeld        = "doubt_held"        // dead: in doubt, and policy or a stop forbids sending again
	ReasonRetriesExhausted = "retries_exhausted" // dead: refused for the time being too often
)

// Delivery is one recipient of one publication on one channel: the unit of truth.
type Delivery struct {
	ID          string            `json:"id"`
	Publication PublicationID     `json:"publication"`
	Subscriber  SubscriberID      `json:"subscriber"` // empty after erasure
	Channel     Channel           `json:"channel"`
	State       State             `json:"state"`
	Reason      string            `json:"reason"`
	Code        string            `json:"code"` // <provider>:<code>
	Provider    string            `json:"provider"`
	Attempts    []Attempt         `json:"attempts,omitzero"` // nil where it was not read
	Events      []Event           `json:"events,omitzero"`   // likewise
	Links       map[string]string `json:"links,omitempty"`
	Batch       int               `json:"-"` // 0 while no batch claimed it
}

// Attempt is one delivery's part in one call.
type Attempt struct {
	N         int        `json:"n"`
	Call      CallID     `json:"call"`
	Provider  string     `json:"provider"`
	StartedAt time.Time  `json:"started_at"`
	EndedAt   *time.Time `json:"ended_at,omitempty"`
	Outcome   string     `json:"outcome,omitempty"` // an OutcomeKind; empty while the call is under way
	Code      string     `json:"code"`
	Evidence  string     `json:"evidence,omitempty"` // how a doubtful call was settled
	// Devices is what became of each device of a push.
	Devices []DeviceResult `json:"devices,omitempty"`
}

// Event is something a provider reported about a delivery.
type Event struct {
	Type EventType `json:"type"`
	At   time.Time `json:"at"`
}

// Recipient is one claimed delivery with what its provider needs to know.
// It is never written to a log or a workflow history: addresses are personal.
type Recipient struct {
	Number  SubscriberNumber
	Address string   // of email and SMS
	Devices []Device // of push, all of which get the message
	// Unsubscribe is the recipient's own one-click URL.
	Unsubscribe string
	// Preferences is the URL of the recipient's own preferences page.
	Preferences string
}

// Message is rendered content. Wherever UnsubscribeTag or PreferencesTag stands in
// an email's HTML or Text, the provider puts the recipient's own URL.
type Message struct {
	Subject string // of email; the title of a push and of an in-app item
	HTML    string // of email
	Text    string
	URL     string // where a tap on a push or an in-app item leads
}

// UnsubscribeTag marks the place of the recipient's unsubscribe URL in a
// message shared by all recipients of a call. Renderers must keep it out of
// content that people wrote.
const UnsubscribeTag = "[%fanfare_unsubscribe%]"

// PreferencesTag marks the place of the URL of the recipient's preferences page.
const PreferencesTag = "[%fanfare_preferences%]"

// Call is one request to a provider, for recipients of one claim.
type Call struct {
	ID          CallID
	Publication PublicationID
	Channel     Channel
	Message     Message
	Recipients  []Recipient
	// Expires is when the message is not to be delivered any more.
	Expires time.Time
}

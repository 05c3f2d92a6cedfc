package fanfare

// PublicationQuery pages through publications, newest first.
type PublicationQuery struct {
	Topic  Topic            // empty: all
	State  PublicationState // empty: all
	Before PublicationID    // the last id of the page before; empty: start
	Limit  int
}

// DeliveryQuery pages through one publication's deliveries, by channel and
// subscriber number. Recipients not yet claimed are listed as pending.
type DeliveryQuery struct {
	Publication PublicationID
	Channel     Channel // empty: all
	State       State   // empty: all
	After       *DeliveryID
	Limit       int
}

// Problem is one place where the books do not balance.
type Problem struct {
	Publication PublicationID `json:"publication"`
	Channel     Channel       `json:"channel"`
	Intended    int64         `json:"intended"`
	Counted     int64         `json:"counted"`
	Sentence    string        `json:"sentence"`
}

// Verification is the answer of verify: what was counted again, row by row.
// Duplicates are sends that were accepted twice; they are known because a
// policy or a late answer made them, and they do not unbalance the books. Resent are
// deliveries sent again by policy, without evidence: each of them may be a duplicate.
type Verification struct {
	OK         bool      `json:"ok"`
	Checked    int       `json:"checked"` // publications
	Duplicates int64     `json:"duplicates"`
	Resent     int64     `json:"resent"`
	Problems   []Problem `json:"problems"`
}

// Order is one thing that Temporal still has to be told, about a publication or
// a replay.
type Order struct {
	ID          int64
	Publication PublicationID
	Replay      ReplayID
	Kind        OrderKind
}

// OrderKind is what to tell Temporal.
type OrderKind string

// The orders.
const (
	OrderStart  OrderKind = "start"  // start a publication's workflow
	OrderWake   OrderKind = "wake"   // its state changed: look at the ledger
	OrderReplay OrderKind = "replay" // start a replay's workflow
)

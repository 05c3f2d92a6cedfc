package fanfare

import "time"

// Batch is one slice of a publication's audience on one channel.
type Batch struct {
	BatchRef
	First    SubscriberNumber `json:"first"`
	Last     SubscriberNumber `json:"last"`
	Intended int64            `json:"intended"`
	// AllClaimed is true when it is over its first pass.
	AllClaimed bool `json:"all_claimed,omitempty"`
}

// Range limits a claim to subscriber numbers from First to Last.
type Range struct {
	First, Last SubscriberNumber
	// DueIn takes recipients that wait for so much longer as well: the halves of a
	// refused call are kept from everyone else for a moment.
	DueIn time.Duration
}

// Wanted says what a claim is to win.
type Wanted struct {
	// Provider is who will be called.
	Provider string
	// Limit is how many recipients at most.
	Limit int
	// Single gives each recipient a call of their own, for providers that take one
	// message at a time. Otherwise those share a call who get the same message.
	Single bool
	// Locales are those that the message exists in, in lower case, the default first;
	// none when it is the same for everyone.
	Locales []string
}

// Claim is what a claim won: the leases of calls, which begin and end at the same
// time. Without calls there is nothing to send now.
type Claim struct {
	Calls       []ClaimedCall
	BeginWithin time.Duration
	CallWithin  time.Duration
	// More is true while somebody in the batch has no row, and may be claimed. A claim may
	// pass over a chunk in which nobody is to be sent to.
	More bool
}

// ClaimedCall is one call and who it is for, in the order of their numbers.
type ClaimedCall struct {
	ID CallID
	// Locale is the one of Wanted.Locales that these recipients read; empty when there is none.
	Locale     string
	Recipients []Claimed
}

// Claimed is one claimed delivery. Address and Devices are personal and go nowhere
// but to the provider.
type Claimed struct {
	Number  SubscriberNumber
	Address string   // of email and SMS
	Devices []Device // of push
}

// Settlement is what became of one call.
type Settlement struct {
	Call   CallID
	Result Result
}

// Result is what became of a call, as the ledger is told.
type Result struct {
	// Outcome holds for every recipient that Named does not name. Its
	// RetryAfter is when those that were not accepted may be claimed again.
	Outcome    Outcome
	Named      map[SubscriberNumber]Outcome
	ProviderID string
	// Devices is what became of each device of a push.
	Devices []DeviceResult
	// Suppress are addresses that the provider refused for good.
	Suppress []Refused
	// Evidence is how a doubtful call was settled; empty for the call's own answer.
	Evidence string
}

// Doubt is one call of which nobody knows whether the provider accepted it.
type Doubt struct {
	Ref      BatchRef
	Call     CallID
	Provider string
	BeganAt  time.Time
	EndedAt  time.Time
	// Address and Locale are those of the one recipient of an SMS, to be looked up by
	// them; empty on other channels. Address is personal.
	Address string
	Locale  string
	Looks   int
	// Overdue is true when the deadline has passed.
	Overdue bool
	// Witness is an accepted call that a look-up should show before the absence
	// of this one means anything: the first accepted after it or, where there
	// was none, the last before. Empty when the publication has no accepted call.
	// WitnessAbout, but for the call, is how to ask for it, and WitnessMessage the provider's id of it.
	Witness        CallID
	WitnessAbout   Question
	WitnessMessage string
	// Unheard is true when the provider reports events of this publication, and
	// none of Witness yet: then their absence means nothing.
	Unheard bool
	// Final is true when nothing is sent for the publication any more: without
	// evidence the call's recipients are held, and to wait longer would keep it from ending.
	Final bool
}

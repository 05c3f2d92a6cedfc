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

// Claim is what a claim won: the lease of one call and its recipients. Without
// recipients there is nothing to send now; Tally says why.
type Claim struct {
	Call        CallID
	BeginWithin time.Duration
	CallWithin  time.Duration
	Recipients  []Claimed
	Tally       BatchTally
}

// Claimed is one claimed delivery. Address is personal and goes nowhere but to
// the provider.
type Claimed struct {
	Number  SubscriberNumber
	Address string
}

// Result is what became of a call, as the ledger is told.
type Result struct {
	// Outcome holds for every recipient that Named does not name. Its
	// RetryAfter is when those that were not accepted may be claimed again.
	Outcome    Outcome
	Named      map[SubscriberNumber]Outcome
	ProviderID string
	// Evidence is how a doubtful call was settled; empty for the call's own answer.
	Evidence string
}

// Doubt is one call of which nobody knows whether the provider accepted it.
type Doubt struct {
	Ref      BatchRef
	Call     CallID
	Provider string
	EndedAt  time.Time
	Looks    int
	// Overdue is true when the deadline has passed.
	Overdue bool
	// Witness is an accepted call that a look-up should show before the absence
	// of this one means anything: the first accepted after it or, where there
	// was none, the last before. Empty when the publication has no accepted call.
	Witness CallID
	// Unheard is true when the provider reports events of this publication, and
	// none of Witness yet: then their absence means nothing.
	Unheard bool
	// Final is true when nothing is sent for the publication any more: without
	// evidence the call's recipients are held, and to wait longer would keep it from ending.
	Final bool
}

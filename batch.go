package fanfare

import "time"

// BatchTally is where one batch stands.
type BatchTally struct {
	Publication PublicationState `json:"publication_state"`
	// Expired is true when the publication's time is over and nobody said so yet.
	Expired bool `json:"expired,omitempty"`
	// AllClaimed is true when everyone in the range has a row.
	AllClaimed bool   `json:"all_claimed"`
	Totals     Totals `json:"totals"`
	// NextDue is the time until a waiting recipient may be claimed; nil when none waits.
	NextDue *time.Duration `json:"next_due,omitempty"`
	// NextLapse is the time until a call may be taken for lost; nil when none is open.
	NextLapse *time.Duration `json:"next_lapse,omitempty"`
}

// Done reports whether the batch has nothing left to do.
func (t BatchTally) Done() bool { return t.AllClaimed && t.Totals.Unfinished() == 0 }

// BatchProblems says what did not go well in a batch. It holds ids and counts,
// never anything personal, because it stands in workflow histories.
type BatchProblems struct {
	// Reasons counts by state and reason, for example "skipped no_address".
	Reasons map[string]int64 `json:"reasons,omitempty"`
	// Deliveries names some of the deliveries, each with its state in front.
	Deliveries []string `json:"deliveries,omitempty"`
}

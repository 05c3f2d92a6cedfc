package fanfare

import "time"

// ReplayID names one replay.
type ReplayID string

// WorkflowID names the workflow that carries the replay out.
func (id ReplayID) WorkflowID() string { return "replay/" + string(id) }

// ReplayFilter says which dead letters to send again. What is empty does not
// limit. Those that were held because of doubt are meant only where Reason
// is ReasonDoubtHeld.
type ReplayFilter struct {
	Publication string     `json:"publication,omitempty"` // id or key
	Topic       Topic      `json:"topic,omitempty"`
	Channel     Channel    `json:"channel,omitempty"`
	Code        string     `json:"code,omitempty"` // <provider>:<code>
	Reason      string     `json:"reason,omitempty"`
	Since       *time.Time `json:"since,omitempty"` // died at or after
	Until       *time.Time `json:"until,omitempty"` // died before
}

// ReplayPreview is what a replay would do: the answer of a dry run.
type ReplayPreview struct {
	Count     int64             `json:"count"`
	ByChannel map[Channel]int64 `json:"by_channel"`
	ByReason  map[string]int64  `json:"by_reason"`
	ByCode    map[string]int64  `json:"by_code"`
	// Sample are the ids of some of the deliveries.
	Sample []string `json:"sample"`
	// Excluded counts dead letters that match and cannot be sent again, by why:
	// "cancelled", "expired", "replaying" (by another replay), "doubt_held".
	Excluded map[string]int64 `json:"excluded"`
	// EstimatedSeconds is how long it would take at the pace of the last day.
	EstimatedSeconds int64 `json:"estimated_seconds"`
}

// ReplayState is where a replay stands.
type ReplayState string

// The states of a replay.
const (
	ReplayRunning   ReplayState = "running"
	ReplayCompleted ReplayState = "completed"
	ReplayCancelled ReplayState = "cancelled"
)

// Replay is one replay and how far it is. Count is fixed when it is accepted:
// a dead letter belongs to at most one replay that has not taken it up yet.
type Replay struct {
	ID         ReplayID     `json:"id"`
	Filter     ReplayFilter `json:"filter"`
	State      ReplayState  `json:"state"`
	CreatedAt  time.Time    `json:"created_at"`
	FinishedAt *time.Time   `json:"finished_at,omitempty"`
	Count      int64        `json:"count"`
	// Reopened were taken up; Waiting not yet. Passed were not dead any more when
	// their turn came, or the replay was cancelled before.
	Reopened int64 `json:"reopened"`
	Waiting  int64 `json:"waiting"`
	Passed   int64 `json:"passed"`
	// Totals counts where those that were taken up stand now; Intended is Reopened.
	Totals Totals            `json:"totals"`
	Links  map[string]string `json:"links,omitempty"`
}

// ReplayBatch is a batch that a replay has deliveries in, with what its
// workflow needs.
type ReplayBatch struct {
	Batch Batch `json:"batch"`
	Class Class `json:"class"`
	Topic Topic `json:"topic"`
}

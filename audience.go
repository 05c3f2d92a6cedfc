package fanfare

// ImportLine is one valid line of an import.
type ImportLine struct {
	Line       int // counts from 1
	Subscriber Subscriber
}

// RejectedLine is one line of an import that was not taken, and why.
type RejectedLine struct {
	Line  int    `json:"line"`
	Error string `json:"error"`
}

// MaxRejectedLines is how many rejected lines a report lists; RejectedCount
// counts them all.
const MaxRejectedLines = 1000

// ImportReport is what an import came to. Lines that changed nothing are
// counted as unchanged, so the four counts add up to the lines read.
type ImportReport struct {
	Created   int64 `json:"created"`
	Updated   int64 `json:"updated"`
	Unchanged int64 `json:"unchanged"`
	// Unsubscribed are those of them who had unsubscribed by themselves, and stay so.
	Unsubscribed  int64          `json:"unsubscribed,omitempty"`
	RejectedCount int64          `json:"rejected_count"`
	Rejected      []RejectedLine `json:"rejected"`
}

// Reject counts a rejected line and lists it while there is room.
func (r *ImportReport) Reject(line int, why string) {
	r.RejectedCount++
	if len(r.Rejected) < MaxRejectedLines {
		r.Rejected = append(r.Rejected, RejectedLine{Line: line, Error: why})
	}
}

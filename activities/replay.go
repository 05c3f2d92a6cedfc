package activities

import (
	"context"

	fanfare "github.com/fanfare-dev/fanfare"
)

// Reopener takes dead deliveries back to pending.
type Reopener interface {
	Reopen(ctx context.Context, ref fanfare.BatchRef, run string) (reopened int64, why string, err error)
	ReopenForReplay(ctx context.Context, id fanfare.ReplayID, ref fanfare.BatchRef) (reopened int64, err error)
}

// ReplayBook keeps the replays.
type ReplayBook interface {
	ReplayBatches(ctx context.Context, id fanfare.ReplayID, after fanfare.BatchRef, limit int) ([]fanfare.ReplayBatch, error)
	FinishReplay(ctx context.Context, id fanfare.ReplayID) (fanfare.Replay, error)
}

// Replaying are the activities that send dead letters again.
type Replaying struct {
	Reopener Reopener
	Book     ReplayBook
}

// ReopenInput names a batch and the run of its workflow that asks.
type ReopenInput struct {
	Ref fanfare.BatchRef `json:"ref"`
	Run string           `json:"run"`
}

// ReopenResult is what came of it. Run is the run that asked, so that a history
// shows who it was.
type ReopenResult struct {
	Run      string `json:"run"`
	Reopened int64  `json:"reopened"`
	Why      string `json:"why,omitempty"` // nothing may be sent any more
}

// Reopen takes the dead deliveries of a batch back, once for each run.
func (r *Replaying) Reopen(ctx context.Context, in ReopenInput) (ReopenResult, error) {
	defer heartbeat(ctx)()
	reopened, why, err := r.Reopener.Reopen(ctx, in.Ref, in.Run)
	return ReopenResult{Run: in.Run, Reopened: reopened, Why: why}, err
}

// TakeInput asks for the next batches of a replay.
type TakeInput struct {
	Replay fanfare.ReplayID `json:"replay"`
	After  fanfare.BatchRef `json:"after"` // the last batch that was taken
	Limit  int              `json:"limit"`
}

// Take takes back what waits in the next batches of a replay, and names them. It
// names them again when it is asked again, so that none stays without a workflow.
func (r *Replaying) Take(ctx context.Context, in TakeInput) ([]fanfare.ReplayBatch, error) {
	defer heartbeat(ctx)()
	batches, err := r.Book.ReplayBatches(ctx, in.Replay, in.After, in.Limit)
	if err != nil {
		return nil, err
	}
	for _, b := range batches {
		if _, err := r.Reopener.ReopenForReplay(ctx, in.Replay, b.Batch.BatchRef); err != nil {
			return nil, err
		}
	}
	return batches, nil
}

// Progress finishes a replay that is done, and reads where it stands.
func (r *Replaying) Progress(ctx context.Context, id fanfare.ReplayID) (ReplayProgress, error) {
	defer heartbeat(ctx)()
	replay, err := r.Book.FinishReplay(ctx, id)
	return ReplayProgress{
		State: replay.State, Count: replay.Count, Waiting: replay.Waiting, Passed: replay.Passed, Totals: replay.Totals,
	}, err
}

// ReplayProgress is where a replay stands, in a few numbers.
type ReplayProgress struct {
	State   fanfare.ReplayState `json:"state"`
	Count   int64               `json:"count"`
	Waiting int64               `json:"waiting"`
	Passed  int64               `json:"passed"`
	Totals  fanfare.Totals      `json:"totals"`
}

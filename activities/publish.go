package activities

import (
	"context"
	"time"

	fanfare "github.com/fanfare-dev/fanfare"
)

// Planner cuts audiences into batches.
type Planner interface {
	Announcement(ctx context.Context, id fanfare.PublicationID) (fanfare.Announcement, error)
	Plan(ctx context.Context, id fanfare.PublicationID, size, limit int) (planned int, complete bool, err error)
	OpenBatches(ctx context.Context, id fanfare.PublicationID, channel fanfare.Channel, after, limit int) ([]fanfare.Batch, error)
}

// Lifecycle moves a publication from state to state.
type Lifecycle interface {
	Start(ctx context.Context, id fanfare.PublicationID) error
	Expire(ctx context.Context, id fanfare.PublicationID) error
	Finish(ctx context.Context, id fanfare.PublicationID) (fanfare.Publication, error)
}

// Tallier reads where a batch stands.
type Tallier interface {
	Tally(ctx context.Context, ref fanfare.BatchRef) (fanfare.BatchTally, error)
}

// Lapser puts calls in doubt whose workers are gone.
type Lapser interface {
	DoubtLapsed(ctx context.Context, ref fanfare.BatchRef) (fanfare.BatchTally, error)
}

// Runs tells whether a workflow has an open run.
type Runs interface {
	Open(ctx context.Context, workflowID string) (bool, error)
}

// Publishing are the activities of the publish workflow.
type Publishing struct {
	Planner   Planner
	Lifecycle Lifecycle
	Tallier   Tallier
	Lapser    Lapser
	Runs      Runs
	// BatchSize is how many recipients one batch has.
	BatchSize int
}

// Opening is what a publish workflow has to know of its publication. It stands
// in histories: ids only.
type Opening struct {
	Key      fanfare.Key       `json:"key"`
	Topic    fanfare.Topic     `json:"topic"`
	Class    fanfare.Class     `json:"class"`
	Channels []fanfare.Channel `json:"channels"`
	Audience int64             `json:"audience"`
}

// Open reads the publication.
func (p *Publishing) Open(ctx context.Context, id fanfare.PublicationID) (Opening, error) {
	defer heartbeat(ctx)()
	a, err := p.Planner.Announcement(ctx, id)
	if err != nil {
		return Opening{}, err
	}
	return Opening{Key: a.Key, Topic: a.Topic, Class: a.Class, Channels: a.Channels, Audience: a.Audience}, nil
}

// NextInput asks for the batches of a channel behind the one that was last
// handed out.
type NextInput struct {
	Publication fanfare.PublicationID `json:"publication"`
	Channel     fanfare.Channel       `json:"channel"`
	After       int                   `json:"after"`
	Limit       int                   `json:"limit"`
}

// NextBatches are batches with something left to do. Last is true when there
// are none behind them.
type NextBatches struct {
	Batches []fanfare.Batch `json:"batches"`
	Last    bool            `json:"last"`
}

// Next plans as far as needed and returns the next batches. Those that are done
// already, by an earlier run whose history is lost, are passed over.
func (p *Publishing) Next(ctx context.Context, in NextInput) (NextBatches, error) {
	defer heartbeat(ctx)()
	for {
		open, err := p.Planner.OpenBatches(ctx, in.Publication, in.Channel, in.After, in.Limit)
		if err != nil {
			return NextBatches{}, err
		}
		if len(open) == in.Limit {
			return NextBatches{Batches: open}, nil
		}
		// Asked before planning: what is planned in between is found the next time round.
		planned, complete, err := p.Planner.Plan(ctx, in.Publication, p.BatchSize, in.Limit)
		if err != nil {
			return NextBatches{}, err
		}
		if complete {
			open, err = p.Planner.OpenBatches(ctx, in.Publication, in.Channel, in.After, in.Limit)
			return NextBatches{Batches: open, Last: len(open) < in.Limit}, err
		}
		if planned == 0 {
			return NextBatches{Last: true}, nil
		}
	}
}

// LookInput names the batches whose end the workflow has not heard of.
type LookInput struct {
	Publication fanfare.PublicationID `json:"publication"`
	Window      []fanfare.BatchRef    `json:"window"`  // in their first pass
	Waiting     []fanfare.BatchRef    `json:"waiting"` // behind it
}

// Look is what the ledger says, which outranks every signal.
type Look struct {
	State    fanfare.PublicationState `json:"state"`
	Totals   fanfare.Totals           `json:"totals"`
	Finished bool                     `json:"finished"`
	// Begins is the time until it may begin, when it is scheduled.
	Begins time.Duration `json:"begins,omitempty"`
	// Passed are the batches of the window that are over their first pass.
	Passed []fanfare.BatchRef `json:"passed,omitempty"`
	// Done are the batches that have nothing left to do.
	Done []fanfare.BatchRef `json:"done,omitempty"`
	// Orphans have something left to do, and no open workflow.
	Orphans []fanfare.Batch `json:"orphans,omitempty"`
}

// Look begins what is due, expires what is late, finishes what is done, and
// reports where the publication and its open batches stand.
func (p *Publishing) Look(ctx context.Context, in LookInput) (Look, error) {
	defer heartbeat(ctx)()
	if err := p.Lifecycle.Expire(ctx, in.Publication); err != nil {
		return Look{}, err
	}
	if err := p.Lifecycle.Start(ctx, in.Publication); err != nil {
		return Look{}, err
	}
	publication, err := p.Lifecycle.Finish(ctx, in.Publication)
	if err != nil {
		return Look{}, err
	}
	look := Look{State: publication.State, Totals: publication.Totals, Finished: publication.FinishedAt != nil}
	if look.Finished {
		return look, nil
	}
	if publication.State == fanfare.Scheduled && publication.ScheduledAt != nil {
		look.Begins = time.Until(*publication.ScheduledAt)
	}
	for _, ref := range in.Window {
		if err := p.lookAt(ctx, ref, true, &look); err != nil {
			return Look{}, err
		}
	}
	for _, ref := range in.Waiting {
		if err := p.lookAt(ctx, ref, false, &look); err != nil {
			return Look{}, err
		}
	}
	return look, nil
}

func (p *Publishing) lookAt(ctx context.Context, ref fanfare.BatchRef, first bool, look *Look) error {
	tally, err := p.Tallier.Tally(ctx, ref)
	if err != nil {
		return err
	}
	// A batch does so itself, unless nobody serves its lane any more.
	if tally.NextLapse != nil && *tally.NextLapse == 0 {
		if tally, err = p.Lapser.DoubtLapsed(ctx, ref); err != nil {
			return err
		}
	}
	if tally.Done() {
		look.Done = append(look.Done, ref)
		return nil
	}
	if first && tally.AllClaimed {
		look.Passed = append(look.Passed, ref)
	}
	open, err := p.Runs.Open(ctx, ref.WorkflowID())
	if err != nil || open {
		return err
	}
	orphan, err := p.Planner.OpenBatches(ctx, ref.Publication, ref.Channel, ref.N-1, 1)
	if err != nil {
		return err
	}
	for _, batch := range orphan {
		if batch.BatchRef == ref {
			look.Orphans = append(look.Orphans, batch)
		}
	}
	return nil
}

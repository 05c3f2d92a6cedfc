package relay

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"go.temporal.io/sdk/client"

	fanfare "github.com/fanfare-dev/fanfare"
)

const (
	sweepEvery = time.Minute
	sweepPage  = 500
)

// Backlog is what is not finished.
type Backlog interface {
	Unfinished(ctx context.Context, after fanfare.PublicationID, limit int) ([]fanfare.PublicationID, error)
	UnfinishedReplays(ctx context.Context, limit int) ([]fanfare.ReplayID, error)
	Elect(ctx context.Context, name string, do func(context.Context) error) (elected bool, err error)
}

// Swept is what a sweep found.
type Swept struct {
	Unfinished int `json:"unfinished"`
	Started    int `json:"started"`
}

// Sweep starts anew every unfinished publication that has no open workflow:
// after the loss of Temporal's database, a terminated run, a lost order.
func Sweep(ctx context.Context, backlog Backlog, temporal client.Client) (Swept, error) {
	var swept Swept
	var failures []error
	for after := fanfare.PublicationID(""); ; {
		ids, err := backlog.Unfinished(ctx, after, sweepPage)
		if err != nil {
			return swept, err
		}
		for _, id := range ids {
			started, err := start(ctx, temporal, id)
			if err != nil {
				failures = append(failures, err) // the others are no worse for it
			}
			swept.Unfinished++
			if started {
				swept.Started++
			}
			after = id
		}
		if len(ids) < sweepPage {
			return swept, errors.Join(append(failures, sweepReplays(ctx, backlog, temporal))...)
		}
	}
}

// sweepReplays does the same for replays, of which there are few.
func sweepReplays(ctx context.Context, backlog Backlog, temporal client.Client) error {
	ids, err := backlog.UnfinishedReplays(ctx, sweepPage)
	if err != nil {
		return err
	}
	var failures []error
	for _, id := range ids {
		if _, err := startReplay(ctx, temporal, id); err != nil {
			failures = append(failures, err)
		}
	}
	return errors.Join(failures...)
}

// SweepForEver sweeps at once and then every minute, in one process of all that run it.
func SweepForEver(ctx context.Context, backlog Backlog, temporal client.Client, log *slog.Logger) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		_, err := backlog.Elect(ctx, "sweep", func(ctx context.Context) error {
			swept, err := Sweep(ctx, backlog, temporal)
			if swept.Started > 0 {
				log.Info("publications without a workflow were started again", "started", swept.Started, "unfinished", swept.Unfinished)
			}
			return err
		})
		if err != nil && ctx.Err() == nil {
			log.Warn("sweep failed, trying again in a minute", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

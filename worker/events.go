package worker

import (
	"context"
	"log/slog"
	"time"
)

const (
	// eventsAtOnce are applied in one transaction. Their batches cannot be claimed
	// from meanwhile, a fifth of a second.
	eventsAtOnce = 5000
	// eventsEvery is how long an event waits at most, and how long a failure does.
	eventsEvery = 500 * time.Millisecond
)

// EventApplier applies what webhooks brought. It returns fewer than limit when
// there is no more.
type EventApplier interface {
	ApplyEvents(ctx context.Context, limit int) (applied int, err error)
}

// ApplyEvents applies events until ctx ends. Several workers may do so at once.
func ApplyEvents(ctx context.Context, inbox EventApplier, log *slog.Logger) {
	tick := time.NewTicker(eventsEvery)
	defer tick.Stop()
	failing := false
	for ctx.Err() == nil {
		applied, err := inbox.ApplyEvents(ctx, eventsAtOnce)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !failing:
			log.Error("events of providers wait, trying again until they can be applied", "error", err)
		case err == nil && failing:
			log.Info("events of providers are applied again")
		}
		failing = err != nil
		if !failing && applied == eventsAtOnce {
			continue
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

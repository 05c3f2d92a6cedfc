package activities

import (
	"context"
	"time"

	"go.temporal.io/sdk/activity"
)

// HeartbeatEvery is how often an activity shows that its worker lives. A third
// of the time-out in workflows/options.go, so that one lost beat does no harm.
const HeartbeatEvery = 3 * time.Second

// heartbeat beats until the returned function is called. It carries nothing:
// where the work stands is in the ledger. Every activity beats, however short: one
// whose worker died would otherwise be missed for its whole time.
func heartbeat(ctx context.Context) (stop func()) {
	done := make(chan struct{})
	go func() {
		tick := time.NewTicker(HeartbeatEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				activity.RecordHeartbeat(ctx)
			case <-done:
				return
			}
		}
	}()
	return func() { close(done) }
}

package worker_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/worker"
)

// inbox answers each ApplyEvents as its script says, and then with nothing to
// do; it notes when it was asked.
type inbox struct {
	script []any // events applied, or an error
	asked  []time.Duration
	began  time.Time
}

func (i *inbox) ApplyEvents(_ context.Context, limit int) (int, error) {
	i.asked = append(i.asked, time.Since(i.began))
	if len(i.script) == 0 {
		return 0, nil
	}
	next := i.script[0]
	i.script = i.script[1:]
	if err, failed := next.(error); failed {
		return 0, err
	}
	return min(limit, next.(int)), nil
}

// applied runs the loop for d of virtual time and returns when it asked, in
// milliseconds, and its log.
func applied(t *testing.T, d time.Duration, script ...any) (asked []int64, log string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		i := &inbox{script: script, began: time.Now()}
		worker.ApplyEvents(ctx, i, slog.New(slog.NewTextHandler(&out, nil)))
		require.Equal(t, d, time.Since(i.began), "it stops with its context")
		for _, at := range i.asked {
			asked = append(asked, at.Milliseconds())
		}
		log = out.String()
	})
	return asked, log
}

func TestEventsAreAppliedUntilThereAreNoMore(t *testing.T) {
	t.Parallel()
	asked, log := applied(t, 1100*time.Millisecond, 5000, 5000, 4999, 5000, 17)
	require.Equal(t, []int64{0, 0, 0, 500, 500, 1000}, asked)
	require.Empty(t, log)
}

func TestALongOutageIsLoggedOnce(t *testing.T) {
	t.Parallel()
	away := errors.New("PostgreSQL cannot be reached")
	asked, log := applied(t, 2600*time.Millisecond, away, away, away, 3, away)
	require.Equal(t, []int64{0, 500, 1000, 1500, 2000, 2500}, asked, "it does not hurry while it fails")
	require.Equal(t, 2, strings.Count(log, "cannot be reached"), log)
	require.Equal(t, 2, strings.Count(log, "applied again"), log)
}

func TestAWorkerAppliesEvents(t *testing.T) {
	t.Parallel()
	r := newRig(t, setup{batchSize: 10, readers: 2, sender: acceptAll})
	id := r.publish()
	r.finishes(id)
	list, err := r.Deliveries(t.Context(), fanfare.DeliveryQuery{Publication: id, Limit: 1})
	require.NoError(t, err)
	delivery, err := fanfare.ParseDeliveryID(list[0].ID)
	require.NoError(t, err)
	require.NoError(t, r.TakeEvents(t.Context(), []fanfare.ProviderEvent{{Provider: "sendgrid", Type: fanfare.EventDelivered, At: time.Now(), Delivery: delivery}}))
	r.eventually(func() bool {
		d, err := r.Delivery(t.Context(), delivery)
		require.NoError(t, err)
		return d.State == fanfare.Delivered
	}, "the event is applied")
}

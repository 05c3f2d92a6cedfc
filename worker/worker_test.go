package worker_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/activities"
	"github.com/fanfare-dev/fanfare/local/localtest"
	"github.com/fanfare-dev/fanfare/worker"
	"github.com/fanfare-dev/fanfare/workflows"
)

// A publication in which everything goes its way, seen from outside.
func TestPublish(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	sent := map[string]int{}
	r := newRig(t, setup{batchSize: 30, readers: 100, sender: func(call fanfare.Call) fanfare.Reply {
		mu.Lock()
		defer mu.Unlock()
		for _, to := range call.Recipients {
			sent[to.Address]++
		}
		return accepted
	}})
	id := r.publish()
	p := r.finishes(id)
	require.Equal(t, fanfare.Completed, p.State)
	require.Equal(t, fanfare.Totals{Intended: 100, Sent: 100}, p.Totals)
	require.Len(t, sent, 100)
	for _, times := range sent {
		require.Equal(t, 1, times)
	}

	var tally workflows.Tally
	require.NoError(t, r.GetWorkflow(t.Context(), id.WorkflowID(), "").Get(t.Context(), &tally))
	require.Equal(t, workflows.Tally{State: fanfare.Completed, Totals: p.Totals}, tally)
	answer, err := r.QueryWorkflow(t.Context(), id.WorkflowID(), "", workflows.QueryProgress)
	require.NoError(t, err)
	var progress workflows.Progress
	require.NoError(t, answer.Get(&progress))
	require.Equal(t, 4, progress.Lanes[fanfare.Email].Done)

	t.Run("the batch of a recipient is found", func(t *testing.T) {
		t.Parallel()
		query := `FanfarePublication = "` + string(id) + `" AND FanfareFirst <= 42 AND FanfareLast >= 42`
		require.Equal(t, []string{batchID(id, 2)}, r.list(query))
		require.Equal(t, []string{id.WorkflowID()}, r.list(`FanfareKey = "article-1" AND FanfareTopic = "writer-1" AND FanfareState = "completed"`))
		require.Len(t, r.list(`FanfareChannel = "email" AND FanfareState = "done"`), 4)
	})
}

// What is published in the app is in the inboxes, and nobody is called.
func TestPublishInTheApp(t *testing.T) {
	t.Parallel()
	r := newRig(t, setup{batchSize: 30, readers: 100, inApp: true, sender: acceptAll})
	id := r.publish(func(d *fanfare.Draft) { d.Channels = []fanfare.Channel{fanfare.Email, fanfare.InApp} })
	p := r.finishes(id)
	require.Equal(t, fanfare.Completed, p.State)
	require.Equal(t, fanfare.Totals{Intended: 100, Sent: 100}, p.ByChannel[fanfare.InApp])
	for _, number := range []fanfare.SubscriberNumber{1, 42, 100} {
		inbox, err := r.Inbox(t.Context(), fanfare.InboxQuery{Number: number, Limit: 10})
		require.NoError(t, err)
		require.Len(t, inbox.Items, 1)
		require.Equal(t, title, inbox.Items[0].Title)
		require.EqualValues(t, 1, inbox.Unread)
	}
	d, err := r.Delivery(t.Context(), fanfare.DeliveryID{Publication: id, Channel: fanfare.InApp, Number: 42})
	require.NoError(t, err)
	require.Equal(t, fanfare.Sent, d.State)
	require.Equal(t, activities.InApp, d.Provider)
}

// list waits until the index knows workflows, which takes it a moment.
func (r *rig) list(query string) (ids []string) {
	r.t.Helper()
	r.eventually(func() bool {
		found, err := r.ListWorkflow(r.t.Context(), listRequest(r.namespace, query))
		require.NoError(r.t, err)
		ids = nil
		for _, execution := range found.GetExecutions() {
			ids = append(ids, execution.GetExecution().GetWorkflowId())
		}
		return len(ids) > 0
	}, query)
	return ids
}

// A worker that is told to stop settles what is under way and begins no other
// call; the next one goes on.
func TestAWorkerStopsBetweenCalls(t *testing.T) {
	t.Parallel()
	g := newGate()
	var mu sync.Mutex
	var calls int
	r := newRig(t, setup{batchSize: 500, readers: 20_000, sender: func(fanfare.Call) fanfare.Reply {
		mu.Lock()
		calls++
		mu.Unlock()
		g.wait()
		return accepted
	}})
	id := r.publish()
	<-g.reached
	stopped := make(chan struct{})
	go func() {
		r.stop()
		close(stopped)
	}()
	// It has begun to stop once it asks Temporal for no more work; one call of
	// each batch under way is held at the gate meanwhile.
	require.Never(t, func() bool {
		select {
		case <-stopped:
			return true
		default:
			return false
		}
	}, 300*time.Millisecond, tick, "it waits for calls under way")
	mu.Lock()
	begun := calls
	mu.Unlock()
	close(g.open)
	<-stopped
	p := r.publication(id)
	require.Equal(t, begun, calls, "no call began while it stopped")
	require.EqualValues(t, 500*begun, p.Totals.Sent)
	require.Zero(t, p.Totals.Sending)
	require.Zero(t, p.Totals.InDoubt)

	r.run()
	require.Equal(t, fanfare.Totals{Intended: 20_000, Sent: 20_000}, r.finishes(id).Totals)
	require.Equal(t, 40, calls, "one call for each batch")
}

func TestAPublicationThatIsGoneIsNotTriedForEver(t *testing.T) {
	t.Parallel()
	r := newRig(t, setup{batchSize: 10, readers: 1, sender: acceptAll})
	const gone fanfare.PublicationID = "01890000-0000-7000-8000-00000000dead"
	run, err := r.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: gone.WorkflowID(), TaskQueue: workflows.Queue},
		workflows.Publish, workflows.PublishInput{Publication: gone})
	require.NoError(t, err)
	var failure *temporal.ApplicationError
	require.ErrorAs(t, run.Get(t.Context(), nil), &failure)
	require.Equal(t, workflows.ErrorTypeNotFound, failure.Type())
}

func TestPrepareBySeveralWorkersAtOnce(t *testing.T) {
	t.Parallel()
	c, err := worker.Dial(t.Context(), localtest.Temporal(t), "prepared", quiet)
	require.NoError(t, err)
	defer c.Close()
	errs := make(chan error)
	for range 4 {
		go func() { errs <- worker.Prepare(t.Context(), c, "prepared", quiet) }()
	}
	for range 4 {
		require.NoError(t, <-errs)
	}
	require.NoError(t, worker.Prepare(t.Context(), c, "prepared", quiet), "and once more")
	known, err := c.OperatorService().ListSearchAttributes(t.Context(), &operatorservice.ListSearchAttributesRequest{Namespace: "prepared"})
	require.NoError(t, err)
	require.Equal(t, workflows.SearchAttributes(), known.GetCustomAttributes())
}

func TestDialGivesUpWithItsContext(t *testing.T) {
	t.Parallel()
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := nobody.Addr().String()
	require.NoError(t, nobody.Close())
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err = worker.Dial(ctx, address, "default", quiet)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestRunWithoutItsNamespaceFails(t *testing.T) {
	t.Parallel()
	r := newRig(t, setup{batchSize: 10, readers: 1, sender: acceptAll})
	cfg := r.config
	var err error
	cfg.Temporal, err = worker.Dial(t.Context(), localtest.Temporal(t), "never-prepared", quiet)
	require.NoError(t, err)
	defer cfg.Temporal.Close()
	require.ErrorContains(t, worker.Run(t.Context(), cfg), "never-prepared")
}

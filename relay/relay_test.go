package relay_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/ledger"
	"github.com/fanfare-dev/fanfare/local"
	"github.com/fanfare-dev/fanfare/local/localtest"
	"github.com/fanfare-dev/fanfare/relay"
	"github.com/fanfare-dev/fanfare/worker"
	"github.com/fanfare-dev/fanfare/workflows"
)

func TestMain(m *testing.M) { os.Exit(localtest.Main(m)) }

const (
	patience = time.Minute
	tick     = 20 * time.Millisecond
)

var quiet = slog.New(slog.DiscardHandler)

// office is a ledger with a topic, and a namespace in which no worker works: what
// the relay started stays as it is.
type office struct {
	*ledger.Ledger
	client.Client
	t    *testing.T
	done atomic.Int64 // orders that were struck off
}

// DoneOrders counts what the relay has carried out.
func (o *office) DoneOrders(ctx context.Context, ids []int64) error {
	err := o.Ledger.DoneOrders(ctx, ids)
	if err == nil {
		o.done.Add(int64(len(ids)))
	}
	return err
}

var namespaces atomic.Int64

func newOffice(t *testing.T, address string) *office {
	t.Helper()
	o := &office{t: t}
	var err error
	o.Ledger, err = ledger.Open(t.Context(), localtest.Database(t), 16, ledger.Config{
		Channels: []fanfare.Channel{fanfare.Email}, Expires: 24 * time.Hour, DoubtDeadline: time.Minute,
	})
	require.NoError(t, err)
	t.Cleanup(o.Ledger.Close)
	namespace := fmt.Sprintf("relay-%d", namespaces.Add(1))
	o.Client, err = worker.Dial(t.Context(), address, namespace, quiet)
	require.NoError(t, err)
	t.Cleanup(o.Client.Close)
	require.NoError(t, worker.Prepare(t.Context(), o.Client, namespace, quiet))
	_, _, err = o.PutTopic(t.Context(), "writer-1", "Writer One", nil)
	require.NoError(t, err)
	return o
}

// accept commits publications, which nobody tells the relay.
func (o *office) accept(n int) []fanfare.PublicationID {
	o.t.Helper()
	ids := make([]fanfare.PublicationID, n)
	for i := range ids {
		p, err := o.Accept(o.t.Context(), fanfare.Draft{
			Key: fanfare.Key(fmt.Sprintf("article-%d", i)), Topic: "writer-1", Content: fanfare.Content{Title: "Hello", URL: "https://blog.example/1"},
		}, "")
		require.NoError(o.t, err)
		ids[i] = p.ID
	}
	return ids
}

// relay runs a relay until the test ends.
func (o *office) relay() *relay.Relay {
	r := relay.New(o, o.Client, quiet)
	ctx, stop := context.WithCancel(o.t.Context())
	var running sync.WaitGroup
	running.Go(func() { r.Run(ctx) })
	o.t.Cleanup(func() {
		stop()
		running.Wait()
	})
	return r
}

// run is the workflow's open run, or its last; empty if there never was one.
func (o *office) run(id fanfare.PublicationID) (runID string, open bool) {
	o.t.Helper()
	found, err := o.DescribeWorkflowExecution(o.t.Context(), id.WorkflowID(), "")
	if err != nil {
		return "", false // never started, or Temporal is away
	}
	info := found.GetWorkflowExecutionInfo()
	return info.GetExecution().GetRunId(), info.GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING
}

func (o *office) started(ids []fanfare.PublicationID) bool {
	for _, id := range ids {
		if _, open := o.run(id); !open {
			return false
		}
	}
	return true
}

// everRun counts the runs in the namespace, open and closed.
func (o *office) everRun() int {
	found, err := o.CountWorkflow(o.t.Context(), &workflowservice.CountWorkflowExecutionsRequest{Query: "WorkflowType = 'Publish'"})
	require.NoError(o.t, err)
	return int(found.GetCount())
}

// signals counts the wakes in a run's history.
func (o *office) signals(id fanfare.PublicationID) (n int) {
	events := o.GetWorkflowHistory(o.t.Context(), id.WorkflowID(), "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for events.HasNext() {
		event, err := events.Next()
		require.NoError(o.t, err)
		if event.GetWorkflowExecutionSignaledEventAttributes().GetSignalName() == workflows.SignalWake {
			n++
		}
	}
	return n
}

func (o *office) eventually(condition func() bool, what string) {
	o.t.Helper()
	require.Eventually(o.t, condition, patience, tick, what)
}

func TestSeveralRelaysStartEachPublicationOnce(t *testing.T) {
	t.Parallel()
	o := newOffice(t, localtest.Temporal(t))
	ids := o.accept(60)
	for range 4 {
		o.relay()
	}
	o.eventually(func() bool { return o.started(ids) }, "all are started")
	o.eventually(func() bool { return o.done.Load() == int64(len(ids)) }, "all orders are struck off, each once")
	require.Eventually(t, func() bool { return o.everRun() == len(ids) }, patience, tick, "one run for each")
}

func TestAStartIsToldAtOnce(t *testing.T) {
	t.Parallel()
	o := newOffice(t, localtest.Temporal(t))
	o.relay()
	ids := o.accept(1)
	require.NoError(t, o.Wake(t.Context()))
	o.eventually(func() bool { return o.started(ids) }, "it is started")
}

func TestAnOrderToStartWhatIsOpenIsDone(t *testing.T) {
	t.Parallel()
	o := newOffice(t, localtest.Temporal(t))
	ids := o.accept(1)
	_, err := relay.Sweep(t.Context(), o.Ledger, o.Client)
	require.NoError(t, err)
	before, open := o.run(ids[0])
	require.True(t, open)

	o.relay().Wake()
	o.eventually(func() bool { return o.done.Load() == 1 }, "the order is done")
	after, open := o.run(ids[0])
	require.True(t, open)
	require.Equal(t, before, after)
	require.Equal(t, 1, o.everRun())
}

func TestAWakeFindsTheWorkflow(t *testing.T) {
	t.Parallel()
	o := newOffice(t, localtest.Temporal(t))
	ids := o.accept(1)
	o.relay().Wake()
	o.eventually(func() bool { return o.started(ids) }, "it is started")
	before, _ := o.run(ids[0])

	_, err := o.Pause(t.Context(), ids[0])
	require.NoError(t, err)
	require.NoError(t, o.Wake(t.Context()))
	o.eventually(func() bool { return o.signals(ids[0]) == 1 }, "it is woken")
	o.eventually(func() bool { return o.done.Load() == 2 }, "the orders are done")
	after, _ := o.run(ids[0])
	require.Equal(t, before, after, "and not started again")
}

func TestAWakeStartsWhatIsMissing(t *testing.T) {
	t.Parallel()
	o := newOffice(t, localtest.Temporal(t))
	ids := o.accept(1)
	orders, err := o.LeaseOrders(t.Context(), 10, time.Minute)
	require.NoError(t, err)
	require.NoError(t, o.Ledger.DoneOrders(t.Context(), []int64{orders[0].ID}), "its start is lost")
	_, err = o.Cancel(t.Context(), ids[0])
	require.NoError(t, err)

	o.relay()
	o.eventually(func() bool { return o.started(ids) }, "it is started")
	require.Equal(t, 1, o.signals(ids[0]))
	o.eventually(func() bool { return o.done.Load() == 1 }, "the order is done")
}

func TestOrdersWaitWhileTemporalIsAway(t *testing.T) {
	t.Parallel()
	port, err := local.FreePort()
	require.NoError(t, err)
	cfg := local.TemporalConfig{Path: localtest.CLI(), File: filepath.Join(t.TempDir(), "temporal.db"), Port: port, Headless: true}
	server, err := local.StartTemporal(t.Context(), cfg)
	require.NoError(t, err)
	o := newOffice(t, server.Address)
	o.relay()
	require.NoError(t, server.Stop(t.Context()))

	ids := o.accept(5)
	require.NoError(t, o.Wake(t.Context()))
	server, err = local.StartTemporal(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Stop(context.WithoutCancel(t.Context()))) })
	o.eventually(func() bool { return o.started(ids) }, "they are started when it is back")
	o.eventually(func() bool { return o.done.Load() == 5 }, "and struck off")
}

func TestSweepStartsWhatIsClosedAndUnfinished(t *testing.T) {
	t.Parallel()
	o := newOffice(t, localtest.Temporal(t))
	ids := o.accept(5)
	swept, err := relay.Sweep(t.Context(), o.Ledger, o.Client)
	require.NoError(t, err)
	require.Equal(t, relay.Swept{Unfinished: 5, Started: 5}, swept, "none had a workflow")

	closed, _ := o.run(ids[2])
	require.NoError(t, o.TerminateWorkflow(t.Context(), ids[2].WorkflowID(), "", "by mistake"))
	o.finish(ids[4])
	swept, err = relay.Sweep(t.Context(), o.Ledger, o.Client)
	require.NoError(t, err)
	require.Equal(t, relay.Swept{Unfinished: 4, Started: 1}, swept, "an open run is as good, and what is finished stays closed")
	again, open := o.run(ids[2])
	require.True(t, open)
	require.NotEqual(t, closed, again)
}

// finish ends a publication: its audience is empty.
func (o *office) finish(id fanfare.PublicationID) {
	o.t.Helper()
	require.NoError(o.t, o.Start(o.t.Context(), id))
	p, err := o.Finish(o.t.Context(), id)
	require.NoError(o.t, err)
	require.NotNil(o.t, p.FinishedAt)
}

func TestOneOfManySweeps(t *testing.T) {
	t.Parallel()
	o := newOffice(t, localtest.Temporal(t))
	ids := o.accept(3)
	ctx, stop := context.WithCancel(t.Context())
	var sweeping sync.WaitGroup
	for range 3 {
		sweeping.Go(func() { relay.SweepForEver(ctx, o.Ledger, o.Client, quiet) })
	}
	o.eventually(func() bool { return o.started(ids) }, "a sweep comes at once")
	stop()
	sweeping.Wait()
	require.Eventually(t, func() bool { return o.everRun() == len(ids) }, patience, tick)
}

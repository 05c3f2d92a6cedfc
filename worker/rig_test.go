package worker_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/log"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/activities"
	"github.com/fanfare-dev/fanfare/ledger"
	"github.com/fanfare-dev/fanfare/local/localtest"
	"github.com/fanfare-dev/fanfare/worker"
)

func TestMain(m *testing.M) { os.Exit(localtest.Main(m)) }

const (
	patience = 2 * time.Minute // for anything; a loaded machine is slow
	tick     = 20 * time.Millisecond

	// title is in every announcement of these tests and must be in no history.
	title = "Sphinx of black quartz"
)

var quiet = slog.New(slog.DiscardHandler)

// rig is a whole worker at work: a database and a namespace of its own, the real
// ledger, workflows, activities and relay. Only the provider is played.
type rig struct {
	*ledger.Ledger
	client.Client
	t         *testing.T
	namespace string
	config    worker.Config
	stop      func() // stops the worker
}

// setup says what a rig differs in from the ordinary.
type setup struct {
	address   string // of Temporal; empty: the one shared by all tests
	batchSize int
	readers   int
	sender    sender
	inApp     bool
	lookUps   map[string]activities.LookUp
	ledger    func(*ledger.Config)
}

// sender plays a provider that answers at once.
type sender func(fanfare.Call) fanfare.Reply

func (sender) Name() string       { return "played" }
func (sender) MaxRecipients() int { return 1000 }
func (s sender) Send(_ context.Context, call fanfare.Call) fanfare.Reply {
	return s(call)
}

var accepted = fanfare.Reply{Outcome: fanfare.Outcome{Kind: fanfare.OutcomeAccepted, Code: "202"}, ProviderID: "m-1"}

func acceptAll(fanfare.Call) fanfare.Reply { return accepted }

// noBreaker lets every call through.
type noBreaker struct{}

func (noBreaker) Permit(context.Context, string) (fanfare.Permit, error) {
	return fanfare.Permit{Allowed: true, Done: func(fanfare.Outcome) {}}, nil
}

type renderer struct{}

func (renderer) Render(_ fanfare.Channel, a fanfare.Announcement, _ string) (fanfare.Message, error) {
	return fanfare.Message{Subject: a.Content.Title}, nil
}

var namespaces atomic.Int64

// newRig runs a worker until the test ends, with readers subscribed to "writer-1".
func newRig(t *testing.T, s setup) *rig {
	t.Helper()
	if s.address == "" {
		s.address = localtest.Temporal(t)
	}
	cfg := ledger.Config{
		Channels: []fanfare.Channel{fanfare.Email}, Expires: 24 * time.Hour, DoubtDeadline: time.Minute, Ladder: []time.Duration{time.Second, time.Second},
		DoubtPolicy: map[fanfare.Channel]ledger.Policy{fanfare.Email: ledger.Hold},
	}
	if s.ledger != nil {
		s.ledger(&cfg)
	}
	l, err := ledger.Open(t.Context(), localtest.Database(t), 16, cfg)
	require.NoError(t, err)
	t.Cleanup(l.Close)
	r := &rig{Ledger: l, t: t, namespace: fmt.Sprintf("test-%d", namespaces.Add(1))}
	r.Client, err = client.Dial(client.Options{
		HostPort: s.address, Namespace: r.namespace, Logger: log.NewStructuredLogger(quiet),
		Identity: "worker", // by default it names the machine
	})
	require.NoError(t, err)
	t.Cleanup(r.Client.Close)
	require.NoError(t, worker.Prepare(t.Context(), r.Client, r.namespace, quiet))
	r.subscribe(s.readers)
	if s.lookUps == nil {
		s.lookUps = map[string]activities.LookUp{sender(nil).Name(): activities.NoLookUp{}}
	}
	r.config = worker.Config{
		Ledger: l, Temporal: r.Client, Renderer: renderer{}, LookUps: s.lookUps, BatchSize: s.batchSize, Log: quiet,
		Senders: map[fanfare.Channel][]activities.Sender{fanfare.Email: {s.sender}}, Breaker: noBreaker{}, InApp: s.inApp, Backoff: []time.Duration{200 * time.Millisecond},
		Links: activities.Links{PublicURL: "https://fanfare.example", Secret: "secret"},
	}
	r.stop = r.run()
	return r
}

// run runs a worker until it is told to stop, or the test ends.
func (r *rig) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.t.Context()))
	var err error
	var running sync.WaitGroup
	running.Go(func() { err = worker.Run(ctx, r.config) })
	stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		require.NoError(r.t, err)
	})
	r.t.Cleanup(stop)
	return stop
}

func (r *rig) subscribe(readers int) {
	r.t.Helper()
	_, _, err := r.PutTopic(r.t.Context(), "writer-1", "Writer One", nil)
	require.NoError(r.t, err)
	lines := make([]fanfare.ImportLine, readers)
	for i := range lines {
		name := fmt.Sprintf("reader-%d", i+1)
		lines[i] = fanfare.ImportLine{Line: i + 1, Subscriber: fanfare.Subscriber{ID: fanfare.SubscriberID(name), Email: name + "@mail.example"}}
	}
	_, err = r.Import(r.t.Context(), "writer-1", func(context.Context) ([]fanfare.ImportLine, error) { return lines, io.EOF })
	require.NoError(r.t, err)
}

func (r *rig) publish(change ...func(*fanfare.Draft)) fanfare.PublicationID {
	r.t.Helper()
	draft := fanfare.Draft{Key: "article-1", Topic: "writer-1", Content: fanfare.Content{Title: title, URL: "https://blog.example/1"}}
	for _, c := range change {
		c(&draft)
	}
	p, err := r.Accept(r.t.Context(), draft, "")
	require.NoError(r.t, err)
	require.NoError(r.t, r.Wake(r.t.Context()))
	return p.ID
}

// publication reads where it stands.
func (r *rig) publication(id fanfare.PublicationID) fanfare.Publication {
	r.t.Helper()
	p, err := r.Publication(r.t.Context(), id)
	require.NoError(r.t, err)
	return p
}

// finishes waits for the end of a publication and of its workflow, and checks the books.
func (r *rig) finishes(id fanfare.PublicationID) fanfare.Publication {
	r.t.Helper()
	r.eventually(func() bool { return r.publication(id).FinishedAt != nil }, "the publication finishes")
	r.closes(id.WorkflowID())
	verified, err := r.Verify(r.t.Context(), id, nil)
	require.NoError(r.t, err)
	require.True(r.t, verified.OK, "%v", verified.Problems)
	return r.publication(id)
}

// closes waits until a workflow has no open run.
func (r *rig) closes(workflowID string) {
	r.t.Helper()
	r.eventually(func() bool {
		found, err := r.DescribeWorkflowExecution(r.t.Context(), workflowID, "")
		return err == nil && found.GetWorkflowExecutionInfo().GetStatus() != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING
	}, workflowID+" closes")
}

func (r *rig) eventually(condition func() bool, what string) {
	r.t.Helper()
	require.Eventually(r.t, condition, patience, tick, what)
}

// history reads one run; the last one where runID is empty.
func (r *rig) history(workflowID, runID string) *historypb.History {
	r.t.Helper()
	events := r.GetWorkflowHistory(r.t.Context(), workflowID, runID, false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	history := &historypb.History{}
	for events.HasNext() {
		event, err := events.Next()
		require.NoError(r.t, err)
		history.Events = append(history.Events, event)
	}
	return history
}

// runs reads all runs of a workflow, from the first to the last.
func (r *rig) runs(workflowID string) []*historypb.History {
	r.t.Helper()
	var all []*historypb.History
	for runID := ""; ; {
		history := r.history(workflowID, runID)
		all = append([]*historypb.History{history}, all...)
		runID = history.GetEvents()[0].GetWorkflowExecutionStartedEventAttributes().GetContinuedExecutionRunId()
		if runID == "" {
			return all
		}
	}
}

func listRequest(namespace, query string) *workflowservice.ListWorkflowExecutionsRequest {
	return &workflowservice.ListWorkflowExecutionsRequest{Namespace: namespace, Query: query}
}

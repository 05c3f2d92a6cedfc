package worker_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/temporalproto"
	"go.temporal.io/api/workflowservice/v1"
	sdk "go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/activities"
	"github.com/fanfare-dev/fanfare/ledger"
	"github.com/fanfare-dev/fanfare/local"
	"github.com/fanfare-dev/fanfare/local/localtest"
	"github.com/fanfare-dev/fanfare/worker"
)

// record writes the histories of the scenarios below to the corpus that
// workflows/replay_test.go replays:
//
//	go test ./worker -run TestScenarios -record
//
// Do so in the commit that changes what workflows do, never to make a replay
// pass: a worker of the new code must be able to go on with runs of the old.
var record = flag.Bool("record", false, "write the histories of the scenarios to workflows/testdata/histories")

const corpus = "../workflows/testdata/histories"

// TestScenarios runs what can happen to a publication, for real, and keeps or
// replays its histories.
func TestScenarios(t *testing.T) {
	t.Parallel()
	for name, scenario := range map[string]func(*testing.T){
		"windows":   windows,
		"continued": continued,
		"paused":    paused,
		"cancelled": cancelled,
		"scheduled": scheduled,
		"retried":   retried,
		"doubted":   doubted,
		"dead":      dead,
		"reset":     reset,
		"replayed":  replayed,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			scenario(t)
		})
	}
}

// keep replays a history, and records it if asked to.
func (r *rig) keep(name string, history *historypb.History) {
	r.t.Helper()
	r.keepRun(name, history.GetEvents()[0].GetWorkflowExecutionStartedEventAttributes().GetOriginalExecutionRunId(), history)
}

// keepRun keeps the history of a run that was reset: it does not show its id.
func (r *rig) keepRun(name, run string, history *historypb.History) {
	r.t.Helper()
	for _, event := range history.GetEvents() {
		// Only where and how fast it was recorded.
		if scheduled := event.GetWorkflowTaskScheduledEventAttributes(); scheduled.GetTaskQueue().GetKind() == enumspb.TASK_QUEUE_KIND_STICKY {
			scheduled.TaskQueue.Name = "sticky"
		}
	}
	lines := make([]string, len(history.GetEvents()))
	for i, event := range history.GetEvents() {
		line, err := temporalproto.CustomJSONMarshalOptions{}.Marshal(event)
		require.NoError(r.t, err)
		var compact bytes.Buffer
		require.NoError(r.t, json.Compact(&compact, line)) // its spaces are up to chance
		lines[i] = compact.String()
	}
	text := "{\"events\": [\n" + strings.Join(lines, ",\n") + "\n]}\n"
	requireNothingPersonal(r.t, text)
	if *record {
		require.NoError(r.t, os.WriteFile(filepath.Join(corpus, name+".json"), []byte(text), 0o644))
	}
	replayer := sdk.NewWorkflowReplayer()
	worker.RegisterWorkflows(replayer)
	options := sdk.ReplayWorkflowHistoryOptions{OriginalExecution: workflow.Execution{ID: name, RunID: run}}
	require.NoError(r.t, replayer.ReplayWorkflowHistoryWithOptions(nil, history, options))
}

// payload is a value as it stands in a history, in base64.
var payload = regexp.MustCompile(`"data":"([^"]*)"`)

func requireNothingPersonal(t *testing.T, history string) {
	t.Helper()
	for _, match := range payload.FindAllStringSubmatch(history, -1) {
		text, err := base64.StdEncoding.DecodeString(match[1])
		require.NoError(t, err)
		history += string(text)
	}
	require.Contains(t, history, `"publication"`, "payloads were read")
	for _, personal := range []string{"@", "reader-", "mail.example", title, "blog.example"} {
		require.NotContains(t, history, personal)
	}
}

func batchID(id fanfare.PublicationID, n int) string {
	return fanfare.BatchRef{Publication: id, Channel: fanfare.Email, N: n}.WorkflowID()
}

// windows publishes in three windows.
func windows(t *testing.T) {
	r := newRig(t, setup{batchSize: 2, readers: 80, sender: acceptAll})
	id := r.publish()
	require.Equal(t, fanfare.Completed, r.finishes(id).State)
	r.keep("publish-windows", r.history(id.WorkflowID(), ""))
	r.closes(batchID(id, 1))
	r.keep("batch", r.history(batchID(id, 1), ""))
}

// continued publishes through a server that suggests to continue as new early.
func continued(t *testing.T) {
	r := newRig(t, setup{address: hasty(t), batchSize: 2, readers: 80, sender: acceptAll})
	id := r.publish()
	require.Equal(t, fanfare.Completed, r.finishes(id).State)
	runs := r.runs(id.WorkflowID())
	require.Greater(t, len(runs), 2)
	r.keep("publish-continued-first", runs[0])
	r.keep("publish-continued-second", runs[1])
	r.keep("publish-continued-last", runs[len(runs)-1])
}

// hasty starts a Temporal server of the test's own that finds a history long
// after 60 events instead of 4,096.
func hasty(t *testing.T) string {
	t.Helper()
	var ports [3]int
	for i := range ports {
		port, err := local.FreePort()
		require.NoError(t, err)
		ports[i] = port
	}
	path := localtest.CLI()
	if path == "" {
		path = "temporal"
	}
	process, err := local.StartProcess(local.Command{Name: "temporal", Path: path, Args: []string{
		"server", "start-dev", "--headless", "--ip", "127.0.0.1", "--log-level", "error",
		"--port", fmt.Sprint(ports[0]), "--http-port", fmt.Sprint(ports[1]), "--metrics-port", fmt.Sprint(ports[2]),
		"--dynamic-config-value", "limit.historyCount.suggestContinueAsNew=60",
		"--dynamic-config-value", "system.forceSearchAttributesCacheRefreshOnRead=true",
	}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, process.Stop(context.WithoutCancel(t.Context()))) })
	address := fmt.Sprintf("127.0.0.1:%d", ports[0])
	c, err := worker.Dial(t.Context(), address, "default", quiet) // waits until it answers
	require.NoError(t, err)
	c.Close()
	return address
}

// gate holds calls back until it is opened.
type gate struct {
	reached, open chan struct{}
	once          sync.Once
}

func newGate() *gate { return &gate{reached: make(chan struct{}), open: make(chan struct{})} }

func (g *gate) wait() {
	g.once.Do(func() { close(g.reached) })
	<-g.open
}

// paused pauses a publication with calls under way, and resumes it.
func paused(t *testing.T) {
	g := newGate()
	r := newRig(t, setup{batchSize: 2, readers: 40, sender: func(fanfare.Call) fanfare.Reply { g.wait(); return accepted }})
	id := r.publish()
	<-g.reached
	_, err := r.Pause(t.Context(), id)
	require.NoError(t, err)
	require.NoError(t, r.Wake(t.Context()))
	close(g.open)
	r.eventually(func() bool { return r.shows(id, fanfare.Paused) }, "the workflow sees the pause")
	_, err = r.Resume(t.Context(), id)
	require.NoError(t, err)
	require.NoError(t, r.Wake(t.Context()))
	require.Equal(t, fanfare.Completed, r.finishes(id).State)
	require.EqualValues(t, 40, r.publication(id).Totals.Sent)
	r.keep("publish-paused", r.history(id.WorkflowID(), ""))
	r.closes(batchID(id, 16))
	r.keep("batch-paused", r.history(batchID(id, 16), ""))
}

// shows reports whether the last event that tells the workflow's state tells this one.
func (r *rig) shows(id fanfare.PublicationID, state fanfare.PublicationState) bool {
	found, err := r.DescribeWorkflowExecution(r.t.Context(), id.WorkflowID(), "")
	if err != nil {
		return false
	}
	value := found.GetWorkflowExecutionInfo().GetSearchAttributes().GetIndexedFields()["FanfareState"]
	return string(value.GetData()) == fmt.Sprintf("%q", state)
}

// cancelled cancels a publication with calls under way.
func cancelled(t *testing.T) {
	g := newGate()
	r := newRig(t, setup{batchSize: 2, readers: 40, sender: func(fanfare.Call) fanfare.Reply { g.wait(); return accepted }})
	id := r.publish()
	<-g.reached
	_, err := r.Cancel(t.Context(), id)
	require.NoError(t, err)
	require.NoError(t, r.Wake(t.Context()))
	close(g.open)
	p := r.finishes(id)
	require.Equal(t, fanfare.Cancelled, p.State)
	require.EqualValues(t, 40, p.Totals.Sent+p.Totals.Skipped)
	require.Positive(t, p.Totals.Sent, "a call under way is settled")
	r.keep("publish-cancelled", r.history(id.WorkflowID(), ""))
	r.closes(batchID(id, 1))
	r.keep("batch-cancelled", r.history(batchID(id, 1), ""))
}

// scheduled publishes a little later.
func scheduled(t *testing.T) {
	r := newRig(t, setup{batchSize: 2, readers: 4, sender: acceptAll})
	due := time.Now().Add(1500 * time.Millisecond)
	id := r.publish(func(d *fanfare.Draft) { d.ScheduledAt = &due })
	p := r.finishes(id)
	require.Equal(t, fanfare.Completed, p.State)
	require.WithinRange(t, *p.StartedAt, due, due.Add(20*time.Second))
	r.keep("publish-scheduled", r.history(id.WorkflowID(), ""))
}

// replies answers each call as the next function says, and accepts the rest.
func replies(first ...fanfare.Outcome) sender {
	var mu sync.Mutex
	return func(fanfare.Call) fanfare.Reply {
		mu.Lock()
		defer mu.Unlock()
		if len(first) == 0 {
			return accepted
		}
		next := first[0]
		first = first[1:]
		return fanfare.Reply{Outcome: next}
	}
}

// retried sends through a provider that is away and then asks for time.
func retried(t *testing.T) {
	r := newRig(t, setup{batchSize: 5, readers: 5, sender: replies(
		fanfare.Outcome{Kind: fanfare.OutcomeUnavailable, Code: "503"},
		fanfare.Outcome{Kind: fanfare.OutcomeThrottled, Code: "429", RetryAfter: 500 * time.Millisecond},
	)})
	id := r.publish()
	require.EqualValues(t, 5, r.finishes(id).Totals.Sent)
	r.closes(batchID(id, 1))
	r.keep("batch-retried", r.history(batchID(id, 1), ""))
}

// lookUp plays a provider that shows every call from the second look on.
type lookUp struct {
	mu    sync.Mutex
	looks int
}

func (l *lookUp) LookUp(context.Context, fanfare.Question) (fanfare.Sighting, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.looks++
	return fanfare.Sighting{Seen: l.looks > 1, Evidence: "it is shown"}, nil
}

// doubted loses the answer of one call, which the provider shows later.
func doubted(t *testing.T) {
	r := newRig(t, setup{
		batchSize: 5, readers: 10, sender: replies(fanfare.Outcome{Kind: fanfare.OutcomeAmbiguous, Code: "500"}),
		lookUps: map[string]activities.LookUp{sender(nil).Name(): &lookUp{}},
	})
	id := r.publish()
	p := r.finishes(id)
	require.Equal(t, fanfare.Totals{Intended: 10, Sent: 10}, p.Totals)
	r.keep("publish-doubted", r.history(id.WorkflowID(), ""))
	r.closes("reconcile/" + string(id) + "/email")
	r.keep("reconcile", r.history("reconcile/"+string(id)+"/email", ""))
	for n := 1; n <= 2; n++ {
		r.closes(batchID(id, n))
		history := r.history(batchID(id, n), "")
		for _, event := range history.GetEvents() {
			if event.GetEventType() == enumspb.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED {
				r.keep("batch-doubted", history)
				return
			}
		}
	}
	t.Fatal("no batch had its doubt reconciled")
}

// dead loses an answer that no provider can be asked for, under the policy to hold.
func dead(t *testing.T) {
	r := newRig(t, setup{
		batchSize: 5, readers: 5, sender: replies(fanfare.Outcome{Kind: fanfare.OutcomeAmbiguous, Code: "500"}),
		ledger: func(c *ledger.Config) { c.DoubtDeadline = 300 * time.Millisecond },
	})
	id := r.publish()
	p := r.finishes(id)
	require.Equal(t, fanfare.CompletedWithFailures, p.State)
	require.Equal(t, fanfare.Totals{Intended: 5, Dead: 5}, p.Totals)
	r.keep("publish-dead", r.history(id.WorkflowID(), ""))
	r.closes(batchID(id, 1))
	r.keep("batch-dead", r.history(batchID(id, 1), ""))
}

// died publishes to people whom the provider tells "later" until they are dead.
func died(t *testing.T) (*rig, fanfare.PublicationID) {
	t.Helper()
	later := fanfare.Outcome{Kind: fanfare.OutcomeThrottled, Code: "429", RetryAfter: 50 * time.Millisecond}
	r := newRig(t, setup{batchSize: 5, readers: 5, sender: replies(later, later), ledger: func(c *ledger.Config) {
		c.Ladder = []time.Duration{50 * time.Millisecond}
	}})
	id := r.publish()
	p := r.finishes(id)
	require.Equal(t, fanfare.CompletedWithFailures, p.State)
	require.Equal(t, fanfare.Totals{Intended: 5, Dead: 5}, p.Totals)
	r.closes(batchID(id, 1))
	return r, id
}

// completes waits until the publication, which had failures, has none any more.
func (r *rig) completes(id fanfare.PublicationID) {
	r.t.Helper()
	r.eventually(func() bool { return r.publication(id).State == fanfare.Completed }, "the publication completes")
	require.EqualValues(r.t, 5, r.finishes(id).Totals.Sent)
}

// reset resets a batch that ended with dead letters, from each kind of point.
func reset(t *testing.T) {
	for name, event := range map[string]func(*historypb.History) int64{
		"from the first task": func(h *historypb.History) int64 { return completedTasks(h)[0] },
		"from the last task":  func(h *historypb.History) int64 { tasks := completedTasks(h); return tasks[len(tasks)-1] },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, id := died(t)
			answer, err := r.ResetWorkflowExecution(t.Context(), &workflowservice.ResetWorkflowExecutionRequest{
				Namespace: r.namespace, WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: batchID(id, 1)},
				Reason: "the provider is back", WorkflowTaskFinishEventId: event(r.history(batchID(id, 1), "")), RequestId: name,
			})
			require.NoError(t, err)
			r.completes(id)
			r.closes(batchID(id, 1))
			run := answer.GetRunId()
			if name == "from the last task" {
				r.keepRun("batch-reset", run, r.history(batchID(id, 1), run))
				r.keep("publish-reopened", r.history(id.WorkflowID(), ""))
			}
			again, _, err := r.Reopen(t.Context(), fanfare.BatchRef{Publication: id, Channel: fanfare.Email, N: 1}, run)
			require.NoError(t, err)
			require.Zero(t, again, "a run takes dead letters back once")
		})
	}
}

func completedTasks(h *historypb.History) (ids []int64) {
	for _, event := range h.GetEvents() {
		if event.GetEventType() == enumspb.EVENT_TYPE_WORKFLOW_TASK_COMPLETED {
			ids = append(ids, event.GetEventId())
		}
	}
	return ids
}

// replayed sends dead letters again by filter.
func replayed(t *testing.T) {
	r, id := died(t)
	replay, err := r.AcceptReplay(t.Context(), fanfare.ReplayFilter{Publication: string(id)}, "")
	require.NoError(t, err)
	require.EqualValues(t, 5, replay.Count)
	require.NoError(t, r.Wake(t.Context()))
	r.completes(id)
	r.closes(replay.ID.WorkflowID())
	done, err := r.Replay(t.Context(), replay.ID)
	require.NoError(t, err)
	require.Equal(t, fanfare.ReplayCompleted, done.State)
	require.Equal(t, fanfare.Totals{Intended: 5, Sent: 5}, done.Totals)
	r.keep("replay", r.history(replay.ID.WorkflowID(), ""))
}

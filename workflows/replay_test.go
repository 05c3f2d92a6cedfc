package workflows_test

import (
	"encoding/base64"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/fanfare-dev/fanfare/workflows"
)

const corpus = "testdata/histories"

// scenarios are the recorded histories that there must be, each with what makes
// it worth replaying. worker/record_test.go says how they are recorded.
func scenarios() map[string]func(recorded) bool {
	return map[string]func(recorded) bool{
		"publish-windows": func(h recorded) bool {
			return h.count(enumspb.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED) > 2*window
		},
		"publish-continued-first": func(h recorded) bool {
			return h.ends(enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW) && !h.carries()
		},
		"publish-continued-second": recorded.carries,
		"publish-continued-last": func(h recorded) bool {
			return h.ends(enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED) && h.carries()
		},
		"publish-paused": func(h recorded) bool {
			return h.says(`"paused"`) && h.says(`"completed"`)
		},
		"publish-cancelled": func(h recorded) bool { return h.says(`"cancelled"`) && h.runs("Close") == 1 },
		"publish-scheduled": func(h recorded) bool { return h.says(`"scheduled"`) && h.runs("Look") > 2 },
		"publish-doubted":   func(h recorded) bool { return h.says(`"completed"`) },
		"publish-dead":      func(h recorded) bool { return h.says(`"completed_with_failures"`) },
		"batch":             func(h recorded) bool { return h.runs("Send") == 1 },
		"batch-retried":     func(h recorded) bool { return h.runs("Send") > 2 && h.says(`"failures":1`) },
		"batch-paused":      func(h recorded) bool { return h.runs("Send") > 1 && h.says(`"publication_state":"paused"`) },
		"batch-cancelled":   func(h recorded) bool { return h.says(`"publication_state":"cancelled"`) },
		"batch-doubted": func(h recorded) bool {
			return h.count(enumspb.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED) > 0 && h.ends(enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED)
		},
		"batch-dead": func(h recorded) bool {
			return h.ends(enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED) && h.says("deliveries are dead")
		},
		"batch-reset": func(h recorded) bool {
			return h.runs("Reopen") == 1 && h.ends(enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED)
		},
		"publish-reopened": func(h recorded) bool { return h.ends(enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED) },
		"replay": func(h recorded) bool {
			return h.runs("Take") > 0 && h.says(`"state":"completed"`) && h.ends(enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED)
		},
		"reconcile": func(h recorded) bool { return h.runs("Reconcile") > 1 },
	}
}

// TestReplay runs today's code against the recorded past. Where it fails, a
// worker with this code could not go on with runs of an older one: make the change behind
// workflow.GetVersion and keep the histories.
func TestReplay(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join(corpus, "*.json"))
	require.NoError(t, err)
	require.NotEmpty(t, files, "nothing is recorded: go test ./worker -run TestScenarios -record")
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			t.Parallel()
			replayer := worker.NewWorkflowReplayer()
			replayer.RegisterWorkflow(workflows.Publish)
			replayer.RegisterWorkflow(workflows.Batch)
			replayer.RegisterWorkflow(workflows.Reconcile)
			replayer.RegisterWorkflow(workflows.Replay)
			h := readRecorded(t, file)
			options := worker.ReplayWorkflowHistoryOptions{OriginalExecution: workflow.Execution{ID: "recorded", RunID: h.run()}}
			require.NoError(t, replayer.ReplayWorkflowHistoryWithOptions(nil, h.History, options))
		})
	}
}

func TestCorpusIsWhole(t *testing.T) {
	t.Parallel()
	for _, name := range slices.Sorted(maps.Keys(scenarios())) {
		h := readRecorded(t, filepath.Join(corpus, name+".json"))
		require.True(t, scenarios()[name](h), "%s does not hold what its name says", name)
		for _, personal := range []string{"@", "reader-", ".example", "Sphinx of black quartz"} {
			require.NotContains(t, h.text, personal, "%s: histories hold ids and counts", name)
		}
	}
}

// recorded is a history, and its text with the payloads in clear.
type recorded struct {
	*historypb.History
	text string
}

var payload = regexp.MustCompile(`"data":"([^"]*)"`)

func readRecorded(t *testing.T, file string) recorded {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	history, err := client.HistoryFromJSON(strings.NewReader(string(text)), client.HistoryJSONOptions{})
	require.NoError(t, err)
	h := recorded{History: history, text: string(text)}
	for _, match := range payload.FindAllStringSubmatch(h.text, -1) {
		value, err := base64.StdEncoding.DecodeString(match[1])
		require.NoError(t, err)
		h.text += string(value) + "\n"
	}
	return h
}

// reopening is what a batch asks for when it was reset; the run that asks is the
// one whose history it is.
var reopening = regexp.MustCompile(`"run":"([0-9a-f-]{36})"`)

// run is the id of the run: a history shows only the one it began as.
func (h recorded) run() string {
	if asked := reopening.FindAllStringSubmatch(h.text, -1); asked != nil {
		return asked[len(asked)-1][1]
	}
	return h.GetEvents()[0].GetWorkflowExecutionStartedEventAttributes().GetOriginalExecutionRunId()
}

func (h recorded) says(text string) bool { return strings.Contains(h.text, text) }

func (h recorded) count(kind enumspb.EventType) (n int) {
	for _, event := range h.GetEvents() {
		if event.GetEventType() == kind {
			n++
		}
	}
	return n
}

func (h recorded) ends(kind enumspb.EventType) bool {
	return h.GetEvents()[len(h.GetEvents())-1].GetEventType() == kind
}

// carries reports whether the run goes on with what another left.
func (h recorded) carries() bool {
	return h.GetEvents()[0].GetWorkflowExecutionStartedEventAttributes().GetContinuedExecutionRunId() != "" && h.says(`"lanes":{"email":{"after":`)
}

func (h recorded) runs(activity string) (n int) {
	for _, event := range h.GetEvents() {
		if event.GetActivityTaskScheduledEventAttributes().GetActivityType().GetName() == activity {
			n++
		}
	}
	return n
}

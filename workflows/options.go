package workflows

import (
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	fanfare "github.com/fanfare-dev/fanfare"
)

// Queue carries workflows and the activities that only touch the ledger.
const Queue = "fanfare"

// SendQueue carries the sends of one lane: one class on one channel. Lanes do
// not wait for each other.
func SendQueue(channel fanfare.Channel, class fanfare.Class) string {
	return Queue + "-" + string(channel) + "-" + string(class)
}

const (
	// windowSize is how many batches of a channel are in their first pass at
	// once: enough calls in flight to hide a provider's answer time of some hundred
	// milliseconds, and few enough that a pause or a cancel has little to stop.
	windowSize = 16
	// glance is how often a waiting workflow reads the ledger, whatever signals
	// it got. A lost signal costs this much.
	glance = 30 * time.Second
	// batchesPerRun and eventsPerRun make a run continue as new long before
	// Temporal warns at 10,240 events: a batch costs its parent about ten events.
	batchesPerRun = 200
	eventsPerRun  = 4000
	// heartbeatTimeout is three beats of activities.HeartbeatEvery and a little: what a
	// dead worker held is taken over after this long.
	heartbeatTimeout = 10 * time.Second
	// looksAtWaiting bounds how many waiting batches one look describes.
	looksAtWaiting = 50
)

// ledgerOptions are for activities that only touch the ledger. They are retried
// for ever: when PostgreSQL is away, waiting is all there is to do.
func ledgerOptions(summary string) workflow.ActivityOptions {
	return workflow.ActivityOptions{
		TaskQueue: Queue,
		// Planning or closing pages of a million recipients takes seconds; a
		// statement is given 60 s.
		StartToCloseTimeout: 2 * time.Minute,
		HeartbeatTimeout:    heartbeatTimeout,
		RetryPolicy:         retryForEver(),
		Summary:             summary,
	}
}

// longOptions are for activities that go on for long and show that they live.
func longOptions(queue, summary string) workflow.ActivityOptions {
	return workflow.ActivityOptions{
		TaskQueue: queue,
		// A batch of 10,000 takes a second at best, and as long as a provider
		// throttles it at worst; the heartbeat tells the slow from the dead.
		StartToCloseTimeout: 6 * time.Hour,
		HeartbeatTimeout:    heartbeatTimeout,
		RetryPolicy:         retryForEver(),
		Summary:             summary,
	}
}

func retryForEver() *temporal.RetryPolicy {
	return &temporal.RetryPolicy{
		InitialInterval:    time.Second, // a restarting database is back within seconds
		BackoffCoefficient: 2,
		MaximumInterval:    30 * time.Second, // nobody wants to wait longer after an outage
		NonRetryableErrorTypes: []string{
			ErrorTypeNotFound, // the publication is gone: no retry brings it back
			ErrorTypeInvalid,
		},
	}
}

// childOptions are for children that outlive their parent's run and report by
// signal. No retry policy: a batch that ends with dead letters shall be seen to fail.
func childOptions(id, summary string, attributes ...temporal.SearchAttributeUpdate) workflow.ChildWorkflowOptions {
	return workflow.ChildWorkflowOptions{
		WorkflowID:            id,
		TaskQueue:             Queue,
		ParentClosePolicy:     enumspb.PARENT_CLOSE_POLICY_ABANDON,
		WorkflowIDReusePolicy: enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
		TypedSearchAttributes: temporal.NewSearchAttributes(attributes...),
		StaticSummary:         summary,
	}
}

// Package relay carries the outbox to Temporal: starts, wakes and the sweep.
//
// It never decides what a publication needs; the workflow asks the ledger. It
// promises that an order committed with a publication reaches Temporal as soon as
// Temporal can be reached, that several relays may run, and that an
// order carried out twice does no harm: a workflow that is open is not started again, and
// one that has nothing to do ends at once.
package relay

import (
	"context"
	"errors"
	"log/slog"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"golang.org/x/sync/errgroup"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/workflows"
)

const (
	// pollEvery is how long an order waits whose NOTIFY was lost.
	pollEvery = time.Second
	// orderLease is how long one relay has for the orders it took. A start
	// takes milliseconds; a dead relay's orders wait this long for another.
	orderLease = 10 * time.Second
	// ordersAtOnce are taken together, startsAtOnce are under way together: a
	// development server starts about a hundred workflows a second.
	ordersAtOnce = 100
	startsAtOnce = 8
)

// Outbox is where orders to Temporal wait.
type Outbox interface {
	LeaseOrders(ctx context.Context, limit int, lease time.Duration) ([]fanfare.Order, error)
	DoneOrders(ctx context.Context, ids []int64) error
	Listen(ctx context.Context, woken func()) error
}

// Relay tells Temporal what the outbox orders.
type Relay struct {
	outbox Outbox
	client client.Client
	log    *slog.Logger
	woken  chan struct{}
}

// New makes a relay. Run it; several may run on one outbox.
func New(outbox Outbox, temporal client.Client, log *slog.Logger) *Relay {
	return &Relay{outbox: outbox, client: temporal, log: log, woken: make(chan struct{}, 1)}
}

// Wake makes the relay look at the outbox at once. It never blocks.
func (r *Relay) Wake() {
	select {
	case r.woken <- struct{}{}:
	default: // one is on its way already
	}
}

// Run carries orders out until ctx ends.
func (r *Relay) Run(ctx context.Context) {
	go r.listen(ctx)
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.woken:
		case <-tick.C:
		}
		if err := r.drain(ctx); err != nil && ctx.Err() == nil {
			r.log.Warn("orders wait in the outbox, trying again", "error", err)
		}
	}
}

// listen keeps a LISTEN open; while it is broken the poll does the work.
func (r *Relay) listen(ctx context.Context) {
	for ctx.Err() == nil {
		err := r.outbox.Listen(ctx, r.Wake)
		if ctx.Err() != nil {
			return
		}
		r.log.Warn("listening for orders broke off, trying again", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(pollEvery):
		}
	}
}

func (r *Relay) drain(ctx context.Context) error {
	for {
		orders, err := r.outbox.LeaseOrders(ctx, ordersAtOnce, orderLease)
		if err != nil || len(orders) == 0 {
			return err
		}
		if err := r.carryOut(ctx, orders); err != nil {
			return err
		}
		if len(orders) < ordersAtOnce {
			return nil
		}
	}
}

// carryOut tells Temporal, and strikes off what it took. What it did not take stays
// leased and comes again.
func (r *Relay) carryOut(ctx context.Context, orders []fanfare.Order) error {
	done := make([]int64, 0, len(orders))
	results := make([]error, len(orders))
	var group errgroup.Group
	group.SetLimit(startsAtOnce)
	for i, order := range orders {
		group.Go(func() error {
			results[i] = r.tell(ctx, order)
			return nil
		})
	}
	_ = group.Wait()
	for i, err := range results {
		if err == nil {
			done = append(done, orders[i].ID)
		}
	}
	if len(done) > 0 {
		if err := r.outbox.DoneOrders(ctx, done); err != nil {
			return err
		}
	}
	return errors.Join(results...)
}

func (r *Relay) tell(ctx context.Context, order fanfare.Order) error {
	ctx, cancel := context.WithTimeout(ctx, orderLease/2)
	defer cancel()
	switch order.Kind {
	case fanfare.OrderStart:
		_, err := start(ctx, r.client, order.Publication)
		return err
	case fanfare.OrderReplay:
		_, err := startReplay(ctx, r.client, order.Replay)
		return err
	}
	// A wake finds the workflow, or starts it: then there is nobody left to wake.
	options := startOptions(order.Publication)
	options.WorkflowIDConflictPolicy = enumspb.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING // Temporal knows no other with a signal
	_, err := r.client.SignalWithStartWorkflow(ctx, order.Publication.WorkflowID(), workflows.SignalWake, nil,
		options, workflows.Publish, workflows.PublishInput{Publication: order.Publication})
	return err
}

// start starts a publication's workflow; started is false when one is open.
func start(ctx context.Context, temporal client.Client, id fanfare.PublicationID) (started bool, err error) {
	_, err = temporal.ExecuteWorkflow(ctx, startOptions(id), workflows.Publish, workflows.PublishInput{Publication: id})
	return startedAnew(err)
}

// startReplay starts a replay's workflow; started is false when one is open.
func startReplay(ctx context.Context, temporal client.Client, id fanfare.ReplayID) (started bool, err error) {
	options := onceOpen(id.WorkflowID())
	options.StaticSummary = "replay " + string(id)
	_, err = temporal.ExecuteWorkflow(ctx, options, workflows.Replay, workflows.ReplayInput{Replay: id})
	return startedAnew(err)
}

func startedAnew(err error) (started bool, _ error) {
	var open *serviceerror.WorkflowExecutionAlreadyStarted
	if errors.As(err, &open) {
		return false, nil
	}
	return err == nil, err
}

func startOptions(id fanfare.PublicationID) client.StartWorkflowOptions {
	options := onceOpen(id.WorkflowID())
	options.StaticSummary = "publication " + string(id)
	return options
}

func onceOpen(workflowID string) client.StartWorkflowOptions {
	return client.StartWorkflowOptions{
		ID:        workflowID,
		TaskQueue: workflows.Queue,
		// A closed run with an unfinished ledger is started again.
		WorkflowIDReusePolicy: enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
		// An open run is success; the error tells the sweep what it found.
		WorkflowIDConflictPolicy:                 enumspb.WORKFLOW_ID_CONFLICT_POLICY_FAIL,
		WorkflowExecutionErrorWhenAlreadyStarted: true,
	}
}

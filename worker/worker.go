// Package worker registers workflows and activities with Temporal and runs
// them, together with the relay, the sweep, the making of partitions and the
// applying of providers' events.
//
// It wires and decides nothing. It promises that a stopping worker finishes and
// settles the calls that are under way, and begins no other.
package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/interceptor"
	sdk "go.temporal.io/sdk/worker"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/activities"
	"github.com/fanfare-dev/fanfare/ledger"
	"github.com/fanfare-dev/fanfare/relay"
	"github.com/fanfare-dev/fanfare/workflows"
)

// Config is what a worker is made of. All fields are required.
type Config struct {
	Ledger   *ledger.Ledger
	Temporal client.Client
	Renderer activities.Renderer
	// Senders are the providers of the channels this worker serves, the preferred
	// one first, and Breaker says which of them may be called.
	Senders map[fanfare.Channel][]activities.Sender
	Breaker activities.Breaker
	// InApp is true when this worker serves the in-app channel, which has no provider.
	InApp bool
	// LookUps are all providers that ever made calls, by name: how each is asked about
	// one in doubt, or activities.NoLookUp.
	LookUps   map[string]activities.LookUp
	Links     activities.Links
	Backoff   []time.Duration
	BatchSize int
	Log       *slog.Logger
}

// DefaultBatchSize is how many recipients one batch has: measured, one child
// workflow per 10,000 to 20,000 costs next to nothing beside the calls in it.
const DefaultBatchSize = 10000

const (
	// sendsAtOnce is how many batches of a lane one worker sends at a time.
	sendsAtOnce = 8
	// stopTimeout lets calls under way end and be settled: a call lasts 15 s at most.
	stopTimeout = 20 * time.Second
	// partitionsEvery is how often the monthly partitions are looked after.
	partitionsEvery = time.Hour
	// cachedWorkflows are kept in memory between their tasks. A thousand
	// publications and batches under way cost some tens of megabytes.
	cachedWorkflows = 1000
)

// Run works until ctx ends, which is no error, or until Temporal refuses to
// work with this worker: its namespace is gone, say. Start it again then.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.Ledger.MakePartitions(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	workers := newWorkers(cfg, func(err error) { cancel(fmt.Errorf("worker: %w", err)) })
	for i, w := range workers {
		if err := w.Start(); err != nil {
			stopAll(workers[:i])
			return fmt.Errorf("start worker: %w", err)
		}
	}
	defer stopAll(workers)
	go relay.New(cfg.Ledger, cfg.Temporal, cfg.Log).Run(ctx)
	go relay.SweepForEver(ctx, cfg.Ledger, cfg.Temporal, cfg.Log)
	go makePartitions(ctx, cfg.Ledger, cfg.Log)
	go ApplyEvents(ctx, cfg.Ledger, cfg.Log)
	<-ctx.Done()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// stopAll stops all at once: each waits for its own activities.
func stopAll(workers []sdk.Worker) {
	done := make(chan struct{})
	for _, w := range workers {
		go func() {
			w.Stop()
			done <- struct{}{}
		}()
	}
	for range workers {
		<-done
	}
}

func newWorkers(cfg Config, fatal func(error)) []sdk.Worker {
	sdk.SetStickyWorkflowCacheSize(cachedWorkflows)
	options := sdk.Options{
		WorkerStopTimeout: stopTimeout,
		// By default beats are held back to eight tenths of their time-out: one that
		// is lost would then be one too many.
		MaxHeartbeatThrottleInterval:     activities.HeartbeatEvery,
		DefaultHeartbeatThrottleInterval: activities.HeartbeatEvery,
		OnFatalError:                     fatal,
		Interceptors:                     []interceptor.WorkerInterceptor{&errorInterceptor{}},
	}
	main := sdk.New(cfg.Temporal, workflows.Queue, options)
	register(main, cfg)
	workers := []sdk.Worker{main}
	options.DisableWorkflowWorker = true
	options.MaxConcurrentActivityExecutionSize = sendsAtOnce
	for channel, its := range lanes(cfg) {
		for _, class := range []fanfare.Class{fanfare.Bulk, fanfare.Transactional} {
			lane := sdk.New(cfg.Temporal, workflows.SendQueue(channel, class), options)
			lane.RegisterActivity(its)
			workers = append(workers, lane)
		}
	}
	return workers
}

// lanes are the activities of each channel that the worker serves. They have the same
// names on every channel; the queue tells them apart.
func lanes(cfg Config) map[fanfare.Channel]any {
	all := map[fanfare.Channel]any{}
	for channel, senders := range cfg.Senders {
		all[channel] = sending(cfg, channel, senders)
	}
	if cfg.InApp {
		all[fanfare.InApp] = &activities.Posting{
			Planner: cfg.Ledger, Tallier: cfg.Ledger, Poster: cfg.Ledger, Closer: cfg.Ledger, Reporter: cfg.Ledger, Renderer: cfg.Renderer,
		}
	}
	return all
}

// Registry is the part of a worker that Register needs; a replayer has it too.
type Registry interface {
	RegisterWorkflow(w any)
}

// RegisterWorkflows registers every workflow.
func RegisterWorkflows(r Registry) {
	r.RegisterWorkflow(workflows.Publish)
	r.RegisterWorkflow(workflows.Batch)
	r.RegisterWorkflow(workflows.Reconcile)
	r.RegisterWorkflow(workflows.Replay)
}

func register(w sdk.Worker, cfg Config) {
	RegisterWorkflows(w)
	w.RegisterActivity(&activities.Publishing{
		Planner: cfg.Ledger, Lifecycle: cfg.Ledger, Tallier: cfg.Ledger, Lapser: cfg.Ledger, Runs: runs{cfg.Temporal}, BatchSize: cfg.BatchSize,
	})
	w.RegisterActivity(&activities.Closing{Planner: cfg.Ledger, Closer: cfg.Ledger, BatchSize: cfg.BatchSize})
	w.RegisterActivity(&activities.Replaying{Reopener: cfg.Ledger, Book: cfg.Ledger})
	w.RegisterActivity(&activities.Reconciling{Doubter: cfg.Ledger, Prover: cfg.Ledger, Planner: cfg.Ledger, Renderer: cfg.Renderer, LookUps: cfg.LookUps, Log: cfg.Log})
}

// callsInFlight is how many calls a batch has under way. An email call is for up to
// 1,000, and four of them are as many as a few hundred milliseconds of a provider's
// answer time need; the others are for one each, and a crash leaves as many of them in doubt.
func callsInFlight(channel fanfare.Channel) int {
	if channel == fanfare.Email {
		return 4
	}
	return 64
}

func sending(cfg Config, channel fanfare.Channel, senders []activities.Sender) *activities.Sending {
	return &activities.Sending{
		Planner: cfg.Ledger, Tallier: cfg.Ledger, Claimer: cfg.Ledger, Settler: cfg.Ledger, Closer: cfg.Ledger, Reporter: cfg.Ledger,
		Senders: senders, Breaker: cfg.Breaker, Renderer: cfg.Renderer, Links: cfg.Links, CallsInFlight: callsInFlight(channel), Backoff: cfg.Backoff, Log: cfg.Log,
	}
}

func makePartitions(ctx context.Context, l *ledger.Ledger, log *slog.Logger) {
	tick := time.NewTicker(partitionsEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := l.MakePartitions(ctx); err != nil && ctx.Err() == nil {
				log.Error("partitions could not be made, trying again in an hour", "error", err)
			}
		}
	}
}

// errorInterceptor gives activities' errors the types that retry policies know.
type errorInterceptor struct {
	interceptor.WorkerInterceptorBase
}

func (*errorInterceptor) InterceptActivity(_ context.Context, next interceptor.ActivityInboundInterceptor) interceptor.ActivityInboundInterceptor {
	return &activityErrors{interceptor.ActivityInboundInterceptorBase{Next: next}}
}

type activityErrors struct {
	interceptor.ActivityInboundInterceptorBase
}

func (a *activityErrors) ExecuteActivity(ctx context.Context, in *interceptor.ExecuteActivityInput) (any, error) {
	result, err := a.Next.ExecuteActivity(ctx, in)
	if errors.Is(err, activity.ErrResultPending) {
		return result, err
	}
	return result, workflows.ActivityError(err)
}

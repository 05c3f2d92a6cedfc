package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/log"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/fanfare-dev/fanfare/workflows"
)

// retention is how long Temporal keeps closed runs. The ledger keeps the truth
// longer; this is for looking at what happened.
const retention = 7 * 24 * time.Hour

// Dial connects to Temporal and waits until it answers, saying so once.
func Dial(ctx context.Context, address, namespace string, logger *slog.Logger) (client.Client, error) {
	options := client.Options{HostPort: address, Namespace: namespace, Logger: log.NewStructuredLogger(logger)}
	for said := false; ; {
		c, err := client.DialContext(ctx, options)
		if err == nil {
			return c, nil
		}
		if !said {
			logger.Info("waiting for Temporal", "address", address, "error", err)
			said = true
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// Prepare ensures the namespace and its search attributes, and waits until both
// can be used. It is safe to run by several workers at once.
func Prepare(ctx context.Context, c client.Client, namespace string, logger *slog.Logger) error {
	for {
		err := prepare(ctx, c, namespace)
		if err == nil || ctx.Err() != nil {
			return err
		}
		logger.Info("waiting for the namespace", "namespace", namespace, "error", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

func prepare(ctx context.Context, c client.Client, namespace string) error {
	_, err := c.WorkflowService().RegisterNamespace(ctx, &workflowservice.RegisterNamespaceRequest{
		Namespace: namespace, WorkflowExecutionRetentionPeriod: durationpb.New(retention),
	})
	var exists *serviceerror.NamespaceAlreadyExists
	if err != nil && !errors.As(err, &exists) {
		return fmt.Errorf("register namespace %s: %w", namespace, err)
	}
	return addSearchAttributes(ctx, c, namespace)
}

func addSearchAttributes(ctx context.Context, c client.Client, namespace string) error {
	known, err := c.OperatorService().ListSearchAttributes(ctx, &operatorservice.ListSearchAttributesRequest{Namespace: namespace})
	if err != nil {
		return fmt.Errorf("list search attributes: %w", err)
	}
	missing := map[string]enumspb.IndexedValueType{}
	for name, kind := range workflows.SearchAttributes() {
		if _, ok := known.GetCustomAttributes()[name]; !ok {
			missing[name] = kind
		}
	}
	if len(missing) == 0 {
		return nil
	}
	_, err = c.OperatorService().AddSearchAttributes(ctx, &operatorservice.AddSearchAttributesRequest{Namespace: namespace, SearchAttributes: missing})
	if err != nil {
		return fmt.Errorf("add search attributes: %w", err)
	}
	// Asked again, so that the first workflow does not meet a namespace that
	// does not know them yet.
	return addSearchAttributes(ctx, c, namespace)
}

// runs tells whether workflows are open.
type runs struct{ client client.Client }

func (r runs) Open(ctx context.Context, workflowID string) (bool, error) {
	found, err := r.client.DescribeWorkflowExecution(ctx, workflowID, "")
	var missing *serviceerror.NotFound
	if errors.As(err, &missing) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("describe %s: %w", workflowID, err)
	}
	return found.GetWorkflowExecutionInfo().GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING, nil
}

package workflows_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/workflows"
)

func TestActivityError(t *testing.T) {
	t.Parallel()
	require.NoError(t, workflows.ActivityError(nil))
	for kind, err := range map[string]error{
		workflows.ErrorTypeNotFound:    fmt.Errorf("read announcement 1: %w", fanfare.ErrNotFound),
		workflows.ErrorTypeInvalid:     fmt.Errorf("plan 1: %w", &fanfare.InvalidError{Violations: []fanfare.Violation{{Field: "url", Detail: "is no URL"}}}),
		workflows.ErrorTypeUnavailable: fmt.Errorf("claim 1: %w", errors.Join(fanfare.ErrUnavailable, errors.New("connection refused"))),
		"Internal":                     errors.New("claim 1: something new"),
	} {
		var got *temporal.ApplicationError
		require.ErrorAs(t, workflows.ActivityError(err), &got)
		require.Equal(t, kind, got.Type())
		require.Equal(t, err.Error(), got.Message(), "operators see what was being done")
		require.NoError(t, errors.Unwrap(got), "no cause, which may hold more than its text")
		require.Equal(t, kind == workflows.ErrorTypeUnavailable, got.Category() == temporal.ApplicationErrorCategoryBenign)
	}
}

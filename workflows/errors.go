package workflows

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.temporal.io/sdk/temporal"

	fanfare "github.com/fanfare-dev/fanfare"
)

// The types of errors that Temporal sees. Retry policies name them.
const (
	ErrorTypeNotFound    = "NotFound"
	ErrorTypeInvalid     = "Invalid"
	ErrorTypeUnavailable = "Unavailable"
	ErrorTypeDeadLetters = "DeadLetters"
	errorTypeInternal    = "Internal"
)

// ActivityError translates an activity's error for Temporal: a type that retry
// policies understand, and a text that is short and holds no rows.
func ActivityError(err error) error {
	if err == nil {
		return nil
	}
	kind := errorTypeInternal
	switch {
	case errors.Is(err, fanfare.ErrNotFound):
		kind = ErrorTypeNotFound
	case errors.Is(err, fanfare.ErrInvalid):
		kind = ErrorTypeInvalid
	case errors.Is(err, fanfare.ErrUnavailable):
		// Expected while PostgreSQL restarts: not a failure to be counted.
		return temporal.NewApplicationErrorWithOptions(err.Error(), ErrorTypeUnavailable, temporal.ApplicationErrorOptions{Category: temporal.ApplicationErrorCategoryBenign})
	}
	return temporal.NewApplicationErrorWithOptions(err.Error(), kind, temporal.ApplicationErrorOptions{})
}

// deadLetters is how a batch ends that could not reach somebody: red in the Web
// UI, with the counts and the reasons in its message.
//
// notReopened says why a reset did not send them again; empty otherwise.
func deadLetters(id fanfare.PublicationID, r BatchResult, notReopened string) error {
	reasons := make([]string, 0, len(r.Problems.Reasons))
	names := slices.Sorted(maps.Keys(r.Problems.Reasons)) //workflowcheck:ignore the sort decides the order
	for _, reason := range names {
		reasons = append(reasons, fmt.Sprintf("%d %s", r.Problems.Reasons[reason], reason))
	}
	message := fmt.Sprintf("%d of %d deliveries are dead (%s)", r.Totals.Dead, r.Totals.Intended, strings.Join(reasons, ", "))
	if notReopened != "" {
		message += "; they are not sent again: " + notReopened
	} else {
		message += "; when the cause is gone, reset this workflow or run: fanfare replay --publication " + string(id)
		if r.Problems.Reasons["dead "+fanfare.ReasonDoubtHeld] == r.Totals.Dead {
			message += " --reason " + fanfare.ReasonDoubtHeld + " (a reset leaves them: they may have been sent to)"
		}
	}
	return temporal.NewApplicationErrorWithOptions(message, ErrorTypeDeadLetters, temporal.ApplicationErrorOptions{
		NonRetryable: true, Details: []any{r},
	})
}

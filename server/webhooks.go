package server

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	fanfare "github.com/fanfare-dev/fanfare"
)

// maxEvents is how many bytes a webhook's body may have. An event has about half a
// kilobyte, and providers put some thousand into a body at most.
const maxEvents = 10 << 20

// Webhook reads what one provider posts. uri, which is the path and the query, and the
// body are as they came, because signatures are made over their bytes. It fails with
// fanfare.ErrBadSignature or ErrStaleSignature, or ErrInvalid where what is signed
// cannot be read.
type Webhook interface {
	Events(uri string, header http.Header, body []byte, now time.Time) ([]fanfare.ProviderEvent, error)
}

// EventTaker commits events. Those that came before are no error, and neither are
// those that name no delivery.
type EventTaker interface {
	TakeEvents(ctx context.Context, events []fanfare.ProviderEvent) error
}

type webhooks struct {
	on     map[string]Webhook
	turnOn map[string]string
	taker  EventTaker
	now    func() time.Time
	log    *slog.Logger
}

// TakeEvents answers as soon as the events are committed: providers wait for some
// seconds only, and what the events mean is worked out later.
func (w *webhooks) TakeEvents(c echo.Context, provider string) error {
	webhook, on := w.on[provider]
	if !on {
		return w.missing(provider)
	}
	body, err := readEvents(c)
	if err != nil {
		return err
	}
	events, err := webhook.Events(c.Request().URL.RequestURI(), c.Request().Header, body, w.now())
	if err != nil {
		// The provider shows nobody why it is refused; the log must.
		w.log.Warn("a webhook was refused", "provider", provider, "request_id", requestID(c), "why", problemOf(err).detail)
		return err
	}
	if len(events) > 0 {
		if err := w.taker.TakeEvents(c.Request().Context(), events); err != nil {
			return err
		}
	}
	return c.NoContent(http.StatusNoContent)
}

func (w *webhooks) missing(provider string) error {
	how := w.turnOn[provider]
	if how == "" {
		return errNoWebhook
	}
	return &webhookOffError{how: "The webhook of " + provider + " is off here: " + how + "."}
}

// webhookOffError says how a webhook is turned on.
type webhookOffError struct{ how string }

func (e *webhookOffError) Error() string { return e.how }

func (e *webhookOffError) Is(target error) bool { return target == errWebhookOff }

func readEvents(c echo.Context) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(c.Response(), c.Request().Body, maxEvents))
	if err = bodyError(err); errors.Is(err, errBodyTooLarge) {
		return nil, errEventsTooLarge
	}
	return body, err
}

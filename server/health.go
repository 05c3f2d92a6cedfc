package server

import (
	"context"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/fanfare-dev/fanfare/server/api"
)

// probeSpan is how long a part may take to answer. Load balancers give up after
// a few seconds themselves.
const probeSpan = 2 * time.Second

// Pinger tells whether the ledger answers.
type Pinger interface {
	Ping(ctx context.Context) error
}

// Check is something that /readyz asks.
type Check struct {
	Name string
	// Required: without it requests fail, and the server is not ready.
	Required bool
	Probe    func(context.Context) error
}

type health struct {
	checks []Check
	log    *slog.Logger
}

func newHealth(ledger Pinger, checks []Check, log *slog.Logger) *health {
	postgres := Check{Name: "postgresql", Required: true, Probe: ledger.Ping}
	return &health{checks: append([]Check{postgres}, checks...), log: log}
}

func (h *health) GetHealth(c echo.Context) error {
	return c.JSON(http.StatusOK, api.Health{Alive: true})
}

func (h *health) GetReadiness(c echo.Context) error {
	ctx, cancel := context.WithTimeout(c.Request().Context(), probeSpan)
	defer cancel()
	answer := api.Readiness{Ready: true, Parts: make([]api.ReadinessPart, len(h.checks))}
	var probes sync.WaitGroup
	for i, check := range h.checks {
		probes.Go(func() {
			err := check.Probe(ctx)
			if err != nil {
				// Only the log says why: the answer is for everybody.
				h.log.Warn("a part does not answer", "part", check.Name, "error", err)
			}
			answer.Parts[i] = api.ReadinessPart{Name: check.Name, Required: check.Required, Ready: err == nil}
		})
	}
	probes.Wait()
	for _, part := range answer.Parts {
		answer.Ready = answer.Ready && (part.Ready || !part.Required)
	}
	if !answer.Ready {
		c.Response().Header().Set(echo.HeaderRetryAfter, strconv.Itoa(retryAfter))
		return c.JSON(http.StatusServiceUnavailable, answer)
	}
	return c.JSON(http.StatusOK, answer)
}

func (h *health) GetDescription(c echo.Context) error {
	return c.Blob(http.StatusOK, "application/yaml", description)
}

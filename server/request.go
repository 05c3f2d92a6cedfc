package server

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"
)

// Keys of what a request carries from one step to another.
const (
	requestIDKey = "request id"
	codeKey      = "problem code"
)

// saneRequestID is what is taken over from a proxy or client: short, and
// harmless in a log.
var saneRequestID = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,100}$`)

// nameRequest gives the request an id, the client's own where it is sane, and
// answers it in X-Request-Id.
func nameRequest(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		id := c.Request().Header.Get(echo.HeaderXRequestID)
		if !saneRequestID.MatchString(id) {
			id = rand.Text()
		}
		c.Set(requestIDKey, id)
		c.Response().Header().Set(echo.HeaderXRequestID, id)
		c.Response().Header().Set(echo.HeaderXContentTypeOptions, "nosniff")
		return next(c)
	}
}

func requestID(c echo.Context) string {
	id, _ := c.Get(requestIDKey).(string)
	return id
}

// observe writes the access log. It names routes, not paths: paths hold
// unsubscribe tokens and the ids of people, and queries whatever clients put there.
func observe(log *slog.Logger) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			start := time.Now()
			err := next(c)
			if err != nil {
				c.Error(err)
			}
			route := c.Path()
			if route == "" {
				route = "unknown"
			}
			status := c.Response().Status
			attrs := []slog.Attr{
				slog.String("method", c.Request().Method),
				slog.String("route", route),
				slog.Int("status", status),
				slog.Duration("took", time.Since(start)),
				slog.String("request_id", requestID(c)),
			}
			if strings.HasPrefix(route, "/v1/publications/:id") || strings.HasPrefix(route, "/v1/deliveries/") {
				attrs = append(attrs, slog.String("id", shorten(c.Param("id"), 200)))
			}
			if code, ok := c.Get(codeKey).(string); ok {
				attrs = append(attrs, slog.String("code", code))
			}
			level := slog.LevelInfo
			switch {
			case errors.Is(err, context.Canceled): // the client left
			case status >= http.StatusInternalServerError && err != nil:
				level = slog.LevelError
				attrs = append(attrs, slog.String("error", err.Error()))
			case route == "/healthz" || route == "/readyz":
				level = slog.LevelDebug
			}
			log.LogAttrs(c.Request().Context(), level, "request", attrs...)
			return nil
		}
	}
}

// survivePanic turns a panic into an internal error and keeps its stack.
func survivePanic(log *slog.Logger) echo.MiddlewareFunc {
	return middleware.RecoverWithConfig(middleware.RecoverConfig{
		DisableStackAll: true,
		LogErrorFunc: func(c echo.Context, err error, stack []byte) error {
			log.Error("a handler panicked", "route", c.Path(), "request_id", requestID(c), "error", err, "stack", string(stack))
			return err
		},
	})
}

// headOnly is the key under which a request's context says that it was HEAD.
type headOnly struct{}

// answerHead answers HEAD as GET; net/http leaves the body out.
func answerHead(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead {
			r = r.WithContext(context.WithValue(r.Context(), headOnly{}, true))
			r.Method = http.MethodGet
		}
		next.ServeHTTP(w, r)
	})
}

// isHead reports whether nobody reads the answer's body. It matters only where that has no end.
func isHead(c echo.Context) bool { return c.Request().Context().Value(headOnly{}) != nil }

package server

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/server/api"
)

// mePath is what a subscriber's token opens.
const mePath = "/v1/me/"

// subscriberKey is the key of the subscriber's token in a request's context.
const subscriberKey = "subscriber token"

// defaultTokenLife is how long a token lives when the request does not say.
const defaultTokenLife = 24 * time.Hour

// authenticateSubscriber reads the subscriber's token. Publishers' keys are no such
// token: who acts for a subscriber must be the subscriber.
func (g *gate) authenticateSubscriber(next echo.HandlerFunc) echo.HandlerFunc {
	return g.authenticateAs(bearer, next)
}

// authenticateInAddress is authenticateSubscriber where the token may also be in the query.
func (g *gate) authenticateInAddress(next echo.HandlerFunc) echo.HandlerFunc {
	return g.authenticateAs(func(c echo.Context) (string, bool) {
		if text, ok := bearer(c); ok {
			return text, true
		}
		text := c.QueryParam("token")
		return text, text != ""
	}, next)
}

func (g *gate) authenticateAs(given func(echo.Context) (text string, ok bool), next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		text, ok := given(c)
		if !ok {
			return errNoToken
		}
		token, err := fanfare.ParseSubscriberToken(g.secret, text, g.now())
		if errors.Is(err, fanfare.ErrLinkTampered) {
			return errNoToken
		}
		if err != nil {
			return err
		}
		c.Set(subscriberKey, token)
		return next(c)
	}
}

// tokenOwner is whose token the request carries.
func tokenOwner(c echo.Context) fanfare.SubscriberNumber { return tokenOf(c).Number }

// tokenOf is the token that the request carries. Only operations that the description
// secures with subscriberToken have one.
func tokenOf(c echo.Context) fanfare.SubscriberToken {
	token, ok := c.Get(subscriberKey).(fanfare.SubscriberToken)
	if !ok {
		panic("the operation is not secured with subscriberToken in openapi.yaml")
	}
	return token
}

// openToAllOrigins lets pages of any origin call what a subscriber's token opens. The
// token is sent by the page and never by the browser of its own accord, so a page can do
// only what it was given a token for.
func openToAllOrigins() echo.MiddlewareFunc {
	return middleware.CORSWithConfig(middleware.CORSConfig{
		Skipper:       func(c echo.Context) bool { return !strings.HasPrefix(c.Request().URL.Path, mePath) },
		AllowOrigins:  []string{"*"},
		AllowMethods:  []string{http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPost, http.MethodDelete},
		AllowHeaders:  []string{echo.HeaderAuthorization, echo.HeaderContentType, echo.HeaderXRequestID, "Last-Event-ID"},
		ExposeHeaders: []string{echo.HeaderXRequestID, echo.HeaderRetryAfter},
		MaxAge:        int((2 * time.Hour).Seconds()), // the most that Chromium keeps
	})
}

// SubscriberFinder finds the number of a subscriber.
type SubscriberFinder interface {
	SubscriberNumber(ctx context.Context, id fanfare.SubscriberID) (fanfare.SubscriberNumber, error)
}

type subscriberTokens struct {
	finder SubscriberFinder
	secret fanfare.Secret
	now    func() time.Time
}

// CreateSubscriberToken writes nothing: a token carries its end in itself.
func (s *subscriberTokens) CreateSubscriberToken(c echo.Context, id fanfare.SubscriberID) error {
	var asked api.SubscriberTokenBody
	if c.Request().ContentLength > 0 {
		if err := decode(c, &asked); err != nil {
			return err
		}
	}
	number, err := s.finder.SubscriberNumber(c.Request().Context(), id)
	if err != nil {
		return err
	}
	life := defaultTokenLife
	if asked.ExpiresIn > 0 {
		life = time.Duration(asked.ExpiresIn) * time.Second
	}
	token := fanfare.SubscriberToken{Number: number, Expires: s.now().Add(life).Truncate(time.Second).UTC()}
	return c.JSON(http.StatusCreated, api.SubscriberToken{Token: token.Sign(s.secret), ExpiresAt: token.Expires})
}

package server

import (
	"context"
	"net/http"

	"github.com/labstack/echo/v4"

	fanfare "github.com/fanfare-dev/fanfare"
)

// Unsubscriber does what unsubscribe links ask for.
type Unsubscriber interface {
	// LinkTopic gives the name, for people, of the topic a link is about.
	LinkTopic(ctx context.Context, link fanfare.UnsubscribeLink) (name string, err error)
	// EndSubscription ends the link's subscription; again is no error.
	EndSubscription(ctx context.Context, link fanfare.UnsubscribeLink) error
}

type unsubscribe struct {
	ledger Unsubscriber
	secret fanfare.Secret
	pages  *pages
}

// ShowUnsubscribe shows the button and changes nothing: programs follow links.
func (u *unsubscribe) ShowUnsubscribe(c echo.Context, token string) error {
	link, err := fanfare.ParseUnsubscribeToken(u.secret, token)
	if err != nil {
		return u.pages.fail(c, err)
	}
	topic, err := u.ledger.LinkTopic(c.Request().Context(), link)
	if err != nil {
		return u.pages.fail(c, err)
	}
	return u.pages.show(c, http.StatusOK, pageAsk, topic)
}

// Unsubscribe ends the subscription. The body is not looked at: whoever posts
// to the link wants this, mail programs (RFC 8058) and the button alike.
func (u *unsubscribe) Unsubscribe(c echo.Context, token string) error {
	link, err := fanfare.ParseUnsubscribeToken(u.secret, token)
	if err != nil {
		return u.pages.fail(c, err)
	}
	if err := u.ledger.EndSubscription(c.Request().Context(), link); err != nil {
		return u.pages.fail(c, err)
	}
	// It is done; that the name cannot be read now must not look like a failure.
	topic, _ := u.ledger.LinkTopic(c.Request().Context(), link)
	return u.pages.show(c, http.StatusOK, pageDone, topic)
}

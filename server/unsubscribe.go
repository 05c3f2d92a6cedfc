package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"strconv"

	"github.com/labstack/echo/v4"

	fanfare "github.com/fanfare-dev/fanfare"
)

//go:embed unsubscribe.html
var unsubscribeHTML string

//go:embed unsubscribe.css
var unsubscribeCSS string

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

// What a page says.
const (
	pageAsk         = "ask"
	pageDone        = "done"
	pageTampered    = "tampered"
	pageUnavailable = "unavailable"
)

// pages renders what people see. The pages need nothing from elsewhere, and
// their policy forbids it.
type pages struct {
	template *template.Template
	style    template.CSS
	policy   string
	log      *slog.Logger
}

func newPages(log *slog.Logger) (*pages, error) {
	parsed, err := template.New("unsubscribe").Parse(unsubscribeHTML)
	if err != nil {
		return nil, fmt.Errorf("parse unsubscribe page: %w", err)
	}
	style := sha256.Sum256([]byte(unsubscribeCSS))
	policy := "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(style[:]) +
		"'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
	return &pages{template: parsed, style: template.CSS(unsubscribeCSS), policy: policy, log: log}, nil //nolint:gosec // the style is ours
}

func (p *pages) show(c echo.Context, status int, kind, topic string) error {
	var page bytes.Buffer
	err := p.template.Execute(&page, map[string]any{"Kind": kind, "Topic": topic, "Style": p.style})
	if err != nil {
		return fmt.Errorf("render unsubscribe page: %w", err)
	}
	header := c.Response().Header()
	header.Set("Content-Security-Policy", p.policy)
	header.Set("Referrer-Policy", "no-referrer") // the address is the right to unsubscribe
	header.Set("Cache-Control", "no-store")
	header.Set("X-Robots-Tag", "noindex")
	return c.HTMLBlob(status, page.Bytes())
}

// fail says in people's words what the matter is.
func (p *pages) fail(c echo.Context, err error) error {
	if errors.Is(err, fanfare.ErrLinkTampered) || errors.Is(err, fanfare.ErrNotFound) {
		return p.show(c, http.StatusNotFound, pageTampered, "")
	}
	p.log.Error("an unsubscribe page failed", "request_id", requestID(c), "error", err)
	status := problemOf(err).status
	if status == http.StatusServiceUnavailable {
		c.Response().Header().Set(echo.HeaderRetryAfter, strconv.Itoa(retryAfter))
	}
	return p.show(c, status, pageUnavailable, "")
}

package server

import (
	"bytes"
	"crypto/sha256"
	"embed"
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

//go:embed pages.html unsubscribe.html preferences.html
var pagesHTML embed.FS

//go:embed pages.css
var pagesCSS string

// The pages, by the names of their templates.
const (
	pageAsk         = "ask"         // the name of the topic
	pageDone        = "done"        // likewise; may be empty
	pagePreferences = "preferences" // a form
	pageTampered    = "tampered"
	pageUnavailable = "unavailable"
)

// pages renders what people see. The pages need nothing from elsewhere, and
// their policy forbids it.
type pages struct {
	templates *template.Template
	policy    string
	log       *slog.Logger
}

func newPages(log *slog.Logger) (*pages, error) {
	style := func() template.CSS { return template.CSS(pagesCSS) } //nolint:gosec // the style is ours
	parsed, err := template.New("").Funcs(template.FuncMap{"style": style}).ParseFS(pagesHTML, "*.html")
	if err != nil {
		return nil, fmt.Errorf("parse pages: %w", err)
	}
	sum := sha256.Sum256([]byte(pagesCSS))
	policy := "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
	return &pages{templates: parsed, policy: policy, log: log}, nil
}

func (p *pages) show(c echo.Context, status int, name string, about any) error {
	var page bytes.Buffer
	if err := p.templates.ExecuteTemplate(&page, name, about); err != nil {
		return fmt.Errorf("render page %s: %w", name, err)
	}
	header := c.Response().Header()
	header.Set("Content-Security-Policy", p.policy)
	header.Set("Referrer-Policy", "no-referrer") // the address is a right to change something
	header.Set("Cache-Control", "no-store")
	header.Set("X-Robots-Tag", "noindex")
	return c.HTMLBlob(status, page.Bytes())
}

// fail says in people's words what the matter is.
func (p *pages) fail(c echo.Context, err error) error {
	if errors.Is(err, fanfare.ErrLinkTampered) || errors.Is(err, fanfare.ErrNotFound) {
		return p.show(c, http.StatusNotFound, pageTampered, nil)
	}
	p.log.Error("a page failed", "route", c.Path(), "request_id", requestID(c), "error", err)
	status := problemOf(err).status
	if status == http.StatusServiceUnavailable {
		c.Response().Header().Set(echo.HeaderRetryAfter, strconv.Itoa(retryAfter))
	}
	return p.show(c, status, pageUnavailable, nil)
}

// Package server is the HTTP API: it takes publications, subscribers, imports,
// replays and the providers' webhooks, answers what became of them, lets subscribers
// say what they want, and shows the pages that links in messages lead to.
//
// openapi.yaml is the contract. The routes and documents in package api are
// generated from it, every request is validated against it before a handler
// runs, and it is served at /openapi.yaml.
//
// The server holds no state and decides nothing about deliveries: everything
// lasting is in the ledger, behind the small interfaces declared next to the
// handlers that use them. It never talks to PostgreSQL, Temporal or a provider.
//
// It promises:
//
//   - What was answered with 2xx is committed in the ledger.
//   - A bad request is answered with every offending field at once.
//   - Neither answers nor logs show an address, a token, a message or the inside
//     of an error.
package server

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/labstack/echo/v4"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/server/api"
)

//go:generate go run github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@v2.8.2 -config api/config.yaml openapi.yaml

//go:embed openapi.yaml
var description []byte

// Config is what the server has to know.
type Config struct {
	// PublicURL is where the outside reaches the server, without a path; links
	// and Location headers begin with it. Empty: they are relative.
	PublicURL string
	// TemporalUI is the base URL of Temporal's Web UI, and TemporalNamespace the
	// namespace that links lead to. Empty: no links to workflows.
	TemporalUI        string
	TemporalNamespace string
	// APIKeys are the keys that publishers and operators may use. At least one.
	APIKeys []fanfare.Secret
	// Secret signs subscribers' tokens, and checks them and the links in messages. Required.
	Secret fanfare.Secret
	// Channels are the channels that are switched on.
	Channels []fanfare.Channel
	// SwitchOn says for a channel that is off how it is switched on, to complete
	// the sentence "it is switched off: ", for example "set SENDGRID_API_KEY".
	SwitchOn map[fanfare.Channel]string
	// Webhooks are the providers whose events are taken in, by the name that stands
	// in their address, /webhooks/{provider}.
	Webhooks map[string]Webhook
	// Renderer judges templates and shows what they make. Required.
	Renderer Renderer
	// TurnOnWebhook says for a provider that is not among them how its webhook is
	// turned on, for example "set SENDGRID_WEBHOOK_PUBLIC_KEY".
	TurnOnWebhook map[string]string
}

// Ledger is all the server asks of the ledger.
type Ledger interface {
	Authoring
	PublicationReader
	Controls
	DeliveryReader
	Topics
	Subscribers
	Importer
	Aftermath
	SelfService
	Pinger
}

// Authoring is what publishers send, and what it is made of.
type Authoring interface {
	Intake
	Templates
}

// SelfService is what subscribers do about themselves.
type SelfService interface {
	Unsubscriber
	Preferrer
	SubscriberFinder
	Inboxes
}

// Aftermath is what the ledger does after the sending, and where that went wrong.
type Aftermath interface {
	Replayer
	ReplayReader
	Breakers
	Suppressor
	EventTaker
}

// Server answers HTTP requests. Make one with New.
type Server struct {
	handler   http.Handler
	followers *followers
	log       *slog.Logger
	spans     spans
}

// spans are the time-outs. They are no settings: nobody has needed others yet.
type spans struct {
	header  time.Duration // to read a request's header
	read    time.Duration // to read a whole request, imports excepted
	request time.Duration // to work on one, imports and streams excepted; a cancel takes 1.5 s
	write   time.Duration // from the header to the end of the answer, imports and streams excepted
	idle    time.Duration // between the pieces of an import; for one piece of a stream
	keep    time.Duration // a connection without a request
	drain   time.Duration // for requests under way when the server stops
	look    time.Duration // between two looks for news of streams
	beat    time.Duration // between two signs of life of a stream
}

func defaultSpans() spans {
	return spans{
		header:  10 * time.Second,
		read:    30 * time.Second,
		request: 20 * time.Second,
		write:   60 * time.Second,
		idle:    30 * time.Second,
		keep:    2 * time.Minute,
		// Orchestrators kill after 30 s (Kubernetes) or 10 s (Docker).
		drain: 8 * time.Second,
		look:  500 * time.Millisecond,
		beat:  15 * time.Second, // proxies and mobile networks cut what is silent for 30 s to a minute
	}
}

// New makes a server. wake is called after every commit that gives the relay
// work; it must not block. checks are asked by /readyz, beside the ledger.
func New(cfg Config, ledger Ledger, wake func(), log *slog.Logger, checks ...Check) (*Server, error) {
	return build(cfg, ledger, wake, log, checks, defaultSpans(), time.Now)
}

func build(cfg Config, ledger Ledger, wake func(), log *slog.Logger, checks []Check, spans spans, now func() time.Time) (*Server, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("make server: %w", err)
	}
	doc, err := openapi3.NewLoader().LoadFromData(description)
	if err != nil {
		return nil, fmt.Errorf("make server: read openapi.yaml: %w", err)
	}
	pages, err := newPages(log)
	if err != nil {
		return nil, fmt.Errorf("make server: %w", err)
	}
	links := newLinks(cfg)
	publishing := &publishing{
		intake: ledger, reader: ledger, controls: ledger, channels: newChannels(cfg), links: links, wake: wake, now: now,
	}
	followers := newFollowers(ledger, spans.look, log)
	audience := &audience{topics: ledger, subscribers: ledger}
	templating := &templating{templates: ledger, renderer: cfg.Renderer, topics: ledger, finder: ledger, publishing: publishing}
	handlers := handlers{
		publishing:       publishing,
		audience:         audience,
		templating:       templating,
		deliveries:       &deliveries{reader: ledger, links: links},
		importing:        &importing{ledger: ledger, idle: spans.idle, write: spans.write},
		replaying:        &replaying{replayer: ledger, reader: ledger, links: links, wake: wake},
		providers:        &providers{breakers: ledger},
		suppressions:     &suppressions{ledger: ledger, idle: spans.idle, write: spans.write},
		webhooks:         &webhooks{on: cfg.Webhooks, turnOn: cfg.TurnOnWebhook, taker: ledger, now: now, log: log},
		unsubscribe:      &unsubscribe{ledger: ledger, secret: cfg.Secret, pages: pages},
		preferences:      &preferences{preferrer: ledger, finder: ledger, secret: cfg.Secret, channels: cfg.Channels, pages: pages},
		inbox:            &inbox{reader: ledger, marker: ledger, followers: followers, spans: spans, now: now},
		subscriberTokens: &subscriberTokens{finder: ledger, secret: cfg.Secret, now: now},
		health:           newHealth(ledger, checks, log),
	}
	gate := newGate(cfg.APIKeys, cfg.Secret, now, spans.request, map[string]deepCheck{
		"createPublication": publishing.check,
		"putSubscriber":     checkSubscriberBody,
		"putTopic":          checkTopicBody,
		"createReplay":      checkReplay,
		"putTemplate":       templating.check,
		"putMyPreferences":  checkPreferencesBody,
	})
	e := echo.New()
	e.HTTPErrorHandler = answerProblem
	e.Use(nameRequest, observe(log), survivePanic(log), openToAllOrigins())
	api.RegisterHandlersWithOptions(e, handlers, api.RegisterHandlersOptions{OperationMiddlewares: gate.middlewares(doc)})
	return &Server{handler: answerHead(e), followers: followers, log: log, spans: spans}, nil
}

// handlers is the whole API, put together from its parts.
type handlers struct {
	*publishing
	*audience
	*templating
	*deliveries
	*importing
	*replaying
	*providers
	*suppressions
	*webhooks
	*unsubscribe
	*preferences
	*inbox
	*subscriberTokens
	*health
}

func (c Config) validate() error {
	var errs []error
	if len(c.APIKeys) == 0 {
		errs = append(errs, fmt.Errorf("no API keys are set: %w", fanfare.ErrNotConfigured))
	}
	for _, key := range c.APIKeys {
		if strings.TrimSpace(string(key)) != string(key) || key == "" {
			errs = append(errs, fmt.Errorf("an API key is empty or has blanks around it: %w", fanfare.ErrInvalid))
		}
	}
	if c.Renderer == nil {
		errs = append(errs, fmt.Errorf("no renderer is set: %w", fanfare.ErrNotConfigured))
	}
	if c.Secret == "" {
		errs = append(errs, fmt.Errorf("no secret is set: %w", fanfare.ErrNotConfigured))
	}
	for name, address := range map[string]string{"public URL": c.PublicURL, "Temporal UI": c.TemporalUI} {
		if address == "" {
			continue
		}
		if u, err := url.Parse(address); err != nil || !webAddress(u) {
			errs = append(errs, fmt.Errorf("the %s is no http or https address: %w", name, fanfare.ErrInvalid))
		}
	}
	for _, c := range c.Channels {
		if !c.Valid() {
			errs = append(errs, fmt.Errorf("%q is no channel: %w", c, fanfare.ErrInvalid))
		}
	}
	return errors.Join(errs...)
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// Serve answers requests on listener until ctx ends. Then it accepts no more, ends
// streams at once, waits some seconds for the other requests under way, cuts those that
// are left, and returns nil. It closes the listener. Streams get no news without it.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	server := &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: s.spans.header,
		ReadTimeout:       s.spans.read,
		WriteTimeout:      s.spans.write,
		IdleTimeout:       s.spans.keep,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	go s.followers.run(ctx)
	select {
	case err := <-failed:
		return fmt.Errorf("serve on %s: %w", listener.Addr(), err)
	case <-ctx.Done():
	}
	patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.spans.drain)
	defer cancel()
	if err := server.Shutdown(patience); err != nil {
		s.log.Warn("requests were still under way and are cut; what they committed stays", "waited", s.spans.drain)
		return server.Close()
	}
	return nil
}

package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/sdk/client"
	temporallog "go.temporal.io/sdk/log"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/ledger"
	"github.com/fanfare-dev/fanfare/render"
	"github.com/fanfare-dev/fanfare/schema"
	"github.com/fanfare-dev/fanfare/server"
)

const (
	// serverConns serve requests of some milliseconds each; imports hold one each.
	serverConns = 16
	// pingEvery is how often a server that is away is asked for.
	pingEvery = 500 * time.Millisecond
	// wakeSpan bounds one NOTIFY. Without it the relays find the work by themselves.
	wakeSpan = 2 * time.Second
)

// turnOnWebhook says how each provider's webhook is turned on.
var turnOnWebhook = map[string]string{
	"sendgrid":   "set SENDGRID_WEBHOOK_PUBLIC_KEY to the key that SendGrid shows for its signed Event Webhook",
	"sendgrid-2": "set SENDGRID_2_WEBHOOK_PUBLIC_KEY to the key that SendGrid shows for its signed Event Webhook",
	"twilio":     "set TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN",
	"twilio-2":   "set TWILIO_2_ACCOUNT_SID and TWILIO_2_AUTH_TOKEN",
}

// switchOn says how each channel is switched on.
var switchOn = map[fanfare.Channel]string{
	fanfare.Email: "set SENDGRID_API_KEY and SENDGRID_FROM, or SMTP_URL and SMTP_FROM",
	fanfare.SMS:   "set TWILIO_ACCOUNT_SID, TWILIO_AUTH_TOKEN and TWILIO_FROM",
	fanfare.Push:  "set FCM_PROJECT_ID and GOOGLE_APPLICATION_CREDENTIALS",
}

func (a *app) serverCommand() *cobra.Command {
	var migrate bool
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run the HTTP server",
		Long: `Runs the HTTP server until it is told to stop. It needs PostgreSQL, waits for it
where it is away, and answers 503 meanwhile; it accepts publications also while
Temporal is away. /openapi.yaml describes the API.

Settings: FANFARE_DATABASE_URL, FANFARE_SECRET, FANFARE_API_KEYS are needed;
FANFARE_LISTEN (127.0.0.1:8080), FANFARE_PUBLIC_URL, FANFARE_EXPIRES (24h),
FANFARE_TEMPORAL_ADDRESS, FANFARE_TEMPORAL_NAMESPACE, FANFARE_TEMPORAL_UI_URL.
Email is on where SENDGRID_API_KEY is set; SendGrid's events are taken in at
/webhooks/sendgrid where SENDGRID_WEBHOOK_PUBLIC_KEY is. SMS is on where
TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN are set; Twilio calls /webhooks/twilio, at
FANFARE_PUBLIC_URL. Push is on where FCM_PROJECT_ID and
GOOGLE_APPLICATION_CREDENTIALS are set. In-app is always on.`,
		Example: "  fanfare server --migrate",
		Args:    cobra.NoArgs,
		RunE: does(func(cmd *cobra.Command, _ []string) error {
			s, err := settings[serverSettings](a)
			if err != nil {
				return err
			}
			return a.serve(cmd.Context(), s, migrate)
		}),
	}
	cmd.Flags().BoolVar(&migrate, "migrate", false, "bring the tables up to date first, as \"fanfare migrate up\" does")
	return cmd
}

func (a *app) serve(ctx context.Context, s serverSettings, migrate bool) error {
	log := a.logger()
	renderer := render.New()
	cfg := s.ledgerConfig(s.channels())
	cfg.Prove = renderer.Prove
	books, err := ledger.Open(ctx, string(s.DatabaseURL), serverConns, cfg)
	if err != nil {
		return err
	}
	defer books.Close()
	temporal, err := client.NewLazyClient(client.Options{
		HostPort: s.TemporalAddress, Namespace: s.TemporalNamespace, Logger: temporallog.NewStructuredLogger(log),
	})
	if err != nil {
		return fmt.Errorf("make Temporal client: %w", err)
	}
	defer temporal.Close()
	wakes := newWaker(books.Wake, log)
	go wakes.run(ctx)
	srv, err := server.New(server.Config{
		PublicURL: s.publicURL(), TemporalUI: s.TemporalUI, TemporalNamespace: s.TemporalNamespace,
		APIKeys: s.APIKeys, Secret: s.Secret, Channels: s.channels(), SwitchOn: switchOn,
		Webhooks: s.webhooks(func(string, string) {}), TurnOnWebhook: turnOnWebhook, Renderer: renderer,
	}, books, wakes.wake, log, server.Check{Name: "temporal", Probe: func(ctx context.Context) error {
		_, err := temporal.CheckHealth(ctx, &client.CheckHealthRequest{})
		return err
	}})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", s.Listen)
	if err != nil {
		return fmt.Errorf("FANFARE_LISTEN: %w; stop what listens there, or choose another address", err)
	}
	log.Info("server answers", "address", listener.Addr().String(), "channels", s.channels())
	go a.prepareDatabase(ctx, s.DatabaseURL, books, migrate, log)
	return srv.Serve(ctx, listener)
}

// prepareDatabase says what the server waits for, and migrates where asked to. The
// server answers meanwhile, and says in /readyz that it is not ready.
func (a *app) prepareDatabase(ctx context.Context, url fanfare.Secret, books *ledger.Ledger, migrate bool, log *slog.Logger) {
	if migrate {
		if err := migrateUp(ctx, url, log); err != nil {
			log.Error("the tables could not be brought up to date", "error", err)
			return
		}
	}
	if waitForLedger(ctx, books, log) == nil {
		log.Info("PostgreSQL answers, the server is ready")
	}
}

// migrateUp waits for PostgreSQL and applies what is missing.
func migrateUp(ctx context.Context, url fanfare.Secret, log *slog.Logger) error {
	for said := false; ; {
		applied, err := schema.Up(ctx, string(url))
		if err == nil {
			if len(applied) > 0 {
				log.Info("the tables were brought up to date", "steps", len(applied))
			}
			return nil
		}
		if !away(err) {
			return err
		}
		if !said {
			log.Info("waiting for PostgreSQL", "why", reason(err))
			said = true
		}
		if err := pause(ctx, pingEvery); err != nil {
			return err
		}
	}
}

// waitForLedger waits until PostgreSQL answers and the tables are there, and says
// so once for each reason.
func waitForLedger(ctx context.Context, books *ledger.Ledger, log *slog.Logger) error {
	for said := ""; ; {
		err := books.Ping(ctx)
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		if why := reason(err); why != said {
			said = why
			log.Info("waiting for PostgreSQL", "why", why)
		}
		if err := pause(ctx, pingEvery); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context, span time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(span):
		return nil
	}
}

// waker tells the relays about new work, outside of the requests that made it.
// Many wakes become one.
type waker struct {
	notify func(context.Context) error
	log    *slog.Logger
	asked  chan struct{}
}

func newWaker(notify func(context.Context) error, log *slog.Logger) *waker {
	return &waker{notify: notify, log: log, asked: make(chan struct{}, 1)}
}

// wake never blocks.
func (w *waker) wake() {
	select {
	case w.asked <- struct{}{}:
	default: // the one that is asked for has not begun
	}
}

func (w *waker) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.asked:
		}
		span, cancel := context.WithTimeout(ctx, wakeSpan)
		if err := w.notify(span); err != nil && ctx.Err() == nil {
			w.log.Warn("relays were not woken; they look by themselves every second", "error", err)
		}
		cancel()
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/spf13/cobra"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/activities"
	"github.com/fanfare-dev/fanfare/breaker"
	"github.com/fanfare-dev/fanfare/ledger"
	"github.com/fanfare-dev/fanfare/render"
	"github.com/fanfare-dev/fanfare/worker"
)

const (
	// workerConns is what a worker with all its calls under way uses, with some to
	// spare for relay, sweep and planning: a claim that waits for a connection
	// loses time in which its call may begin.
	workerConns = 32
	// providerConns are kept open to a provider: all calls of one worker, which are 64 in
	// each of 8 batches in both lanes of a channel. What is idle for long is closed.
	providerConns = 2 * 8 * 64
	// Over HTTP/2 all calls share few connections, and net/http notices of none that it is
	// dead: one that was silent for so long is asked, and left when it does not answer. A
	// call lasts 15 s.
	silentConn, deafConn = 5 * time.Second, 5 * time.Second
)

func (a *app) workerCommand() *cobra.Command {
	var channels []string
	batchSize := worker.DefaultBatchSize
	cmd := &cobra.Command{
		Use:   "worker",
		Short: "Run a worker, which sends",
		Long: `Runs a worker until it is told to stop: it plans, claims, sends and settles, and
starts the workflows of new publications. Run as many as you like. It waits for
PostgreSQL, its tables and Temporal where they are away. When stopped it
finishes the calls under way, which takes up to 20 seconds; when killed, others
take over what it held.

Settings: FANFARE_DATABASE_URL, FANFARE_SECRET are needed;
FANFARE_TEMPORAL_ADDRESS (127.0.0.1:7233), FANFARE_TEMPORAL_NAMESPACE (fanfare),
FANFARE_PUBLIC_URL, FANFARE_RETRY_FAST (1s,3s,10s,30s,2m), FANFARE_RETRY_SLOW
(10m,30m,1h), FANFARE_EMAIL_PROVIDERS, FANFARE_SMS_PROVIDERS, FANFARE_EXPIRES
(24h), FANFARE_DOUBT_EMAIL, FANFARE_DOUBT_SMS, FANFARE_DOUBT_PUSH (resend or
hold), FANFARE_DOUBT_DEADLINE (10m).
Email is on where SENDGRID_API_KEY and SENDGRID_FROM are set, or those of a second
account, SENDGRID_2_API_KEY and SENDGRID_2_FROM, or SMTP_URL and SMTP_FROM. SMS is
on where TWILIO_ACCOUNT_SID, TWILIO_AUTH_TOKEN and TWILIO_FROM are set, or those of a
second account, which begin with TWILIO_2_. Push is on where FCM_PROJECT_ID and
GOOGLE_APPLICATION_CREDENTIALS are set. In-app needs nothing and is always on.`,
		Example: "  fanfare worker --channels email",
		Args:    cobra.NoArgs,
		RunE: does(func(cmd *cobra.Command, _ []string) error {
			s, err := settings[workerSettings](a)
			if err != nil {
				return err
			}
			return a.work(cmd.Context(), s, channels, batchSize)
		}),
	}
	cmd.Flags().StringSliceVar(&channels, "channels", nil, "serve only these channels (default: all that are on)")
	cmd.Flags().IntVar(&batchSize, "batch-size", batchSize, "recipients of one batch")
	_ = cmd.Flags().MarkHidden("batch-size") // for tests and the demo
	return cmd
}

func (a *app) work(ctx context.Context, s workerSettings, channels []string, batchSize int) error {
	log := a.logger()
	if batchSize < 1 {
		return &exitError{exitUsage, fmt.Errorf("--batch-size %d: must be 1 or more", batchSize)}
	}
	transport := providerTransport()
	defer transport.CloseIdleConnections()
	cfg, err := s.providers(channels, gated(transport), log)
	if err != nil {
		return err
	}
	books, err := ledger.Open(ctx, string(s.DatabaseURL), workerConns, s.ledgerConfig())
	if err != nil {
		return err
	}
	defer books.Close()
	if err := waitForLedger(ctx, books, log); err != nil {
		return stopped(err)
	}
	temporal, err := worker.Dial(ctx, s.TemporalAddress, s.TemporalNamespace, log)
	if err != nil {
		return stopped(err)
	}
	defer temporal.Close()
	if err := worker.Prepare(ctx, temporal, s.TemporalNamespace, log); err != nil {
		return stopped(err)
	}
	cfg.Ledger, cfg.Temporal, cfg.Renderer, cfg.Log = books, temporal, render.New(), log
	cfg.Links = activities.Links{PublicURL: s.publicURL(), Secret: s.Secret}
	cfg.Backoff, cfg.BatchSize = s.RetryFast, batchSize
	if cfg.Breaker, err = startBreaker(ctx, books, cfg.Senders, s.RetryFast, log); err != nil {
		return stopped(err)
	}
	log.Info("worker works", "channels", s.channels())
	if err := worker.Run(ctx, cfg); err != nil {
		return fmt.Errorf("%w\nStart the worker again; what it held is taken over", err)
	}
	log.Info("worker has stopped, and settled what was under way")
	return nil
}

// ledgerConfig adds the ladder, which only those need who settle.
func (s workerSettings) ledgerConfig() ledger.Config {
	cfg := s.LedgerSettings.ledgerConfig(s.channels())
	cfg.Ladder = slices.Concat(s.RetryFast, s.RetrySlow)
	return cfg
}

// startBreaker makes the providers known, and keeps knowing which may be called.
func startBreaker(ctx context.Context, books *ledger.Ledger, senders map[fanfare.Channel][]activities.Sender, cooldown []time.Duration, log *slog.Logger) (*breaker.Breaker, error) {
	var providers []fanfare.Provider
	for channel, list := range senders {
		for _, sender := range list {
			providers = append(providers, fanfare.Provider{Name: sender.Name(), Channel: channel})
		}
	}
	if err := books.RegisterProviders(ctx, providers); err != nil {
		return nil, err
	}
	b := breaker.New(books, cooldown, log)
	go b.Run(ctx)
	return b, nil
}

// stopped makes nothing of being told to stop.
func stopped(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// providers are the senders of the channels asked for, or of all that are on.
func (s workerSettings) providers(asked []string, hc *http.Client, log *slog.Logger) (worker.Config, error) {
	cfg := worker.Config{Senders: map[fanfare.Channel][]activities.Sender{}, LookUps: map[string]activities.LookUp{}}
	on := s.channels()
	for _, name := range asked {
		if !slices.Contains(on, fanfare.Channel(name)) {
			how, known := switchOn[fanfare.Channel(name)]
			if !known {
				return cfg, &exitError{exitUsage, fmt.Errorf("--channels %s: there is no such channel; there are email, sms, push and inapp", name)}
			}
			return cfg, &exitError{exitUsage, fmt.Errorf("--channels %s: it is switched off; %s", name, how)}
		}
	}
	if len(on) == 1 {
		log.Warn("no channel has credentials, nothing will be sent but in the app", "do", switchOn[fanfare.Email])
	}
	serves := func(channel fanfare.Channel) bool { return len(asked) == 0 || slices.Contains(asked, string(channel)) }
	cfg.InApp = serves(fanfare.InApp)
	for _, o := range s.offers() {
		senders, lookUps, err := o.senders(hc, log)
		if err != nil {
			return cfg, err
		}
		maps.Copy(cfg.LookUps, lookUps) // whatever was asked for: every worker reconciles every channel
		if o.on() && serves(o.channel) {
			cfg.Senders[o.channel] = senders
		}
	}
	return cfg, nil
}

// providerTransport keeps connections to providers. Proxies are taken from the environment.
func providerTransport() *http.Transport {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConns = 0 // no limit beside the one for each host
	transport.MaxIdleConnsPerHost = providerConns
	transport.HTTP2 = &http.HTTP2Config{SendPingTimeout: silentConn, PingTimeout: deafConn}
	return transport
}

// gated is how providers are called: through the gate, so that no call begins late.
// It has no time-out of its own; each call's lease has one, and look-ups bring theirs.
func gated(transport *http.Transport) *http.Client {
	return &http.Client{Transport: fanfare.GatedTransport{Base: transport}}
}

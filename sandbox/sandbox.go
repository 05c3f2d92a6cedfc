package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// defaultMaxMessages bounds kept contents to about 900 MB.
	defaultMaxMessages = 2_000_000
	// shutdownGrace is how long answers under way may take once Serve is told
	// to stop. Calls that hang are cut at once, so nothing legitimate needs more.
	shutdownGrace = 5 * time.Second
)

// Config says how a sandbox behaves. The zero value works.
type Config struct {
	// APIKey is the only bearer key accepted. Empty: any key, but one is needed.
	APIKey string
	// Pace is the number of messages per second that are answered at most.
	// 0 is no limit. Faults.Pace, where set, replaces it. A message is recorded
	// when it arrives; it is the answer that waits.
	Pace float64
	// MaxMessages is how many messages are kept to be shown and looked up; of
	// the older ones the contents are dropped and the counts remain.
	// 0 is 2,000,000; a negative number keeps none.
	MaxMessages int
	// Webhook is where what becomes of the mail is reported.
	Webhook Webhook
	// Twilio is the account that may send SMS, and where answers to them go.
	Twilio Twilio
	// Logger hears of changed faults and of trouble while serving; never of an
	// address or a message. nil is silent.
	Logger *slog.Logger
}

// Sandbox is a set of stand-in providers. It is safe for concurrent use.
type Sandbox struct {
	config Config
	log    *slog.Logger
	store  *store
	faults *faults
	// What becomes of email and of SMS. mailEvents is nil where Webhook.URL is empty.
	mailEvents, smsEvents *webhook
	phones                *phones
	pages                 *template.Template
	buffers               sync.Pool // *bytes.Buffer: request bodies, reused
}

// New makes a sandbox that has received nothing and misbehaves nowhere.
func New(config Config) *Sandbox {
	if config.MaxMessages == 0 {
		config.MaxMessages = defaultMaxMessages
	}
	log := config.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Sandbox{
		config: config,
		log:    log,
		store:  newStore(max(config.MaxMessages, 0)),
		faults: newFaults(config.Pace),
		phones: newPhones(config.Twilio),
		pages:  parsePages(),
	}
	s.smsEvents = newWebhook(webhookConfig{
		provider: twilio, poster: &statusCallbacks{s.phones}, perPost: 1, atOnce: twilioPostsAtOnce,
		maxWaiting: config.Webhook.MaxWaiting, timeout: twilioPostTimeout,
	}, s.faults, log)
	if s.config.Webhook.URL == "" {
		return s
	}
	if s.config.Webhook.Key == nil {
		s.config.Webhook.Key = NewWebhookKey()
	}
	s.mailEvents = newWebhook(webhookConfig{
		provider: sendgrid, poster: &eventWebhook{s.config.Webhook, s.faults}, perPost: sendgridEventsPerPost, atOnce: sendgridPostsAtOnce,
		maxWaiting: config.Webhook.MaxWaiting, timeout: sendgridPostTimeout,
	}, s.faults, log)
	return s
}

// Handler serves the providers' paths, the admin API under /sandbox/ and the
// page for people at /. Calls that hang do so until their client leaves.
func (s *Sandbox) Handler() http.Handler {
	mux := http.NewServeMux()
	s.routeSendGrid(mux)
	s.routeTwilio(mux)
	s.routeFCM(mux)
	s.routeAdmin(mux)
	s.routePages(mux)
	return mux
}

// Serve answers on l and posts webhooks until ctx ends, then stops accepting, cuts
// the calls that hang, lets the others finish for up to 5 seconds and returns nil.
// It closes l. It can be called again, and goes on where it stopped.
func (s *Sandbox) Serve(ctx context.Context, l net.Listener) error {
	ctx, stop := context.WithCancel(ctx)
	var posting sync.WaitGroup
	posting.Go(func() { s.PostWebhooks(ctx) })
	defer posting.Wait()
	defer stop()
	server := &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		// Requests end with ctx, which frees those that hang or wait for their turn.
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve sandbox: %w", err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
	defer cancel()
	if err := server.Shutdown(grace); err != nil {
		return fmt.Errorf("stop sandbox: %w", errors.Join(err, server.Close()))
	}
	return nil
}

// PostWebhooks posts events until ctx ends. Serve does so too; it is for those who
// serve the Handler themselves.
func (s *Sandbox) PostWebhooks(ctx context.Context) {
	var posting sync.WaitGroup
	for _, w := range []*webhook{s.mailEvents, s.smsEvents} {
		posting.Go(func() { w.run(ctx) })
	}
	posting.Wait()
}

// PublicKey is what SendGrid's posts are verified with, as
// SENDGRID_WEBHOOK_PUBLIC_KEY wants it; empty without that webhook. Twilio's are
// verified with the account's token.
func (s *Sandbox) PublicKey() string {
	if s.mailEvents == nil {
		return ""
	}
	return WebhookPublicKey(s.config.Webhook.Key)
}

// WebhookIdle says whether every event of every message accepted so far has been
// accepted by its target, or is dropped or lost.
func (s *Sandbox) WebhookIdle() bool { return s.Stats().Webhooks.Waiting == 0 }

// Stats says what has been received so far, and reported.
func (s *Sandbox) Stats() Stats {
	return s.store.stats(map[string]WebhookStats{email: s.mailEvents.stats(), sms: s.smsEvents.stats()})
}

// Calls lists calls to providers by arrival, oldest first: those with a number
// greater than after, at most limit.
func (s *Sandbox) Calls(after uint64, limit int) []Call { return s.store.listCalls(after, limit) }

// Duplicates lists every delivery that was accepted more than once, in the order
// in which that was first seen; at most 100,000.
func (s *Sandbox) Duplicates() []Duplicate {
	items, _ := s.store.listDuplicates(0, maxDuplicates)
	return items
}

// Messages lists accepted messages of all channels, newest first, at most limit.
// Empty strings match everything; to is compared without regard to case.
func (s *Sandbox) Messages(delivery, to string, limit int) []Message {
	items, _ := s.store.find(exactly("", delivery, to), newest, limit)
	return items
}

// Reset forgets every call, message, waiting event and count. Faults stay, and who
// wants no SMS any more.
func (s *Sandbox) Reset() {
	s.store.reset()
	s.mailEvents.reset()
	s.smsEvents.reset()
}

// SetFaults replaces the faults, and starts their counters and random numbers
// anew. The error names every field that makes no sense; then nothing changes.
func (s *Sandbox) SetFaults(f Faults) error {
	if err := s.faults.set(f); err != nil {
		return err
	}
	s.log.Info("sandbox faults set", "rules", len(f.Rules), "down", len(f.Down), "pace", f.Pace, "logs", f.Logs.Mode, "webhooks_held", f.Webhooks.Hold)
	return nil
}

// Faults gives the faults in force, each rule with how often it was applied.
func (s *Sandbox) Faults() Faults { return s.faults.get() }

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// The status is out; a client that left is not an error of ours.
	_ = json.NewEncoder(w).Encode(v)
}

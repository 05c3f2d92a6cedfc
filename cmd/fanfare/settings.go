package main

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
	"github.com/jackc/pgx/v5"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/ledger"
)

// The groups of settings. Each role below embeds those it needs. They are exported
// because the library does not look into others.
type (
	DatabaseSettings struct {
		DatabaseURL fanfare.Secret `env:"FANFARE_DATABASE_URL"` // may hold a password
	}
	TemporalSettings struct {
		TemporalAddress   string `env:"FANFARE_TEMPORAL_ADDRESS" envDefault:"127.0.0.1:7233"`
		TemporalNamespace string `env:"FANFARE_TEMPORAL_NAMESPACE" envDefault:"fanfare"`
	}
	LedgerSettings struct {
		Expires       time.Duration `env:"FANFARE_EXPIRES" envDefault:"24h"`
		DoubtEmail    ledger.Policy `env:"FANFARE_DOUBT_EMAIL" envDefault:"resend"`
		DoubtSMS      ledger.Policy `env:"FANFARE_DOUBT_SMS" envDefault:"hold"`
		DoubtPush     ledger.Policy `env:"FANFARE_DOUBT_PUSH" envDefault:"resend"`
		DoubtDeadline time.Duration `env:"FANFARE_DOUBT_DEADLINE" envDefault:"10m"`
	}
	LinkSettings struct { // server and worker need the same ones
		Listen    string         `env:"FANFARE_LISTEN" envDefault:"127.0.0.1:8080"`
		PublicURL string         `env:"FANFARE_PUBLIC_URL"` // default: Listen
		Secret    fanfare.Secret `env:"FANFARE_SECRET"`
	}
	EmailSettings struct { // an account without a key, a relay without a URL is not used; without any email is off
		SendGridAPIKey   fanfare.Secret `env:"SENDGRID_API_KEY"`
		SendGridBaseURL  string         `env:"SENDGRID_BASE_URL"` // empty: SendGrid itself
		SendGridFrom     string         `env:"SENDGRID_FROM"`
		SendGrid2APIKey  fanfare.Secret `env:"SENDGRID_2_API_KEY"`
		SendGrid2BaseURL string         `env:"SENDGRID_2_BASE_URL"`
		SendGrid2From    string         `env:"SENDGRID_2_FROM"`
		SMTPURL          fanfare.Secret `env:"SMTP_URL"` // may hold a password
		SMTPFrom         string         `env:"SMTP_FROM"`
		EmailProviders   []string       `env:"FANFARE_EMAIL_PROVIDERS"` // empty: all that can be used
	}
	SMSSettings struct { // an account without SID and token is not used; without any SMS is off
		TwilioAccountSID  string         `env:"TWILIO_ACCOUNT_SID"`
		TwilioAuthToken   fanfare.Secret `env:"TWILIO_AUTH_TOKEN"`
		TwilioFrom        string         `env:"TWILIO_FROM"`
		TwilioBaseURL     string         `env:"TWILIO_BASE_URL"` // empty: Twilio itself
		Twilio2AccountSID string         `env:"TWILIO_2_ACCOUNT_SID"`
		Twilio2AuthToken  fanfare.Secret `env:"TWILIO_2_AUTH_TOKEN"`
		Twilio2From       string         `env:"TWILIO_2_FROM"`
		Twilio2BaseURL    string         `env:"TWILIO_2_BASE_URL"`
		SMSProviders      []string       `env:"FANFARE_SMS_PROVIDERS"` // empty: all that can be used
	}
	PushSettings struct { // push is on with a project and either credentials or another host
		FCMProjectID      string `env:"FCM_PROJECT_ID"`
		FCMBaseURL        string `env:"FCM_BASE_URL"`                   // empty: FCM itself
		GoogleCredentials string `env:"GOOGLE_APPLICATION_CREDENTIALS"` // the path of a file
	}
	ProviderSettings struct { // of every channel, and where providers and readers reach us
		LinkSettings
		EmailSettings
		SMSSettings
		PushSettings
	}
	WebhookSettings struct { // public keys; without one SendGrid's webhook is off
		SendGridWebhookKey  string `env:"SENDGRID_WEBHOOK_PUBLIC_KEY"`
		SendGrid2WebhookKey string `env:"SENDGRID_2_WEBHOOK_PUBLIC_KEY"`
	}
)

// The roles: what each command needs to know.
type (
	migrateSettings  struct{ DatabaseSettings }
	operatorSettings struct { // verify and recover
		DatabaseSettings
		TemporalSettings
		LedgerSettings
	}
	serverSettings struct {
		DatabaseSettings
		TemporalSettings
		LedgerSettings
		ProviderSettings
		WebhookSettings
		TemporalUI string           `env:"FANFARE_TEMPORAL_UI_URL" envDefault:"http://127.0.0.1:8233"`
		APIKeys    []fanfare.Secret `env:"FANFARE_API_KEYS"`
	}
	workerSettings struct {
		DatabaseSettings
		TemporalSettings
		LedgerSettings
		ProviderSettings
		RetryFast []time.Duration `env:"FANFARE_RETRY_FAST" envDefault:"1s,3s,10s,30s,2m"`
		RetrySlow []time.Duration `env:"FANFARE_RETRY_SLOW" envDefault:"10m,30m,1h"`
	}
	clientSettings struct {
		APIURL string         `env:"FANFARE_API_URL" envDefault:"http://127.0.0.1:8080"`
		APIKey fanfare.Secret `env:"FANFARE_API_KEY" envDefault:"dev-key"`
	}
)

// settingsError lists everything that is wrong with the settings.
type settingsError struct{ problems []fanfare.Violation }

func (e *settingsError) Error() string {
	lines := []string{"the settings are not right:"}
	for _, p := range e.problems {
		lines = append(lines, "  "+p.Field+" "+p.Detail)
	}
	return strings.Join(lines, "\n")
}

// report notes that a setting is wrong: "<name> <what>".
type report func(name, what string)

// load reads the settings of one role and reports everything wrong with them at
// once. An empty value counts as none. Messages never repeat a secret's value.
func load[T interface{ check(report) }](environ map[string]string) (T, error) {
	given := map[string]string{}
	for name, value := range environ {
		if value = strings.TrimSpace(value); value != "" {
			given[name] = value
		}
	}
	var settings T
	var bad settingsError
	err := env.ParseWithOptions(&settings, env.Options{Environment: given, FuncMap: map[reflect.Type]env.ParserFunc{
		reflect.TypeFor[time.Duration]():  func(s string) (any, error) { return time.ParseDuration(strings.TrimSpace(s)) },
		reflect.TypeFor[fanfare.Secret](): func(s string) (any, error) { return fanfare.Secret(strings.TrimSpace(s)), nil },
	}})
	unread := map[string]bool{} // a value that could not be read is not checked as well
	if err := bad.addUnread(reflect.TypeFor[T](), err, unread); err != nil {
		return settings, err
	}
	settings.check(func(name, what string) {
		if !unread[name] {
			bad.problems = append(bad.problems, fanfare.Violation{Field: name, Detail: what})
		}
	})
	if len(bad.problems) > 0 {
		slices.SortStableFunc(bad.problems, func(a, b fanfare.Violation) int { return cmp.Compare(a.Field, b.Field) })
		return settings, &bad
	}
	return settings, nil
}

// addUnread adds the values that could not be read. The library knows the field, a
// person knows the name in its tag.
func (e *settingsError) addUnread(role reflect.Type, err error, unread map[string]bool) error {
	if err == nil {
		return nil
	}
	var all env.AggregateError
	if !errors.As(err, &all) {
		return fmt.Errorf("read settings: %w", err)
	}
	for _, each := range all.Errors {
		var parse env.ParseError
		if !errors.As(each, &parse) {
			return fmt.Errorf("read settings: %w", each)
		}
		field, _ := role.FieldByName(parse.Name)
		name := field.Tag.Get("env")
		unread[name] = true
		what := "must be a duration such as 90s, 10m or 24h"
		if field.Type.Kind() == reflect.Slice {
			what = "must be durations separated by commas, such as 1s,10s,2m"
		}
		e.problems = append(e.problems, fanfare.Violation{Field: name, Detail: what})
	}
	return nil
}

func (s migrateSettings) check(r report) { s.checkDatabase(r) }

func (s operatorSettings) check(r report) {
	s.checkDatabase(r)
	s.checkTemporal(r)
	s.checkLedger(r)
}

func (s serverSettings) check(r report) {
	s.checkDatabase(r)
	s.checkTemporal(r)
	s.checkLedger(r)
	s.checkLinks(r)
	s.webhooks(r)
	if len(s.APIKeys) == 0 {
		r("FANFARE_API_KEYS", "is missing; set it to the keys that publishers use, separated by commas")
	}
	if slices.Contains(s.APIKeys, "") {
		r("FANFARE_API_KEYS", "has an empty key; write the keys separated by single commas")
	}
	if !webAddress(s.TemporalUI) {
		r("FANFARE_TEMPORAL_UI_URL", "must be a whole http or https address, such as http://127.0.0.1:8233")
	}
}

func (s workerSettings) check(r report) {
	s.checkDatabase(r)
	s.checkTemporal(r)
	s.checkLedger(r)
	s.checkLinks(r)
	s.checkProviders(r)
	if slices.ContainsFunc(s.RetryFast, func(d time.Duration) bool { return d <= 0 }) {
		r("FANFARE_RETRY_FAST", "must hold only durations above zero, such as 1s,10s,2m")
	}
	if slices.ContainsFunc(s.RetrySlow, func(d time.Duration) bool { return d <= 0 }) {
		r("FANFARE_RETRY_SLOW", "must hold only durations above zero, such as 10m,30m,1h")
	}
}

func (s clientSettings) check(r report) {
	if !webAddress(s.APIURL) {
		r("FANFARE_API_URL", "must be a whole http or https address, such as http://127.0.0.1:8080")
	}
}

func (s DatabaseSettings) checkDatabase(r report) {
	if s.DatabaseURL == "" {
		r("FANFARE_DATABASE_URL", "is missing; set it to a PostgreSQL URL such as postgres://user:password@host:5432/fanfare, or start `fanfare dev`, which leaves one in its data folder")
		return
	}
	// The parser's own words may quote the URL.
	if _, err := pgx.ParseConfig(string(s.DatabaseURL)); err != nil {
		r("FANFARE_DATABASE_URL", "cannot be read as a PostgreSQL URL; write it as postgres://user:password@host:5432/fanfare")
	}
}

func (s TemporalSettings) checkTemporal(r report) {
	if _, port, err := net.SplitHostPort(s.TemporalAddress); err != nil || port == "" {
		r("FANFARE_TEMPORAL_ADDRESS", "must be host:port, such as 127.0.0.1:7233")
	}
}

func (s LedgerSettings) checkLedger(r report) {
	if s.Expires <= 0 {
		r("FANFARE_EXPIRES", "must be above zero, such as 24h")
	}
	if s.DoubtDeadline <= 0 {
		r("FANFARE_DOUBT_DEADLINE", "must be above zero, such as 10m")
	}
	for name, policy := range map[string]ledger.Policy{"FANFARE_DOUBT_EMAIL": s.DoubtEmail, "FANFARE_DOUBT_SMS": s.DoubtSMS, "FANFARE_DOUBT_PUSH": s.DoubtPush} {
		if policy != ledger.Resend && policy != ledger.Hold {
			r(name, "must be resend (send once more, never twice) or hold (give up and keep)")
		}
	}
}

func (s LinkSettings) checkLinks(r report) {
	if _, port, err := net.SplitHostPort(s.Listen); err != nil || port == "" {
		r("FANFARE_LISTEN", "must be host:port, such as 127.0.0.1:8080")
	}
	if s.PublicURL != "" && (!webAddress(s.PublicURL) || strings.ContainsAny(s.PublicURL, "?#@")) {
		r("FANFARE_PUBLIC_URL", "must be a whole http or https address without a query, such as https://fanfare.example")
	}
	if s.Secret == "" {
		r("FANFARE_SECRET", "is missing; set it to the same random text for server and worker, such as the output of `openssl rand -hex 32`")
	}
}

func webAddress(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
}

// publicURL is where links lead, without a slash at its end.
func (s LinkSettings) publicURL() string {
	if s.PublicURL != "" {
		return strings.TrimRight(s.PublicURL, "/")
	}
	host, port, _ := net.SplitHostPort(s.Listen)
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port)
}

func (s LedgerSettings) ledgerConfig(channels []fanfare.Channel) ledger.Config {
	return ledger.Config{
		Channels: channels, Expires: s.Expires, DoubtDeadline: s.DoubtDeadline,
		DoubtPolicy: map[fanfare.Channel]ledger.Policy{fanfare.Email: s.DoubtEmail, fanfare.SMS: s.DoubtSMS, fanfare.Push: s.DoubtPush},
	}
}

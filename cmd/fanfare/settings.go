package main

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
	"github.com/jackc/pgx/v5"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/activities"
	"github.com/fanfare-dev/fanfare/ledger"
	"github.com/fanfare-dev/fanfare/providers/sendgrid"
	"github.com/fanfare-dev/fanfare/providers/smtp"
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
	WebhookSettings struct { // public keys; without one the provider's webhook is off
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
		LinkSettings
		EmailSettings
		WebhookSettings
		TemporalUI string           `env:"FANFARE_TEMPORAL_UI_URL" envDefault:"http://127.0.0.1:8233"`
		APIKeys    []fanfare.Secret `env:"FANFARE_API_KEYS"`
	}
	workerSettings struct {
		DatabaseSettings
		TemporalSettings
		LedgerSettings
		LinkSettings
		EmailSettings
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
	s.checkWebhooks(r)
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
	s.checkEmail(r)
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
	if s.DoubtEmail != ledger.Resend && s.DoubtEmail != ledger.Hold {
		r("FANFARE_DOUBT_EMAIL", "must be resend (send once more, never twice) or hold (give up and keep)")
	}
}

func (s LinkSettings) checkLinks(r report) {
	if _, port, err := net.SplitHostPort(s.Listen); err != nil || port == "" {
		r("FANFARE_LISTEN", "must be host:port, such as 127.0.0.1:8080")
	}
	if s.PublicURL != "" && !webAddress(s.PublicURL) {
		r("FANFARE_PUBLIC_URL", "must be a whole http or https address, such as https://fanfare.example")
	}
	if s.Secret == "" {
		r("FANFARE_SECRET", "is missing; set it to the same random text for server and worker, such as the output of `openssl rand -hex 32`")
	}
}

// refused reports what a provider finds wrong with its settings.
func (r report) refused(err error) {
	var invalid *fanfare.InvalidError
	if errors.As(err, &invalid) {
		for _, v := range invalid.Violations {
			r(v.Field, v.Detail)
		}
	}
}

// checkEmail asks the providers what they would refuse.
func (s EmailSettings) checkEmail(r report) {
	how, on := map[string]string{}, map[string]bool{}
	for _, p := range s.emailProviders() {
		how[p.name], on[p.name] = p.switchOn, p.on
		if p.on {
			_, err := p.sender(http.DefaultClient, slog.New(slog.DiscardHandler))
			r.refused(err)
		}
	}
	named := map[string]bool{}
	for _, name := range s.EmailProviders {
		name = strings.TrimSpace(name)
		switch {
		case how[name] == "":
			r("FANFARE_EMAIL_PROVIDERS", fmt.Sprintf("names %q, which there is not; choose among %s", name, strings.Join(slices.Sorted(maps.Keys(how)), ", ")))
		case named[name]:
			r("FANFARE_EMAIL_PROVIDERS", "names "+name+" twice; name each once, the preferred one first")
		case !on[name]:
			r("FANFARE_EMAIL_PROVIDERS", "names "+name+", which has no credentials; "+how[name]+", or leave it out")
		}
		named[name] = true
	}
}

func (s WebhookSettings) checkWebhooks(r report) {
	for name, key := range s.webhookKeys() {
		_, err := sendgrid.NewWebhook(name, key)
		r.refused(err)
	}
}

// emailProvider is one that email can be sent through. Its name is in records, and
// does not change.
type emailProvider struct {
	name     string
	on       bool // it has credentials
	switchOn string
	sender   func(hc *http.Client, log *slog.Logger) (activities.Sender, error)
}

// emailProviders are all there are, in the order in which they are used unless
// FANFARE_EMAIL_PROVIDERS says otherwise.
func (s EmailSettings) emailProviders() []emailProvider {
	account := func(c sendgrid.Config) func(*http.Client, *slog.Logger) (activities.Sender, error) {
		return func(hc *http.Client, _ *slog.Logger) (activities.Sender, error) { return sendgrid.New(c, hc) }
	}
	return []emailProvider{
		{
			"sendgrid", s.SendGridAPIKey != "", "set SENDGRID_API_KEY and SENDGRID_FROM",
			account(sendgrid.Config{Name: "sendgrid", APIKey: s.SendGridAPIKey, BaseURL: s.SendGridBaseURL, From: s.SendGridFrom}),
		},
		{
			"sendgrid-2", s.SendGrid2APIKey != "", "set SENDGRID_2_API_KEY and SENDGRID_2_FROM",
			account(sendgrid.Config{Name: "sendgrid-2", APIKey: s.SendGrid2APIKey, BaseURL: s.SendGrid2BaseURL, From: s.SendGrid2From}),
		},
		{
			"smtp", s.SMTPURL != "", "set SMTP_URL and SMTP_FROM",
			func(_ *http.Client, log *slog.Logger) (activities.Sender, error) {
				return smtp.New(smtp.Config{Name: "smtp", URL: s.SMTPURL, From: s.SMTPFrom, Log: log})
			},
		},
	}
}

// emailSenders are the senders of email, the preferred one first, and the
// providers that can be asked about a call: also those that nothing is sent through
// any more, because calls of theirs may be in doubt.
func (s EmailSettings) emailSenders(hc *http.Client, log *slog.Logger) ([]activities.Sender, map[string]activities.LookUp, error) {
	var order []string
	all, lookUps := map[string]activities.Sender{}, map[string]activities.LookUp{}
	for _, p := range s.emailProviders() {
		if !p.on {
			continue
		}
		sender, err := p.sender(hc, log)
		if err != nil {
			return nil, nil, err
		}
		order, all[p.name] = append(order, p.name), sender
		lookUps[p.name] = activities.NoLookUp{}
		if asked, can := sender.(activities.LookUp); can {
			lookUps[p.name] = asked
		}
	}
	if len(s.EmailProviders) > 0 {
		order = s.EmailProviders
	}
	senders := make([]activities.Sender, len(order))
	for i, name := range order {
		senders[i] = all[strings.TrimSpace(name)]
	}
	return senders, lookUps, nil
}

// webhooks are those that can be verified, by the name of their provider. What
// checkWebhooks lets pass can.
func (s WebhookSettings) webhooks() map[string]*sendgrid.Webhook {
	on := map[string]*sendgrid.Webhook{}
	for name, key := range s.webhookKeys() {
		if webhook, err := sendgrid.NewWebhook(name, key); err == nil {
			on[name] = webhook
		}
	}
	return on
}

func (s WebhookSettings) webhookKeys() map[string]string {
	keys := map[string]string{"sendgrid": s.SendGridWebhookKey, "sendgrid-2": s.SendGrid2WebhookKey}
	maps.DeleteFunc(keys, func(_, key string) bool { return key == "" })
	return keys
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

// channels are those with credentials.
func (s EmailSettings) channels() []fanfare.Channel {
	if !slices.ContainsFunc(s.emailProviders(), func(p emailProvider) bool { return p.on }) {
		return nil
	}
	return []fanfare.Channel{fanfare.Email}
}

func (s LedgerSettings) ledgerConfig(channels []fanfare.Channel) ledger.Config {
	return ledger.Config{
		Channels: channels, Expires: s.Expires, DoubtDeadline: s.DoubtDeadline,
		DoubtPolicy: map[fanfare.Channel]ledger.Policy{fanfare.Email: s.DoubtEmail},
	}
}

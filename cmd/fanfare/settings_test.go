package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/activities"
	"github.com/fanfare-dev/fanfare/ledger"
)

const (
	hidden      = "hush-hush"
	hiddenToken = "hushhush"
)

// secrets are settings in which every secret is the word hidden.
func secrets() map[string]string {
	return map[string]string{
		"FANFARE_DATABASE_URL": "postgres://fanfare:" + hidden + "@db.example/fanfare",
		"FANFARE_SECRET":       hidden,
		"FANFARE_API_KEYS":     hidden + ", " + hidden,
		"FANFARE_API_KEY":      hidden,
		"SENDGRID_API_KEY":     hidden,
		"SENDGRID_FROM":        "Blog <news@blog.example>",
	}
}

// everyEmail adds all the other ways to send email, secrets likewise.
func everyEmail(environ map[string]string) map[string]string {
	maps.Copy(environ, map[string]string{
		"SENDGRID_2_API_KEY": hidden,
		"SENDGRID_2_FROM":    "news@blog.example",
		"SMTP_URL":           "smtp://fanfare:" + hidden + "@relay.example:587",
		"SMTP_FROM":          "Blog <news@blog.example>",
	})
	return environ
}

// bothTwilios adds two accounts for SMS. A token is letters and digits.
func bothTwilios(environ map[string]string) map[string]string {
	maps.Copy(environ, map[string]string{
		"TWILIO_ACCOUNT_SID": "AC1", "TWILIO_AUTH_TOKEN": hiddenToken, "TWILIO_FROM": "+34911234567",
		"TWILIO_2_ACCOUNT_SID": "AC2", "TWILIO_2_AUTH_TOKEN": hiddenToken, "TWILIO_2_FROM": "MG2",
	})
	return environ
}

// googleKey is a file that Google's libraries read. It signs in to nothing.
func googleKey(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "google.json")
	require.NoError(t, os.WriteFile(path, []byte(`{"type": "authorized_user", "client_id": "1", "client_secret": "2", "refresh_token": "3"}`), 0o600))
	return path
}

// aPublicKey is as SendGrid shows it.
const aPublicKey = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE83T4O/n84iotIvIW4mdBgQ/7dAfSmpqIM8kF9mN1flpVKS3GRqe62gw+2fNNRaINXvVpiglSI8eNEc6wEA3F+g=="

func with(environ map[string]string, name, value string) map[string]string {
	environ[name] = value
	return environ
}

func without(environ map[string]string, names ...string) map[string]string {
	for _, name := range names {
		delete(environ, name)
	}
	return environ
}

func problemsOf[T interface{ check(report) }](t *testing.T, environ map[string]string) []string {
	t.Helper()
	_, err := load[T](environ)
	if err == nil {
		return nil
	}
	var bad *settingsError
	require.ErrorAs(t, err, &bad)
	require.NotContains(t, err.Error(), hidden)
	require.NotContains(t, err.Error(), hiddenToken)
	names := []string{}
	for _, p := range bad.problems {
		require.NotEmpty(t, p.Detail)
		names = append(names, p.Field)
	}
	return names
}

func TestSettingsHaveDefaults(t *testing.T) {
	t.Parallel()
	s, err := load[workerSettings](secrets())
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1:7233", s.TemporalAddress)
	require.Equal(t, "fanfare", s.TemporalNamespace)
	require.Equal(t, "http://127.0.0.1:8080", s.publicURL())
	require.Equal(t, []time.Duration{time.Second, 3 * time.Second, 10 * time.Second, 30 * time.Second, 2 * time.Minute}, s.RetryFast)
	require.Equal(t, ledger.Config{
		Channels: []fanfare.Channel{fanfare.Email, fanfare.InApp}, Expires: 24 * time.Hour, DoubtDeadline: 10 * time.Minute,
		DoubtPolicy: map[fanfare.Channel]ledger.Policy{fanfare.Email: ledger.Resend, fanfare.SMS: ledger.Hold, fanfare.Push: ledger.Resend},
		Ladder: []time.Duration{
			time.Second, 3 * time.Second, 10 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour,
		},
	}, s.ledgerConfig())

	c, err := load[clientSettings](nil)
	require.NoError(t, err)
	require.Equal(t, clientSettings{APIURL: "http://127.0.0.1:8080", APIKey: "dev-key"}, c)
}

func TestSettingsAreRead(t *testing.T) {
	t.Parallel()
	environ := secrets()
	maps.Copy(environ, map[string]string{
		"FANFARE_LISTEN": "0.0.0.0:9000", "FANFARE_RETRY_FAST": "2s, 5m", "FANFARE_RETRY_SLOW": "90m", "FANFARE_DOUBT_EMAIL": "hold", "FANFARE_DOUBT_SMS": "resend", "FANFARE_DOUBT_PUSH": "hold", "FANFARE_DOUBT_DEADLINE": " 90s ",
		"FANFARE_EXPIRES": "", "FANFARE_TEMPORAL_NAMESPACE": "other",
	})
	w, err := load[workerSettings](environ)
	require.NoError(t, err)
	require.Equal(t, "http://127.0.0.1:9000", w.publicURL())
	require.Equal(t, []time.Duration{2 * time.Second, 5 * time.Minute}, w.RetryFast)
	require.Equal(t, []time.Duration{2 * time.Second, 5 * time.Minute, 90 * time.Minute}, w.ledgerConfig().Ladder)
	require.Equal(t, map[fanfare.Channel]ledger.Policy{fanfare.Email: ledger.Hold, fanfare.SMS: ledger.Resend, fanfare.Push: ledger.Hold}, w.ledgerConfig().DoubtPolicy)
	require.Equal(t, 90*time.Second, w.DoubtDeadline)
	require.Equal(t, 24*time.Hour, w.Expires, "an empty value is none")
	require.Equal(t, "other", w.TemporalNamespace)

	s, err := load[serverSettings](with(environ, "FANFARE_PUBLIC_URL", "https://fanfare.example/"))
	require.NoError(t, err)
	require.Equal(t, []fanfare.Secret{hidden, hidden}, s.APIKeys)
	require.Equal(t, "https://fanfare.example", s.publicURL())
}

func TestSettingsReportEverythingAtOnce(t *testing.T) {
	t.Parallel()
	wrong := map[string]string{
		"FANFARE_DATABASE_URL": "postgres://u:" + hidden + "@h:99999/x", "FANFARE_TEMPORAL_ADDRESS": "localhost", "FANFARE_EXPIRES": "a day",
		"FANFARE_DOUBT_EMAIL": "maybe", "FANFARE_DOUBT_SMS": "never", "FANFARE_DOUBT_PUSH": "perhaps", "FANFARE_DOUBT_DEADLINE": "-1s", "FANFARE_LISTEN": "8080", "FANFARE_PUBLIC_URL": "fanfare.example",
		"FANFARE_RETRY_FAST": "1s,soon", "SENDGRID_API_KEY": hidden + " " + hidden, "SENDGRID_BASE_URL": "ftp://x", "SENDGRID_FROM": "nobody",
		"FANFARE_TEMPORAL_UI_URL": "8233", "FANFARE_API_KEYS": hidden + ",,", "FANFARE_API_URL": "localhost:8080",
		"FANFARE_RETRY_SLOW": "1m,-1h", "SENDGRID_2_API_KEY": hidden + " " + hidden, "SENDGRID_2_BASE_URL": "ftp://x", "SENDGRID_2_FROM": "nobody",
		"SMTP_URL": "http://u:" + hidden + "@relay.example", "SMTP_FROM": "nobody", "FANFARE_EMAIL_PROVIDERS": "pigeon",
		"SENDGRID_WEBHOOK_PUBLIC_KEY": "x", "SENDGRID_2_WEBHOOK_PUBLIC_KEY": aPublicKey[1:],
		"TWILIO_ACCOUNT_SID": "SK1", "TWILIO_AUTH_TOKEN": hidden, "TWILIO_FROM": "us", "TWILIO_BASE_URL": "ftp://x", "FANFARE_SMS_PROVIDERS": "pigeon",
		"TWILIO_2_AUTH_TOKEN": hiddenToken,
		"FCM_PROJECT_ID":      "My Blog", "FCM_BASE_URL": "ftp://x", "GOOGLE_APPLICATION_CREDENTIALS": "/none.json",
	}
	database := []string{"FANFARE_DATABASE_URL"}
	books := []string{"FANFARE_DATABASE_URL", "FANFARE_DOUBT_DEADLINE", "FANFARE_DOUBT_EMAIL", "FANFARE_DOUBT_PUSH", "FANFARE_DOUBT_SMS", "FANFARE_EXPIRES"}
	links := []string{"FANFARE_LISTEN", "FANFARE_PUBLIC_URL", "FANFARE_SECRET", "FANFARE_TEMPORAL_ADDRESS"}
	providers := []string{
		"FANFARE_EMAIL_PROVIDERS", "SENDGRID_API_KEY", "SENDGRID_BASE_URL", "SENDGRID_FROM",
		"SENDGRID_2_API_KEY", "SENDGRID_2_BASE_URL", "SENDGRID_2_FROM", "SMTP_URL", "SMTP_FROM",
		"FANFARE_SMS_PROVIDERS", "TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "TWILIO_FROM", "TWILIO_BASE_URL", "TWILIO_2_ACCOUNT_SID", "TWILIO_2_FROM",
		"FCM_PROJECT_ID", "FCM_BASE_URL", "GOOGLE_APPLICATION_CREDENTIALS",
	}
	webhooks := []string{"SENDGRID_WEBHOOK_PUBLIC_KEY", "SENDGRID_2_WEBHOOK_PUBLIC_KEY", "TWILIO_AUTH_TOKEN"}

	require.Equal(t, database, problemsOf[migrateSettings](t, wrong))
	require.Equal(t, append(books, "FANFARE_TEMPORAL_ADDRESS"), problemsOf[operatorSettings](t, wrong))
	require.ElementsMatch(t, concat(books, links, webhooks, []string{"FANFARE_API_KEYS", "FANFARE_TEMPORAL_UI_URL"}), problemsOf[serverSettings](t, wrong))
	require.ElementsMatch(t, concat(books, links, providers, []string{"FANFARE_RETRY_FAST", "FANFARE_RETRY_SLOW"}), problemsOf[workerSettings](t, wrong))
	require.Equal(t, []string{"FANFARE_API_URL"}, problemsOf[clientSettings](t, wrong))
}

func concat(lists ...[]string) []string {
	var all []string
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

func TestSettingsThatAreMissing(t *testing.T) {
	t.Parallel()
	require.Equal(t, []string{"FANFARE_API_KEYS", "FANFARE_DATABASE_URL", "FANFARE_SECRET"}, problemsOf[serverSettings](t, nil))
	require.Equal(t, []string{"FANFARE_DATABASE_URL", "FANFARE_SECRET"}, problemsOf[workerSettings](t, nil))
	require.Equal(t, []string{"SENDGRID_FROM"}, problemsOf[workerSettings](t, with(secrets(), "SENDGRID_FROM", "")))
	require.Nil(t, problemsOf[serverSettings](t, with(secrets(), "SENDGRID_FROM", "")), "the server sends nothing")
	require.Nil(t, problemsOf[workerSettings](t, with(secrets(), "SENDGRID_API_KEY", "")), "email is off")
	for _, setting := range []string{"TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "TWILIO_FROM", "TWILIO_2_ACCOUNT_SID", "TWILIO_2_AUTH_TOKEN", "TWILIO_2_FROM"} {
		require.Equal(t, []string{setting}, problemsOf[workerSettings](t, with(bothTwilios(secrets()), setting, "")))
	}
	require.Nil(t, problemsOf[workerSettings](t, without(bothTwilios(secrets()), "TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN")), "a sender alone turns nothing on")
	require.Equal(t, []string{"TWILIO_AUTH_TOKEN"}, problemsOf[serverSettings](t, without(bothTwilios(secrets()), "TWILIO_AUTH_TOKEN")), "nobody could sign")
	for _, odd := range []string{"https://blog.example/?x=1", "https://blog.example/#x", "https://me@blog.example", "blog.example"} {
		require.Equal(t, []string{"FANFARE_PUBLIC_URL"}, problemsOf[workerSettings](t, with(bothTwilios(secrets()), "FANFARE_PUBLIC_URL", odd)), "once")
		require.Equal(t, []string{"FANFARE_PUBLIC_URL"}, problemsOf[serverSettings](t, with(bothTwilios(secrets()), "FANFARE_PUBLIC_URL", odd)), "once")
	}
	pushed := func() map[string]string {
		return with(with(secrets(), "FCM_PROJECT_ID", "slow-coast"), "GOOGLE_APPLICATION_CREDENTIALS", "/none.json")
	}
	require.Equal(t, []string{"GOOGLE_APPLICATION_CREDENTIALS"}, problemsOf[workerSettings](t, pushed()))
	require.Nil(t, problemsOf[serverSettings](t, pushed()), "the server sends nothing")
	require.Nil(t, problemsOf[workerSettings](t, without(pushed(), "FCM_PROJECT_ID")), "Google's credentials may be there for something else")
	require.Nil(t, problemsOf[workerSettings](t, without(pushed(), "GOOGLE_APPLICATION_CREDENTIALS")), "push is off")
	require.Equal(t, []string{"FANFARE_RETRY_FAST"}, problemsOf[workerSettings](t, with(secrets(), "FANFARE_RETRY_FAST", "1s,0s")))
	require.Equal(t, []string{"FANFARE_RETRY_FAST"}, problemsOf[workerSettings](t, with(secrets(), "FANFARE_RETRY_FAST", ",")))
	require.Equal(t, []string{"FANFARE_RETRY_SLOW"}, problemsOf[workerSettings](t, with(secrets(), "FANFARE_RETRY_SLOW", "0s")))
	require.Equal(t, []string{"FANFARE_RETRY_SLOW"}, problemsOf[workerSettings](t, with(secrets(), "FANFARE_RETRY_SLOW", "10m,later")))
}

func TestProvidersAreInOrder(t *testing.T) {
	t.Parallel()
	noEmail := func() map[string]string { return with(secrets(), "SENDGRID_API_KEY", "") }
	for name, tc := range map[string]struct {
		channel fanfare.Channel // or email
		environ map[string]string
		asked   []string
		order   []string
		lookUps []string
	}{
		"none":                     {environ: with(secrets(), "SENDGRID_API_KEY", "")},
		"one":                      {environ: secrets(), order: []string{"sendgrid"}, lookUps: []string{"sendgrid"}},
		"all":                      {environ: everyEmail(secrets()), order: []string{"sendgrid", "sendgrid-2", "smtp"}, lookUps: []string{"sendgrid", "sendgrid-2"}},
		"without the first":        {environ: with(everyEmail(secrets()), "SENDGRID_API_KEY", ""), order: []string{"sendgrid-2", "smtp"}, lookUps: []string{"sendgrid-2"}},
		"a relay alone":            {environ: with(with(everyEmail(secrets()), "SENDGRID_API_KEY", ""), "SENDGRID_2_API_KEY", ""), order: []string{"smtp"}},
		"chosen":                   {environ: with(everyEmail(secrets()), "FANFARE_EMAIL_PROVIDERS", "smtp, sendgrid-2 ,sendgrid"), order: []string{"smtp", "sendgrid-2", "sendgrid"}, lookUps: []string{"sendgrid", "sendgrid-2"}},
		"those left out are asked": {environ: with(everyEmail(secrets()), "FANFARE_EMAIL_PROVIDERS", "smtp"), order: []string{"smtp"}, lookUps: []string{"sendgrid", "sendgrid-2"}},
		"asked for":                {environ: secrets(), asked: []string{"email"}, order: []string{"sendgrid"}, lookUps: []string{"sendgrid"}},
		"no SMS":                   {channel: fanfare.SMS, environ: secrets(), lookUps: []string{"sendgrid"}},
		"SMS alone":                {channel: fanfare.SMS, environ: bothTwilios(noEmail()), order: []string{"twilio", "twilio-2"}, lookUps: []string{"twilio", "twilio-2"}},
		"the second Twilio":        {channel: fanfare.SMS, environ: without(bothTwilios(secrets()), "TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN"), order: []string{"twilio-2"}, lookUps: []string{"sendgrid", "twilio-2"}},
		"chosen Twilios":           {channel: fanfare.SMS, environ: with(bothTwilios(noEmail()), "FANFARE_SMS_PROVIDERS", "twilio-2, twilio"), order: []string{"twilio-2", "twilio"}, lookUps: []string{"twilio", "twilio-2"}},
		"SMS asked for":            {channel: fanfare.SMS, environ: bothTwilios(secrets()), asked: []string{"sms"}, order: []string{"twilio", "twilio-2"}, lookUps: []string{"sendgrid", "twilio", "twilio-2"}},
		"email beside SMS":         {environ: bothTwilios(secrets()), order: []string{"sendgrid"}, lookUps: []string{"sendgrid", "twilio", "twilio-2"}},
		"no push":                  {channel: fanfare.Push, environ: with(secrets(), "FCM_PROJECT_ID", "slow-coast"), lookUps: []string{"sendgrid"}},
		"push":                     {channel: fanfare.Push, environ: with(with(secrets(), "FCM_PROJECT_ID", "slow-coast"), "GOOGLE_APPLICATION_CREDENTIALS", googleKey(t)), order: []string{"fcm"}, lookUps: []string{"sendgrid"}},
		"push to a stand-in":       {channel: fanfare.Push, environ: with(with(secrets(), "FCM_PROJECT_ID", "slow-coast"), "FCM_BASE_URL", "http://127.0.0.1:8025"), order: []string{"fcm"}, lookUps: []string{"sendgrid"}},
		"SMS served by none":       {channel: fanfare.Push, environ: bothTwilios(secrets()), lookUps: []string{"sendgrid", "twilio", "twilio-2"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := load[workerSettings](tc.environ)
			require.NoError(t, err)
			cfg, err := s.providers(tc.asked, http.DefaultClient, slog.New(slog.DiscardHandler))
			require.NoError(t, err)
			var order []string
			channel := cmp.Or(tc.channel, fanfare.Email)
			for _, sender := range cfg.Senders[channel] {
				order = append(order, sender.Name())
			}
			require.Equal(t, tc.order, order)
			if len(tc.asked) > 0 {
				require.Len(t, cfg.Senders, len(tc.asked), "only what was asked for is served")
			}
			require.Equal(t, len(tc.order) > 0, slices.Contains(s.channels(), channel))
			var lookUps []string // of the others it is known that they offer none
			for _, name := range slices.Sorted(maps.Keys(cfg.LookUps)) {
				if cfg.LookUps[name] != (activities.NoLookUp{}) {
					lookUps = append(lookUps, name)
				}
			}
			require.Equal(t, tc.lookUps, lookUps)
			for _, name := range order {
				require.Contains(t, cfg.LookUps, name)
			}
		})
	}
}

func TestProvidersOfEmailThatCannotBe(t *testing.T) {
	t.Parallel()
	for list, want := range map[string]string{
		"pigeon":                 `FANFARE_EMAIL_PROVIDERS names "pigeon", which there is not; choose among sendgrid, sendgrid-2, smtp`,
		"sendgrid,":              `FANFARE_EMAIL_PROVIDERS names "", which there is not`,
		"SendGrid":               `names "SendGrid", which there is not`,
		"sendgrid, sendgrid":     "names sendgrid twice; name each once",
		"sendgrid,smtp":          "names smtp, which has no credentials; set SMTP_URL and SMTP_FROM, or leave it out",
		"sendgrid-2":             "names sendgrid-2, which has no credentials; set SENDGRID_2_API_KEY and SENDGRID_2_FROM",
		"smtp,smtp,x,sendgrid-2": `names "x"`,
	} {
		_, err := load[workerSettings](with(secrets(), "FANFARE_EMAIL_PROVIDERS", list))
		require.ErrorContains(t, err, want, list)
	}
	require.Equal(t, []string{"FANFARE_EMAIL_PROVIDERS", "FANFARE_EMAIL_PROVIDERS", "FANFARE_EMAIL_PROVIDERS"},
		problemsOf[workerSettings](t, with(secrets(), "FANFARE_EMAIL_PROVIDERS", "smtp,smtp,x")), "each is reported")
	for setting, without := range map[string]string{"SENDGRID_2_FROM": "SENDGRID_2_API_KEY", "SMTP_FROM": "SMTP_URL"} {
		environ := everyEmail(secrets())
		delete(environ, setting)
		require.Equal(t, []string{setting}, problemsOf[workerSettings](t, environ))
		delete(environ, without)
		require.Nil(t, problemsOf[workerSettings](t, environ), "a sender alone turns nothing on")
	}
}

func TestProvidersOfSMSThatCannotBe(t *testing.T) {
	t.Parallel()
	for list, want := range map[string]string{
		"sendgrid":      `FANFARE_SMS_PROVIDERS names "sendgrid", which there is not; choose among twilio, twilio-2`,
		"twilio,twilio": "names twilio twice",
		"twilio-2":      "names twilio-2, which has no credentials; set TWILIO_2_ACCOUNT_SID, TWILIO_2_AUTH_TOKEN and TWILIO_2_FROM, or leave it out",
	} {
		environ := without(bothTwilios(secrets()), "TWILIO_2_ACCOUNT_SID", "TWILIO_2_AUTH_TOKEN")
		_, err := load[workerSettings](with(environ, "FANFARE_SMS_PROVIDERS", list))
		require.ErrorContains(t, err, want, list)
	}
}

func TestWebhooksAreThoseWithAKey(t *testing.T) {
	t.Parallel()
	keys := map[string]func(map[string]string){
		"sendgrid":   func(e map[string]string) { e["SENDGRID_WEBHOOK_PUBLIC_KEY"] = " " + aPublicKey + "\n" },
		"sendgrid-2": func(e map[string]string) { e["SENDGRID_2_WEBHOOK_PUBLIC_KEY"] = aPublicKey },
		"twilio":     func(e map[string]string) { e["TWILIO_ACCOUNT_SID"], e["TWILIO_AUTH_TOKEN"] = "AC1", hiddenToken },
		"twilio-2":   func(e map[string]string) { e["TWILIO_2_ACCOUNT_SID"], e["TWILIO_2_AUTH_TOKEN"] = "AC2", hiddenToken },
	}
	for _, names := range [][]string{nil, {"sendgrid"}, {"sendgrid-2"}, {"sendgrid", "sendgrid-2"}, {"twilio"}, {"twilio-2"}, {"sendgrid", "sendgrid-2", "twilio", "twilio-2"}} {
		environ := secrets()
		for _, name := range names {
			keys[name](environ)
		}
		s, err := load[serverSettings](environ)
		require.NoError(t, err)
		require.Equal(t, names, slices.Sorted(maps.Keys(s.webhooks(nil))))
		for name := range keys {
			require.Contains(t, turnOnWebhook, name)
		}
	}
}

func TestSecretsAreRedactedHoweverTheyArePrinted(t *testing.T) {
	t.Parallel()
	server, err := load[serverSettings](bothTwilios(everyEmail(secrets())))
	require.NoError(t, err)
	worker, err := load[workerSettings](bothTwilios(everyEmail(secrets())))
	require.NoError(t, err)
	client, err := load[clientSettings](secrets())
	require.NoError(t, err)
	for _, s := range []any{server, worker, client, &server, server.EmailSettings, server.SMSSettings, migrateSettings{server.DatabaseSettings}, operatorSettings{DatabaseSettings: server.DatabaseSettings}} {
		var text, asJSON bytes.Buffer
		slog.New(slog.NewTextHandler(&text, nil)).Info("settings", "all", s)
		slog.New(slog.NewJSONHandler(&asJSON, nil)).Info("settings", "all", s)
		marshalled, err := json.Marshal(s)
		require.NoError(t, err)
		for _, printed := range []string{
			fmt.Sprintf("%v", s), fmt.Sprintf("%+v", s), fmt.Sprintf("%#v", s), fmt.Sprint(s), string(marshalled), text.String(), asJSON.String(),
		} {
			require.Contains(t, printed, "redacted")
			require.NotContains(t, printed, hidden)
			require.NotContains(t, printed, hiddenToken)
		}
	}
}

func TestEnvFileCompletesTheEnvironment(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "env"), []byte("FANFARE_API_URL=http://file.example\nFANFARE_API_KEY=from-file\n"), 0o600))
	a := &app{dataDir: dir, environ: map[string]string{"FANFARE_API_URL": "http://environment.example", "FANFARE_API_KEY": ""}}
	s, err := settings[clientSettings](a)
	require.NoError(t, err)
	require.Equal(t, clientSettings{APIURL: "http://environment.example", APIKey: "from-file"}, s)

	a.dataDir = t.TempDir()
	s, err = settings[clientSettings](a)
	require.NoError(t, err)
	require.Equal(t, fanfare.Secret("dev-key"), s.APIKey, "without a file there are the defaults")
}

func TestWrongSettingsEndWithTwo(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"server"}, {"worker"}, {"migrate", "up"}, {"verify"}, {"recover"}} {
		got := command(t, nil, "", args...)
		require.Equal(t, 2, got.code, args)
		require.Contains(t, got.err, "FANFARE_DATABASE_URL is missing; set it")
		require.Empty(t, got.out)
	}
	got := command(t, with(secrets(), "SENDGRID_API_KEY", ""), "", "worker", "--channels", "email")
	require.Equal(t, 2, got.code)
	require.Contains(t, got.err, "--channels email: it is switched off; set SENDGRID_API_KEY and SENDGRID_FROM")
	got = command(t, secrets(), "", "worker", "--channels", "sms")
	require.Equal(t, 2, got.code)
	require.Contains(t, got.err, "--channels sms: it is switched off; set TWILIO_ACCOUNT_SID, TWILIO_AUTH_TOKEN and TWILIO_FROM")
	got = command(t, secrets(), "", "worker", "--channels", "push")
	require.Equal(t, 2, got.code)
	require.Contains(t, got.err, "--channels push: it is switched off; set FCM_PROJECT_ID and GOOGLE_APPLICATION_CREDENTIALS")
	got = command(t, secrets(), "", "worker", "--channels", "fax")
	require.Equal(t, 2, got.code)
	require.Contains(t, got.err, "--channels fax: there is no such channel")
	got = command(t, secrets(), "", "worker", "--batch-size", "0")
	require.Equal(t, 2, got.code)
}

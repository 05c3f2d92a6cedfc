package main

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/local"
	"github.com/fanfare-dev/fanfare/sandbox"
)

// sandboxAccount is what the sandbox's account at Twilio is called; Twilio's client
// takes letters and digits only.
const sandboxAccount = "AC00000000000000000000000000000001"

// overrides are the settings that dev gives its children, over those of its own
// environment. An empty value takes a setting away.
type overrides map[string]string

// environ is the whole environment of a child.
func (o overrides) environ(ours map[string]string) []string {
	pairs := []string{}
	for name, value := range ours {
		if _, given := o[name]; !given {
			pairs = append(pairs, name+"="+value)
		}
	}
	for name, value := range o {
		if value != "" {
			pairs = append(pairs, name+"="+value)
		}
	}
	slices.Sort(pairs)
	return pairs
}

// demoIgnores are the settings that would have a demo write into somebody's real
// database, or to real people.
func demoIgnores() []string {
	return []string{
		"FANFARE_DATABASE_URL", "FANFARE_TEMPORAL_ADDRESS", "FANFARE_TEMPORAL_UI_URL",
		"FANFARE_EMAIL_PROVIDERS", "SMTP_URL", "SMTP_FROM",
		"SENDGRID_API_KEY", "SENDGRID_BASE_URL", "SENDGRID_FROM", "SENDGRID_WEBHOOK_PUBLIC_KEY",
		"SENDGRID_2_API_KEY", "SENDGRID_2_BASE_URL", "SENDGRID_2_FROM", "SENDGRID_2_WEBHOOK_PUBLIC_KEY",
		"FANFARE_SMS_PROVIDERS",
		"TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "TWILIO_FROM", "TWILIO_BASE_URL",
		"TWILIO_2_ACCOUNT_SID", "TWILIO_2_AUTH_TOKEN", "TWILIO_2_FROM", "TWILIO_2_BASE_URL",
		"GOOGLE_APPLICATION_CREDENTIALS", "FCM_PROJECT_ID", "FCM_BASE_URL",
	}
}

// prepare settles everything that can be settled before anything is started: the
// settings, whether they are right, and the ports.
func (d *dev) prepare() error {
	d.own = overrides{}
	if d.demo > 0 {
		d.ignoreOthers()
	}
	for _, name := range []string{"FANFARE_DATABASE_URL", "FANFARE_TEMPORAL_ADDRESS"} {
		if d.own[name] = d.environ[name]; d.own[name] != "" {
			d.log.Info("using " + name + " of the environment")
		}
	}
	host, err := d.takeListen()
	if err != nil {
		return err
	}
	if err := d.choosePorts(); err != nil {
		return err
	}
	secret, err := local.EnvFile(d.envFile()).Secret()
	if err != nil {
		return err
	}
	keys := cmp.Or(d.environ["FANFARE_API_KEYS"], "dev-key")
	first, _, _ := strings.Cut(keys, ",")
	links := LinkSettings{Listen: net.JoinHostPort(host, d.ports.server.String())}
	maps.Copy(d.own, map[string]string{
		"FANFARE_LISTEN":             links.Listen,
		"FANFARE_PUBLIC_URL":         cmp.Or(d.environ["FANFARE_PUBLIC_URL"], links.publicURL()),
		"FANFARE_API_URL":            links.publicURL(),
		"FANFARE_API_KEYS":           keys,
		"FANFARE_API_KEY":            strings.TrimSpace(first),
		"FANFARE_SECRET":             cmp.Or(d.environ["FANFARE_SECRET"], secret),
		"FANFARE_TEMPORAL_NAMESPACE": cmp.Or(d.environ["FANFARE_TEMPORAL_NAMESPACE"], "fanfare"),
	})
	if d.demo > 0 {
		d.own["FANFARE_DOUBT_DEADLINE"] = cmp.Or(d.environ["FANFARE_DOUBT_DEADLINE"], demoDoubtDeadline)
	}
	if err := d.useSandbox(); err != nil {
		return err
	}
	return d.checkSettings()
}

func (d *dev) envFile() string { return filepath.Join(d.dataDir, "env") }

// ignoreOthers takes away what a demo must not touch, and says so.
func (d *dev) ignoreOthers() {
	environ := maps.Clone(d.environ)
	var ignored []string
	for _, name := range demoIgnores() {
		if environ[name] != "" {
			ignored = append(ignored, name)
			delete(environ, name)
		}
	}
	d.environ = environ
	if len(ignored) > 0 {
		d.log.Info("the demo ignores these settings of the environment", "names", strings.Join(ignored, ", "))
	}
}

// takeListen makes FANFARE_LISTEN a port asked for, unless --port says otherwise,
// and returns the host to listen on.
func (d *dev) takeListen() (host string, err error) {
	listen := d.environ["FANFARE_LISTEN"]
	if listen == "" || d.ports.server.asked {
		return "127.0.0.1", nil
	}
	host, text, err := net.SplitHostPort(listen)
	number, numberErr := strconv.Atoi(text)
	if errors.Join(err, numberErr) != nil {
		return "", &settingsError{[]fanfare.Violation{{Field: "FANFARE_LISTEN", Detail: "must be host:port, such as 127.0.0.1:8080"}}}
	}
	d.ports.server.port, d.ports.server.asked, d.ports.server.name = number, true, "FANFARE_LISTEN"
	return host, nil
}

// choosePorts settles the ports of what is started here. What is run apart gets the
// port it was given.
func (d *dev) choosePorts() error {
	var needed []*port
	need := func(here bool, ports ...*port) {
		if here {
			needed = append(needed, ports...)
		}
	}
	need(!d.noServer, &d.ports.server)
	need(d.own["FANFARE_TEMPORAL_ADDRESS"] == "", &d.ports.temporal, &d.ports.temporalUI)
	need(d.own["FANFARE_DATABASE_URL"] == "", &d.ports.postgres)
	need(!d.noSandbox, &d.ports.sandbox)
	return choose(d.log, needed...)
}

// useSandbox sends what the environment has no credentials for to the sandbox, and has
// it report to the server.
func (d *dev) useSandbox() error {
	if !d.isReal("SMS goes", "TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "TWILIO_2_ACCOUNT_SID", "TWILIO_2_AUTH_TOKEN") {
		d.useSandboxForSMS()
	}
	if !d.isReal("push goes", "FCM_PROJECT_ID") {
		d.useSandboxForPush()
	}
	if d.isReal("email goes", "SENDGRID_API_KEY", "SENDGRID_2_API_KEY", "SMTP_URL") {
		return nil
	}
	return d.useSandboxForEmail()
}

// isReal says whether one of these settings is there. One is enough: to fail over from
// the sandbox to a real account would be a surprise.
func (d *dev) isReal(what string, settings ...string) bool {
	for _, setting := range settings {
		if d.environ[setting] != "" {
			d.log.Warn(what+" out through the provider of the environment, for real", "setting", setting)
			return true
		}
	}
	return false
}

func (d *dev) useSandboxForSMS() {
	d.own["TWILIO_ACCOUNT_SID"] = sandboxAccount
	// What is signed with it before a restart is still verified after it.
	mac := hmac.New(sha256.New, []byte(d.own["FANFARE_SECRET"]))
	_, _ = mac.Write([]byte("TWILIO_AUTH_TOKEN"))
	d.own["TWILIO_AUTH_TOKEN"] = hex.EncodeToString(mac.Sum(nil))[:32]
	d.own["TWILIO_FROM"] = cmp.Or(d.environ["TWILIO_FROM"], "+15005550006")
	d.own["TWILIO_BASE_URL"] = cmp.Or(d.environ["TWILIO_BASE_URL"], "http://"+d.ports.sandbox.address())
}

// useSandboxForPush takes Google's credentials away: nobody signs in to a sandbox.
func (d *dev) useSandboxForPush() {
	d.own["FCM_PROJECT_ID"] = "fanfare-sandbox"
	d.own["FCM_BASE_URL"] = cmp.Or(d.environ["FCM_BASE_URL"], "http://"+d.ports.sandbox.address())
	d.own["GOOGLE_APPLICATION_CREDENTIALS"] = ""
}

func (d *dev) useSandboxForEmail() error {
	d.own["SENDGRID_API_KEY"] = "sandbox"
	d.own["SENDGRID_BASE_URL"] = cmp.Or(d.environ["SENDGRID_BASE_URL"], "http://"+d.ports.sandbox.address())
	d.own["SENDGRID_FROM"] = cmp.Or(d.environ["SENDGRID_FROM"], "Fanfare <news@fanfare.example>")
	if d.environ["SENDGRID_BASE_URL"] != "" && d.environ["SENDGRID_WEBHOOK_PUBLIC_KEY"] != "" {
		return nil // somebody else's stand-in, which signs with a key of its own
	}
	key, err := webhookKey(d.webhookKeyFile())
	if err != nil {
		return err
	}
	d.own["SENDGRID_WEBHOOK_PUBLIC_KEY"] = sandbox.WebhookPublicKey(key)
	return nil
}

// webhookKeyFile holds the private half of SENDGRID_WEBHOOK_PUBLIC_KEY.
func (d *dev) webhookKeyFile() string { return filepath.Join(d.dataDir, "sandbox-webhook.pem") }

// sandboxArgs start the sandbox. It posts only what the server can verify.
func (d *dev) sandboxArgs() []string {
	args := []string{"sandbox", "--port", d.ports.sandbox.String()}
	if d.own["TWILIO_AUTH_TOKEN"] != "" {
		// Signed is the address that the server is known by, as at Twilio.
		args = append(args, "--inbound-url", strings.TrimRight(d.own["FANFARE_PUBLIC_URL"], "/")+"/webhooks/twilio")
	}
	if d.own["SENDGRID_WEBHOOK_PUBLIC_KEY"] == "" {
		return args
	}
	return append(args, "--webhook-url", d.own["FANFARE_API_URL"]+"/webhooks/sendgrid", "--webhook-key", d.webhookKeyFile())
}

// checkSettings reports everything wrong with the settings of server and worker,
// before one of them is started.
func (d *dev) checkSettings() error {
	environ := map[string]string{"FANFARE_DATABASE_URL": "postgres://own"} // stands for the own one
	for _, pair := range d.own.environ(d.environ) {
		name, value, _ := strings.Cut(pair, "=")
		environ[name] = value
	}
	_, serverErr := load[serverSettings](environ)
	_, workerErr := load[workerSettings](environ)
	var all settingsError
	for _, err := range []error{serverErr, workerErr} {
		var bad *settingsError
		if err != nil && !errors.As(err, &bad) {
			return err
		}
		if bad != nil {
			all.problems = append(all.problems, bad.problems...)
		}
	}
	if len(all.problems) == 0 {
		return nil
	}
	slices.SortFunc(all.problems, func(a, b fanfare.Violation) int {
		return cmp.Or(cmp.Compare(a.Field, b.Field), cmp.Compare(a.Detail, b.Detail))
	})
	all.problems = slices.Compact(all.problems)
	return &all
}

// writeEnv leaves the settings for the other commands. Credentials of the
// environment are not among them.
func (d *dev) writeEnv() error { return local.EnvFile(d.envFile()).Write(d.own.given()) }

func (o overrides) given() map[string]string {
	given := map[string]string{}
	for name, value := range o {
		if value != "" {
			given[name] = value
		}
	}
	return given
}

package main

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/local"
	"github.com/fanfare-dev/fanfare/sandbox"
	"github.com/fanfare-dev/fanfare/server/api"
	"github.com/fanfare-dev/fanfare/worker"
)

// startDev starts dev on free ports. It has ended when the test has.
func startDev(t *testing.T, environ map[string]string, args ...string) (dev *running, stop func() result) {
	t.Helper()
	args = append([]string{
		"dev", "--port", "0", "--temporal-port", "0", "--temporal-ui-port", "0", "--postgres-port", "0", "--sandbox-port", "0",
	}, args...)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	dev = start(ctx, environ, "", args...)
	stop = sync.OnceValue(func() result {
		cancel()
		return dev.wait()
	})
	t.Cleanup(func() { stop() })
	return dev, stop
}

// dataDir is a folder that PostgreSQL's own user may pass through.
func dataDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "fanfare-dev-") //nolint:usetesting // t.TempDir lies in a folder that only we may enter
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o755))
	return dir
}

// devEnviron is an environment in which dev's children are this binary.
func devEnviron() map[string]string {
	return map[string]string{asCommand: "1", "PATH": os.Getenv("PATH"), "HOME": os.Getenv("HOME")}
}

func (r *running) prints(t *testing.T, expression string) string {
	t.Helper()
	var found []string
	re := regexp.MustCompile(expression)
	require.Eventually(t, func() bool {
		found = re.FindStringSubmatch(r.out.String())
		return found != nil || len(r.code) > 0
	}, 2*patience, 10*time.Millisecond, "it never prints %s", expression)
	require.NotNil(t, found, "it ended without %s:\n%s%s", expression, r.out.String(), r.err.String())
	return found[len(found)-1]
}

func pidOf(t *testing.T, text string) int {
	t.Helper()
	pid, err := strconv.Atoi(text)
	require.NoError(t, err)
	return pid
}

func TestDemoSurvivesTheDeathOfItsWorker(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	environ := devEnviron()
	// A demo must not write into what these name.
	environ["FANFARE_DATABASE_URL"], environ["FANFARE_TEMPORAL_ADDRESS"] = "postgres://real.example/books", "real.example:7233"
	environ["SENDGRID_API_KEY"], environ["TWILIO_AUTH_TOKEN"], environ["FCM_PROJECT_ID"] = "real", "real", "real"
	dev, stop := startDev(t, environ, "--data-dir", dir, "--demo", "8")
	dev.says(t, "the demo ignores these settings of the environment .*FANFARE_DATABASE_URL, FANFARE_TEMPORAL_ADDRESS, SENDGRID_API_KEY, TWILIO_AUTH_TOKEN, FCM_PROJECT_ID")
	first := pidOf(t, dev.prints(t, `Fanfare is ready(?s:.*)worker (\d+)`))
	dev.says(t, "Publishing .* to 8 subscribers")
	given, err := local.EnvFile(filepath.Join(dir, "env")).Read()
	require.NoError(t, err)
	require.Eventually(t, func() bool { return sandboxStats(t, given).Messages > 0 }, patience, 10*time.Millisecond)
	require.NoError(t, syscall.Kill(first, syscall.SIGKILL))
	require.NotEqual(t, first, pidOf(t, dev.says(t, `worker runs again \(pid (\d+)\)`)))
	dev.prints(t, `is completed\.(?s:.*)8 messages, 0 duplicates(?s:.*)Still serving`)

	// The other commands find what they need in the folder.
	got := command(t, nil, "", "verify", "--json", "--data-dir", dir)
	require.Equal(t, 0, got.code, got.err)
	counted := fromJSON[fanfare.Verification](t, got)
	// Calls that never reached the sandbox are sent again after a while, which
	// the ledger counts; the sandbox has seen that nobody got it twice.
	counted.Resent = 0
	require.Equal(t, fanfare.Verification{OK: true, Checked: 1, Problems: []fanfare.Problem{}}, counted)
	got = command(t, nil, "", "dev", "--data-dir", dir)
	require.Equal(t, 1, got.code)
	require.Contains(t, got.err, "is in use by process "+strconv.Itoa(os.Getpid()))

	pids := regexp.MustCompile(`(?:PostgreSQL|Temporal|server|sandbox|worker) (\d+)`).FindAllStringSubmatch(dev.out.String(), -1)
	require.Len(t, pids, 5)
	require.Equal(t, 0, stop().code, "being stopped is how dev ends")
	for _, pid := range pids {
		require.ErrorIs(t, syscall.Kill(pidOf(t, pid[1]), 0), syscall.ESRCH, pid[0])
	}

	startsWhereItStopped(t, dir, given["FANFARE_SECRET"])
}

// startsWhereItStopped starts a dev again over the folder of another, in part.
func startsWhereItStopped(t *testing.T, dir, secret string) {
	t.Helper()
	environ := devEnviron()
	environ["FANFARE_API_KEYS"] = "other-key"
	dev, stop := startDev(t, environ, "--data-dir", dir, "--no-worker", "--no-sandbox")
	dev.prints(t, "Fanfare is ready(?s:.*)Ctrl-C")
	require.NotRegexp(t, `(worker|sandbox) \d`, dev.out.String())
	given, err := local.EnvFile(filepath.Join(dir, "env")).Read()
	require.NoError(t, err)
	require.Equal(t, secret, given["FANFARE_SECRET"], "links that were sent stay good")
	require.Equal(t, "other-key", given["FANFARE_API_KEY"])
	var list api.PublicationList
	c := apiClient{base: given["FANFARE_API_URL"], key: "other-key"}
	require.NoError(t, c.send(t.Context(), http.MethodGet, "/v1/publications?topic=writer-1", nil, &list))
	require.Len(t, list.Items, 1)
	totals := list.Items[0].Totals
	require.Equal(t, int64(8), totals.Sent+totals.Delivered)
	require.Equal(t, 0, stop().code)
}

func sandboxStats(t *testing.T, given map[string]string) sandbox.Stats {
	t.Helper()
	var stats sandbox.Stats
	get(t, given["SENDGRID_BASE_URL"]+"/sandbox/stats", &stats)
	return stats
}

func TestDevRefusesWhatCannotBe(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	_, taken, _ := net.SplitHostPort(listener.Addr().String())
	for _, tt := range []struct {
		environ map[string]string
		args    []string
		want    string
	}{
		{nil, []string{"--port", taken}, "--port " + taken + ": port is taken"},
		{map[string]string{"FANFARE_LISTEN": "127.0.0.1:" + taken}, nil, "FANFARE_LISTEN " + taken + ": port is taken"},
		{nil, []string{"--port", "1234", "--sandbox-port", "1234"}, "asks for the same port"},
		{nil, []string{"--port", "70000"}, "a port is a number"},
		{nil, []string{"--demo", "0"}, "--demo 0: say how many"},
		{map[string]string{"FANFARE_LISTEN": "here"}, nil, "FANFARE_LISTEN must be host:port"},
		{map[string]string{"FANFARE_EXPIRES": "soon", "FANFARE_RETRY_FAST": "x"}, nil, "FANFARE_EXPIRES must be a duration such as 90s, 10m or 24h\n  FANFARE_RETRY_FAST must be"},
	} {
		got := command(t, tt.environ, "", append([]string{"dev", "--data-dir", dataDir(t)}, tt.args...)...)
		require.Equal(t, 2, got.code, tt.want)
		require.Contains(t, got.err, tt.want)
	}
}

func TestDevSettings(t *testing.T) {
	t.Parallel()
	prepared := func(demo int, environ map[string]string) *dev {
		d := &dev{app: &app{environ: environ, dataDir: t.TempDir()}, log: slog.New(slog.DiscardHandler), devFlags: devFlags{demo: demo}}
		require.NoError(t, d.prepare()) // all ports are 0: free ones
		return d
	}
	environ := map[string]string{"SENDGRID_API_KEY": "real", "SENDGRID_FROM": "news@blog.example", "FANFARE_DATABASE_URL": "postgres://db.example/x", "HOME": "/home/x"}

	d := prepared(0, environ)
	require.Equal(t, "postgres://db.example/x", d.own["FANFARE_DATABASE_URL"])
	require.NotContains(t, d.own.given(), "SENDGRID_API_KEY", "credentials of the environment are not left in a file")
	require.Contains(t, d.own.environ(d.environ), "SENDGRID_API_KEY=real")
	require.Zero(t, d.ports.postgres.port, "somebody else's is used")

	d = prepared(100, environ)
	require.NotZero(t, d.ports.postgres.port)
	child := strings.Join(d.own.environ(d.environ), "\n")
	require.Contains(t, child, "SENDGRID_API_KEY=sandbox")
	require.Contains(t, child, "SENDGRID_BASE_URL=http://127.0.0.1:"+d.ports.sandbox.String())
	require.Contains(t, child, "HOME=/home/x")
	require.Contains(t, child, "SENDGRID_WEBHOOK_PUBLIC_KEY=MFkw")
	require.NotContains(t, child, "db.example")
	require.NotContains(t, child, "blog.example")

	for _, account := range []map[string]string{
		{"SENDGRID_2_API_KEY": "real-key", "SENDGRID_2_FROM": "news@real.example"}, {"SMTP_URL": "smtp://relay.real.example", "SMTP_FROM": "news@real.example"},
	} {
		d = prepared(0, account)
		require.NotContains(t, d.own.given(), "SENDGRID_API_KEY", "no failing over from the sandbox to a real account")
		d = prepared(10, account)
		require.NotContains(t, strings.Join(d.own.environ(d.environ), "\n"), "real")
	}

	d = prepared(0, map[string]string{"FANFARE_LISTEN": "0.0.0.0:0", "FANFARE_API_KEYS": "a, b"})
	require.Equal(t, "0.0.0.0:"+d.ports.server.String(), d.own["FANFARE_LISTEN"])
	require.Equal(t, "http://127.0.0.1:"+d.ports.server.String(), d.own["FANFARE_API_URL"])
	require.Equal(t, "a", d.own["FANFARE_API_KEY"])
	require.Len(t, d.own["FANFARE_SECRET"], 64)
}

func TestDevHasTheSandboxReport(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	prepared := func(environ map[string]string) *dev {
		d := &dev{app: &app{environ: environ, dataDir: dir}, log: slog.New(slog.DiscardHandler)}
		require.NoError(t, d.prepare())
		return d
	}
	key := func(d *dev) string {
		all := strings.Join(d.own.environ(d.environ), "\n")
		_, value, _ := strings.Cut(all, "SENDGRID_WEBHOOK_PUBLIC_KEY=")
		value, _, _ = strings.Cut(value, "\n")
		return value
	}
	account := map[string]string{"SENDGRID_API_KEY": "real", "SENDGRID_FROM": "news@blog.example"}
	d := prepared(account)
	require.Empty(t, key(d))
	require.NotContains(t, d.sandboxArgs(), "--webhook-url")
	require.NoFileExists(t, d.webhookKeyFile())
	other := sandbox.WebhookPublicKey(sandbox.NewWebhookKey())
	account["SENDGRID_WEBHOOK_PUBLIC_KEY"] = other
	d = prepared(account)
	require.Equal(t, other, key(d))
	require.NotContains(t, d.sandboxArgs(), "--webhook-url")

	d = prepared(map[string]string{"SENDGRID_WEBHOOK_PUBLIC_KEY": other})
	kept := key(d)
	require.True(t, strings.HasPrefix(kept, "MFkw"))
	require.NotEqual(t, other, kept)
	require.Equal(t, kept, d.own.given()["SENDGRID_WEBHOOK_PUBLIC_KEY"], "left in the file for a server run apart")
	require.Contains(t, d.sandboxArgs(), "http://127.0.0.1:"+d.ports.server.String()+"/webhooks/sendgrid")
	require.Equal(t, kept, key(prepared(nil)), "kept from one start to the next")

	d = prepared(map[string]string{"SENDGRID_BASE_URL": "http://127.0.0.1:9", "SENDGRID_WEBHOOK_PUBLIC_KEY": other})
	require.Equal(t, other, key(d), "somebody else's sandbox")
	require.NotContains(t, d.sandboxArgs(), "--webhook-url")
}

func TestDevHasTheSandboxTextAndPush(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	prepared := func(environ map[string]string) (*dev, string) {
		d := &dev{app: &app{environ: environ, dataDir: dir}, log: slog.New(slog.DiscardHandler)}
		require.NoError(t, d.prepare())
		return d, strings.Join(d.own.environ(d.environ), "\n")
	}
	d, child := prepared(map[string]string{"FANFARE_SECRET": "s", "FANFARE_PUBLIC_URL": "https://blog.example/", "GOOGLE_APPLICATION_CREDENTIALS": "/real.json"})
	at := "http://" + d.ports.sandbox.address()
	for _, setting := range []string{"TWILIO_ACCOUNT_SID=AC", "TWILIO_FROM=+15005550006", "TWILIO_BASE_URL=" + at, "FCM_PROJECT_ID=", "FCM_BASE_URL=" + at} {
		require.Contains(t, child, setting)
	}
	require.NotContains(t, child, "real.json", "nobody signs in to a sandbox")
	require.Regexp(t, "^[A-Za-z0-9]{32}$", d.own["TWILIO_AUTH_TOKEN"], "Twilio's client takes no other letters")
	require.Equal(t, []string{"--inbound-url", "https://blog.example/webhooks/twilio"}, d.sandboxArgs()[3:5])
	again, _ := prepared(map[string]string{"FANFARE_SECRET": "s"})
	require.Equal(t, d.own["TWILIO_AUTH_TOKEN"], again.own["TWILIO_AUTH_TOKEN"], "kept from one start to the next")

	d, child = prepared(map[string]string{"TWILIO_ACCOUNT_SID": "ACreal", "TWILIO_AUTH_TOKEN": "real", "TWILIO_FROM": "+34600000000", "FCM_PROJECT_ID": "real", "GOOGLE_APPLICATION_CREDENTIALS": googleKey(t)})
	require.Contains(t, child, "TWILIO_AUTH_TOKEN=real")
	require.Contains(t, child, "FCM_PROJECT_ID=real")
	require.Contains(t, child, "google.json")
	require.NotContains(t, child, "FCM_BASE_URL")
	require.NotContains(t, child, "TWILIO_BASE_URL")
	require.NotContains(t, d.own.given(), "TWILIO_AUTH_TOKEN", "credentials of the environment are not left in a file")
	require.NotContains(t, d.sandboxArgs(), "--inbound-url")
	require.Contains(t, child, "SENDGRID_API_KEY=sandbox", "each channel for itself")
}

func TestDefaultPortsThatAreTakenAreReplaced(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	_, text, _ := net.SplitHostPort(listener.Addr().String())
	var said buffer
	free, err := local.FreePort()
	require.NoError(t, err)
	a := &port{flag: "a", name: "--a", port: pidOf(t, text)}
	b := &port{flag: "b", name: "--b", port: free}
	c := &port{flag: "c", name: "--c", port: free, asked: true}
	require.NoError(t, choose(slog.New(speaker{&said}), a, b, c))
	require.Equal(t, free, c.port, "who asks for a port gets it")
	require.NotEqual(t, free, b.port)
	require.NotEqual(t, text, a.String())
	require.Contains(t, said.String(), "port "+text+" is taken, using "+a.String()+" instead (for --a)\n")
	require.Contains(t, said.String(), "port "+c.String()+" is asked for by --c")
}

func TestDemoOfAnySizeCanBeWatched(t *testing.T) {
	t.Parallel()
	for _, audience := range []int{1, 7, 39, 100, 1000, 10000, 123456, 1000000, 10000000} {
		p := paceFor(audience)
		// What a worker has under way at once, and how long the last of it waits.
		batch := min(p.batch, audience)
		atOnce := min(audience, demoCallsAtOnce*min(batch, 4*1000))
		require.LessOrEqual(t, float64(atOnce)/p.pace, demoLongestCall.Seconds()+1, "a call of %d must be answered within its lease", audience)
		span := float64(audience) / p.pace
		require.LessOrEqual(t, span, demoSpan.Seconds()+1)
		if audience >= demoBatches {
			require.Greater(t, span, demoSpan.Seconds()*0.9, audience)
		}
		require.LessOrEqual(t, p.batch, worker.DefaultBatchSize)
		require.GreaterOrEqual(t, p.batch, 1)
	}
}

func TestScreenKeepsTheBarBelowTheLines(t *testing.T) {
	t.Parallel()
	var out buffer
	s := &screen{out: &out}
	_, _ = s.Write([]byte("one\n"))
	_, _ = s.draw([]byte("\rbar 1"))
	_, _ = s.Write([]byte("two\n"))
	_, _ = s.draw([]byte("\rbar 2"))
	s.keepDrawing()
	_, _ = s.Write([]byte("three\n"))
	require.Equal(t, "one\n\rbar 1"+clearLine+"two\n\rbar 1\rbar 2\nthree\n", out.String())
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/local"
	"github.com/fanfare-dev/fanfare/local/localtest"
	"github.com/fanfare-dev/fanfare/sandbox"
	"github.com/fanfare-dev/fanfare/server/api"
)

// patience is how long a test waits for what must come, on a slow and busy machine.
const patience = time.Minute

// service runs a command until the test ends, and checks that it then ends well.
func service(t *testing.T, environ map[string]string, args ...string) *running {
	t.Helper()
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	r := start(ctx, environ, "", args...)
	t.Cleanup(func() {
		stop()
		got := r.wait()
		if got.code != 0 || t.Failed() {
			t.Errorf("%s ended with %d:\n%s", args[0], got.code, got.err)
		}
	})
	return r
}

// says waits until a service has logged what the expression finds, and returns its
// first group.
func (r *running) says(t *testing.T, expression string) string {
	t.Helper()
	var found []string
	re := regexp.MustCompile(expression)
	require.Eventually(t, func() bool {
		found = re.FindStringSubmatch(r.err.String())
		return found != nil
	}, patience, 10*time.Millisecond, "it never says %s", expression)
	return found[len(found)-1]
}

func get(t *testing.T, url string, into any) int {
	t.Helper()
	response, err := http.Get(url)
	require.NoError(t, err)
	defer response.Body.Close()
	require.NoError(t, json.NewDecoder(response.Body).Decode(into))
	return response.StatusCode
}

func ready(t *testing.T, url string) (int, api.Readiness) {
	t.Helper()
	var answer api.Readiness
	return get(t, url+"/readyz", &answer), answer
}

func TestTheServicesTogether(t *testing.T) {
	t.Parallel()
	environ := map[string]string{
		"FANFARE_DATABASE_URL": localtest.EmptyDatabase(t), "FANFARE_TEMPORAL_ADDRESS": localtest.Temporal(t), "FANFARE_TEMPORAL_NAMESPACE": "together",
		"FANFARE_LISTEN": "127.0.0.1:0", "FANFARE_API_KEYS": "key-0,key-1", "FANFARE_API_KEY": "key-1", "FANFARE_SECRET": "a secret of this test",
		"SENDGRID_API_KEY": "any", "SENDGRID_FROM": "news@blog.example",
	}
	server := service(t, environ, "server")
	environ["FANFARE_API_URL"] = "http://" + server.says(t, `server answers.*address=(\S+)`)
	environ["SENDGRID_BASE_URL"] = strings.TrimSuffix(service(t, environ, "sandbox", "--port", "0").says(t, `page=(\S+)`), "/")
	worker := service(t, environ, "worker", "--channels", "email", "--batch-size", "100")

	// Without tables server and worker wait, and say for what.
	server.says(t, "waiting for PostgreSQL.*fanfare migrate up")
	worker.says(t, "waiting for PostgreSQL.*fanfare migrate up")
	var alive api.Health
	require.Equal(t, http.StatusOK, get(t, environ["FANFARE_API_URL"]+"/healthz", &alive))
	status, _ := ready(t, environ["FANFARE_API_URL"])
	require.Equal(t, http.StatusServiceUnavailable, status)

	migrated := fromJSON[map[string][]string](t, command(t, environ, "", "migrate", "up", "--json"))
	require.NotEmpty(t, migrated["applied"])
	require.Contains(t, command(t, environ, "", "migrate", "up").out, "nothing to do")
	require.NotContains(t, command(t, environ, "", "migrate", "status").out, "not yet")
	server.says(t, "the server is ready")
	worker.says(t, "worker works")
	status, answer := ready(t, environ["FANFARE_API_URL"])
	require.Equal(t, http.StatusOK, status)
	require.ElementsMatch(t, []api.ReadinessPart{{Name: "postgresql", Ready: true, Required: true}, {Name: "temporal", Ready: true}}, answer.Parts)

	publishAndCount(t, environ)
}

// publishAndCount sends a publication to 250 people with the commands a person
// types, and counts at the provider.
func publishAndCount(t *testing.T, environ map[string]string) {
	t.Helper()
	var lines strings.Builder
	for i := range 250 {
		fmt.Fprintf(&lines, "{\"id\": \"reader-%d\", \"email\": \"reader-%d@mail.example\"}\n", i, i)
	}
	lines.WriteString("{\"id\": \"reader-250\"}\n{\"email\": \"nobody@mail.example\"}\n")
	report := fromJSON[fanfare.ImportReport](t, command(t, environ, lines.String(), "import", "writer-1", "-", "--format", "ndjson", "--topic-name", "Writer One", "--json"))
	require.Equal(t, int64(251), report.Created)
	require.Equal(t, 252, report.Rejected[0].Line)

	got := command(t, environ, "", "publish", "--topic", "writer-1", "--title", "Hello", "--url", "https://blog.example/1", "--watch", "--json")
	require.Equal(t, 0, got.code, got.err)
	p := fromJSON[fanfare.Publication](t, got)
	require.Equal(t, fanfare.Totals{Intended: 251, Sent: 250, Skipped: 1}, p.Totals)
	require.Equal(t, map[string]int64{"no_address": 1}, p.SkippedByReason)

	var stats sandbox.Stats
	get(t, environ["SENDGRID_BASE_URL"]+"/sandbox/stats", &stats)
	require.Equal(t, int64(250), stats.Messages)
	require.Equal(t, int64(250), stats.Distinct)

	require.Contains(t, command(t, environ, "", "status", string(p.ID)).out, "250")
	v := fromJSON[fanfare.Verification](t, command(t, environ, "", "verify", string(p.ID), "--json"))
	require.Equal(t, fanfare.Verification{OK: true, Checked: 1, Problems: []fanfare.Problem{}}, v)
	require.Contains(t, command(t, environ, "", "verify").out, "The books balance: 1 publication counted, 0 known duplicates.")
	missing := command(t, environ, "", "verify", someID)
	require.Equal(t, 1, missing.code)
	swept := command(t, environ, "", "recover", "--json")
	require.Equal(t, 0, swept.code, swept.err)
	require.JSONEq(t, `{"unfinished": 0, "started": 0}`, swept.out)
}

func TestServerAcceptsWhileTemporalIsAway(t *testing.T) {
	t.Parallel()
	environ := map[string]string{
		"FANFARE_DATABASE_URL": localtest.Database(t), "FANFARE_TEMPORAL_ADDRESS": "127.0.0.1:1", "FANFARE_LISTEN": "127.0.0.1:0",
		"FANFARE_API_KEYS": "key-1", "FANFARE_API_KEY": "key-1", "FANFARE_SECRET": "a secret of this test", "SENDGRID_API_KEY": "any",
	}
	environ["FANFARE_API_URL"] = "http://" + service(t, environ, "server", "--migrate").says(t, `server answers.*address=(\S+)`)
	got := command(t, environ, `{"id": "reader-1", "email": "reader-1@mail.example"}`, "import", "writer-1", "-", "--format", "ndjson", "--topic-name", "Writer One")
	require.Equal(t, 0, got.code, got.err)
	got = command(t, environ, "", "publish", "--topic", "writer-1", "--title", "Hello", "--url", "https://blog.example/1")
	require.Equal(t, 0, got.code, got.err)
	require.Contains(t, got.out, "is accepted: 1 delivery.")
	status, answer := ready(t, environ["FANFARE_API_URL"])
	require.Equal(t, http.StatusOK, status)
	require.ElementsMatch(t, []api.ReadinessPart{{Name: "postgresql", Ready: true, Required: true}, {Name: "temporal"}}, answer.Parts)

	got = command(t, environ, "", "publish", "--topic", "writer-1", "--title", "Hello", "--url", "https://blog.example/1", "--channels", "sms")
	require.Equal(t, 1, got.code)
	require.Contains(t, got.err, "switched off")
}

func TestNothingRunsWithoutPostgreSQL(t *testing.T) {
	t.Parallel()
	environ := with(secrets(), "FANFARE_DATABASE_URL", "postgres://fanfare:"+hidden+"@127.0.0.1:1/fanfare")
	environ["FANFARE_LISTEN"] = "127.0.0.1:0"
	for _, args := range [][]string{{"migrate", "up"}, {"migrate", "status"}, {"migrate", "down"}, {"verify"}, {"recover"}} {
		got := command(t, environ, "", args...)
		require.Equal(t, 1, got.code, args)
		require.Contains(t, got.err, "PostgreSQL at FANFARE_DATABASE_URL cannot be reached", args)
		require.NotContains(t, got.err, hidden)
	}
	for _, args := range [][]string{{"worker"}, {"server"}, {"server", "--migrate"}} {
		r := service(t, environ, args...)
		r.says(t, "waiting for PostgreSQL.*connection refused")
		require.NotContains(t, r.err.String(), hidden)
	}
}

func TestProgramsThatListenSayWhenThePortIsTaken(t *testing.T) {
	t.Parallel()
	page := service(t, nil, "sandbox", "--port", "0").says(t, `page=http://127.0.0.1:(\d+)/`)
	got := command(t, nil, "", "sandbox", "--port", page)
	require.Equal(t, 1, got.code)
	require.Contains(t, got.err, "choose another --port")
	got = command(t, with(secrets(), "FANFARE_LISTEN", "127.0.0.1:"+page), "", "server")
	require.Equal(t, 1, got.code)
	require.Contains(t, got.err, "FANFARE_LISTEN")
}

func TestManyWakesBecomeFew(t *testing.T) {
	t.Parallel()
	var told atomic.Int64
	release := make(chan struct{})
	w := newWaker(func(ctx context.Context) error {
		told.Add(1)
		select {
		case <-release:
		case <-ctx.Done():
		}
		return errors.New("nobody listens")
	}, (&app{err: &buffer{}}).logger())
	ctx, stop := context.WithCancel(t.Context())
	var run errgroup.Group
	run.Go(func() error { w.run(ctx); return nil })
	w.wake()
	require.Eventually(t, func() bool { return told.Load() == 1 }, patience, time.Millisecond)
	for range 1000 {
		w.wake()
	}
	close(release)
	require.Eventually(t, func() bool { return told.Load() == 2 }, patience, time.Millisecond, "what was ordered meanwhile is told of too")
	require.Never(t, func() bool { return told.Load() > 2 }, 50*time.Millisecond, 10*time.Millisecond)
	stop()
	require.NoError(t, run.Wait())
}

func TestProvidersAreCalledThroughTheGate(t *testing.T) {
	t.Parallel()
	transport := providerTransport()
	require.GreaterOrEqual(t, transport.MaxIdleConnsPerHost, 64)
	require.Zero(t, transport.ResponseHeaderTimeout, "the lease ends a call")
	require.NotNil(t, transport.Proxy)
	client := gated(transport)
	require.Zero(t, client.Timeout, "the lease ends a call")
	require.Equal(t, fanfare.GatedTransport{Base: transport}, client.Transport)
}

// Eight batches with 64 calls each are under way on a channel with one message to a
// call; to open a connection for each would use up a machine's ports.
func TestConnectionsToAProviderAreKeptForAllCalls(t *testing.T) {
	t.Parallel()
	const calls = 8 * 64
	var opened atomic.Int64
	arrived, answer := make(chan struct{}), make(chan struct{})
	provider := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		arrived <- struct{}{}
		<-answer
	}))
	provider.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened.Add(1)
		}
	}
	provider.Start()
	t.Cleanup(provider.Close)
	transport := providerTransport()
	t.Cleanup(transport.CloseIdleConnections)
	client := gated(transport)
	for range 3 {
		var group errgroup.Group
		for range calls {
			group.Go(func() error {
				response, err := client.Post(provider.URL, "", nil)
				if err != nil {
					return err
				}
				return response.Body.Close()
			})
		}
		for range calls { // all of them at once
			<-arrived
		}
		for range calls {
			answer <- struct{}{}
		}
		require.NoError(t, group.Wait())
	}
	require.EqualValues(t, calls, opened.Load())
}

// TestSMSFromEndToEnd sends to telephones that end as their numbers say. Twilio's
// reports go to the address that FANFARE_PUBLIC_URL says, and are signed over it.
func TestSMSFromEndToEnd(t *testing.T) {
	t.Parallel()
	port, err := local.FreePort()
	require.NoError(t, err)
	listen := fmt.Sprintf("127.0.0.1:%d", port)
	environ := map[string]string{
		"FANFARE_DATABASE_URL": localtest.Database(t), "FANFARE_TEMPORAL_ADDRESS": localtest.Temporal(t), "FANFARE_TEMPORAL_NAMESPACE": "sms",
		"FANFARE_LISTEN": listen, "FANFARE_API_URL": "http://" + listen, "FANFARE_API_KEYS": "key-1", "FANFARE_API_KEY": "key-1", "FANFARE_SECRET": "a secret of this test",
		"TWILIO_ACCOUNT_SID": "AC1", "TWILIO_AUTH_TOKEN": "token1", "TWILIO_FROM": "+34911234567",
	}
	service(t, environ, "server", "--migrate").says(t, "the server is ready")
	environ["TWILIO_BASE_URL"] = strings.TrimSuffix(service(t, environ, "sandbox", "--port", "0").says(t, `page=(\S+)`), "/")
	service(t, environ, "worker", "--channels", "sms").says(t, "worker works")

	const people = `{"id": "ada", "phone": "+34612345678"}
{"id": "gone", "phone": "+34712340005"}
{"id": "stopped", "phone": "+34712341610"}
{"id": "off", "phone": "+34712340003"}
{"id": "nobody", "email": "nobody@mail.example"}
`
	fromJSON[fanfare.ImportReport](t, command(t, environ, people, "import", "writer-1", "-", "--format", "ndjson", "--topic-name", "Writer One", "--json"))
	got := command(t, environ, "", "publish", "--topic", "writer-1", "--title", "Hello", "--url", "https://blog.example/1", "--channels", "sms", "--watch", "--json")
	id := string(fromJSON[fanfare.Publication](t, got).ID)
	var p fanfare.Publication
	require.Eventually(t, func() bool {
		p = fromJSON[fanfare.Publication](t, command(t, environ, "", "status", id, "--json"))
		return p.Totals == fanfare.Totals{Intended: 5, Delivered: 1, Failed: 3, Skipped: 1}
	}, patience, 50*time.Millisecond, "%+v", &p)
	require.Equal(t, map[string]int64{"twilio:21610": 1, "twilio:30003": 1, "twilio:30005": 1}, p.FailedByCode)
	require.Equal(t, 0, command(t, environ, "", "verify", id).code)

	// Who has stopped, and whose number is gone, are not called again. Nor is Ada, until
	// she takes back what she says now.
	skipped := func(title string, want map[string]int64) {
		t.Helper()
		got := command(t, environ, "", "publish", "--topic", "writer-1", "--title", title, "--url", "https://blog.example/2", "--channels", "sms", "--watch", "--json")
		require.Equal(t, want, fromJSON[fanfare.Publication](t, got).SkippedByReason)
	}
	require.Equal(t, http.StatusNoContent, answerSMS(t, environ, "Stop"))
	require.Equal(t, http.StatusUnauthorized, answerSMS(t, with(maps.Clone(environ), "TWILIO_AUTH_TOKEN", "token2"), "START"))
	skipped("Again", map[string]int64{"no_address": 1, "suppressed": 3})
	require.Equal(t, http.StatusNoContent, answerSMS(t, environ, "START"))
	skipped("And again", map[string]int64{"no_address": 1, "suppressed": 2})
}

// TestPushFromEndToEnd sends to devices that end as their tokens say. A device that is
// gone is not asked again, and its owner's others are.
func TestPushFromEndToEnd(t *testing.T) {
	t.Parallel()
	environ := map[string]string{
		"FANFARE_DATABASE_URL": localtest.Database(t), "FANFARE_TEMPORAL_ADDRESS": localtest.Temporal(t), "FANFARE_TEMPORAL_NAMESPACE": "push",
		"FANFARE_LISTEN": "127.0.0.1:0", "FANFARE_API_KEYS": "key-1", "FANFARE_API_KEY": "key-1", "FANFARE_SECRET": "a secret of this test",
		"FCM_PROJECT_ID": "slow-coast",
	}
	environ["FCM_BASE_URL"] = strings.TrimSuffix(service(t, environ, "sandbox", "--port", "0").says(t, `page=(\S+)`), "/")
	server := service(t, environ, "server", "--migrate")
	environ["FANFARE_API_URL"] = "http://" + server.says(t, `server answers.*address=(\S+)`)
	server.says(t, "the server is ready")
	service(t, environ, "worker", "--channels", "push").says(t, "worker works")

	const people = `{"id": "ada", "devices": [{"token": "dead+1", "platform": "android"}, {"token": "ada-phone", "platform": "ios"}, {"token": "ada-browser", "platform": "web"}]}
{"id": "gone", "devices": [{"token": "dead+2", "platform": "android"}]}
{"id": "stranger", "devices": [{"token": "mismatch+1", "platform": "android"}]}
{"id": "nobody", "email": "nobody@mail.example"}
`
	fromJSON[fanfare.ImportReport](t, command(t, environ, people, "import", "writer-1", "-", "--format", "ndjson", "--topic-name", "Writer One", "--json"))
	publish := func(title string) fanfare.Publication {
		t.Helper()
		got := command(t, environ, "", "publish", "--topic", "writer-1", "--title", title, "--url", "https://blog.example/1", "--channels", "push", "--watch", "--json")
		p := fromJSON[fanfare.Publication](t, got)
		require.Equal(t, 0, command(t, environ, "", "verify", string(p.ID)).code)
		return p
	}
	p := publish("Hello")
	require.Equal(t, fanfare.Totals{Intended: 4, Sent: 1, Failed: 2, Skipped: 1}, p.Totals)
	require.Equal(t, map[string]int64{"fcm:UNREGISTERED": 1, "fcm:SENDER_ID_MISMATCH": 1}, p.FailedByCode)
	p = publish("Again")
	require.Equal(t, fanfare.Totals{Intended: 4, Sent: 1, Failed: 1, Skipped: 2}, p.Totals, "%v", p.SkippedByReason)
}

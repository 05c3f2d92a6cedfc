// Package e2e runs the real binary against a real PostgreSQL, a real Temporal
// and the sandbox, and does to them what happens in life: kill -9, frozen
// machines, a lost Temporal database, a database that is away.
//
// It owns no production code. Every test has a database and a Temporal of its
// own and counts, at the end, at the provider and in the ledger: nothing lost,
// nothing sent twice that the ledger does not say was, books balanced.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/local"
	"github.com/fanfare-dev/fanfare/local/localtest"
	"github.com/fanfare-dev/fanfare/sandbox"
)

// patience is how long a test waits for what must come. It is no measure of
// speed: machines are shared and slow.
const patience = 4 * time.Minute

// secret signs links and tokens.
const secret = "e2e-secret-of-at-least-32-characters"

// twilioToken is that of each account at Twilio's sandboxes.
const twilioToken = "e2etokenofthirtytwocharacters000"

// twilioAccount is the id of the account that has this name in records.
func twilioAccount(name string) string { return fmt.Sprintf("AC%032d", len(name)) }

// binary is the plain binary; `make test` builds it first.
const binary = "../bin/fanfare"

func TestMain(m *testing.M) { os.Exit(localtest.Main(m)) }

// stack is everything that one test runs.
type stack struct {
	t         *testing.T
	env       []string
	database  string
	api       string
	listen    string
	batchSize int
	temporal  *local.Temporal
	where     local.TemporalConfig
	sandbox   *sandbox.Sandbox
	second    *sandbox.Sandbox // the second accounts; nil: none
	workers   []*local.Process
	server    *local.Process
	output    *output
}

// setup is what differs between tests.
type setup struct {
	workers   int
	batchSize int
	env       []string
	database  string // empty: one of its own on the tests' shared server

	temporalDown bool // Temporal is not there yet
	webhooks     bool // the sandbox reports what becomes of the mail
	second       bool // there is a second account of SendGrid, and of Twilio, at a sandbox of their own
	channels     bool // SMS and push are on too
}

// start starts everything that a test needs.
func start(t *testing.T, s setup) *stack {
	t.Helper()
	st := &stack{t: t, database: s.database, batchSize: s.batchSize, output: &output{}}
	if st.database == "" {
		st.database = localtest.Database(t)
	}
	if st.batchSize == 0 {
		st.batchSize = 2000
	}
	t.Cleanup(st.explain)
	st.listen = net.JoinHostPort("127.0.0.1", strconv.Itoa(freePort(t)))
	st.api = "http://" + st.listen
	st.startSandboxes(s)
	st.where = local.TemporalConfig{Path: localtest.CLI(), File: filepath.Join(t.TempDir(), "temporal.db"), Headless: true, Output: st.output}
	st.where.Port = freePort(t)
	temporalAddress := net.JoinHostPort("127.0.0.1", strconv.Itoa(st.where.Port))
	if !s.temporalDown {
		st.startTemporalAgain()
	}
	st.env = append(append(os.Environ(), st.env...),
		"FANFARE_DATABASE_URL="+st.database, "FANFARE_TEMPORAL_ADDRESS="+temporalAddress,
		"FANFARE_LISTEN="+st.listen, "FANFARE_PUBLIC_URL="+st.api, "FANFARE_API_URL="+st.api,
		"FANFARE_API_KEYS=e2e-key", "FANFARE_API_KEY=e2e-key", "FANFARE_SECRET="+secret,
		"FANFARE_RETRY_FAST=200ms,500ms,1s", "FANFARE_DOUBT_DEADLINE=5s",
	)
	st.env = append(st.env, s.env...)
	st.startServer()
	for range s.workers {
		st.workers = append(st.workers, st.startWorker(st.batchSize))
	}
	return st
}

func freePort(t *testing.T) int {
	t.Helper()
	port, err := local.FreePort()
	require.NoError(t, err)
	return port
}

// startSandboxes serves the sandboxes in this process, so that tests see what they got.
func (st *stack) startSandboxes(s setup) {
	st.t.Helper()
	first, second := []string{"sendgrid"}, []string{"sendgrid-2"}
	if s.channels {
		first, second = append(first, "twilio", "fcm"), append(second, "twilio-2")
	}
	st.sandbox, _ = st.startSandbox(s.webhooks, first...)
	if s.second {
		st.second, _ = st.startSandbox(s.webhooks, second...)
	}
}

// startSandbox serves one and sets these accounts, one of a provider at most, to it.
func (st *stack) startSandbox(webhooks bool, accounts ...string) (one *sandbox.Sandbox, address string) {
	st.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(st.t, err)
	address = "http://" + listener.Addr().String()
	var config sandbox.Config
	for _, name := range accounts {
		prefix, hook := settingsOf(name), st.api+"/webhooks/"+name
		st.env = append(st.env, prefix+"BASE_URL="+address)
		switch strings.TrimSuffix(name, "-2") {
		case "sendgrid":
			st.env = append(st.env, prefix+"API_KEY=SG.e2e", prefix+"FROM=Fanfare <news@fanfare.example>")
			if webhooks {
				config.Webhook = sandbox.Webhook{URL: hook, Key: sandbox.NewWebhookKey()}
				st.env = append(st.env, prefix+"WEBHOOK_PUBLIC_KEY="+sandbox.WebhookPublicKey(config.Webhook.Key))
			}
		case "twilio":
			config.Twilio = sandbox.Twilio{AccountSID: twilioAccount(name), AuthToken: twilioToken, InboundURL: hook}
			st.env = append(st.env, prefix+"ACCOUNT_SID="+config.Twilio.AccountSID, prefix+"AUTH_TOKEN="+twilioToken, prefix+"FROM=+15005550006")
		case "fcm":
			st.env = append(st.env, prefix+"PROJECT_ID=fanfare-e2e")
		}
	}
	one = sandbox.New(config)
	ctx, cancel := context.WithCancel(context.WithoutCancel(st.t.Context()))
	go func() { _ = one.Serve(ctx, listener) }()
	st.t.Cleanup(cancel)
	return one, address
}

// settingsOf is how the settings of an account begin.
func settingsOf(name string) string {
	return strings.ToUpper(strings.ReplaceAll(name, "-", "_")) + "_"
}

func (st *stack) faults(f sandbox.Faults) {
	st.t.Helper()
	require.NoError(st.t, st.sandbox.SetFaults(f))
}

func (st *stack) startServer() {
	st.t.Helper()
	st.server = st.run("server", "server")
}

func (st *stack) startWorker(batchSize int) *local.Process {
	st.t.Helper()
	return st.run("worker", "worker", "--batch-size", strconv.Itoa(batchSize))
}

// run starts the binary, and again whenever it dies; it ends with the test.
func (st *stack) run(name string, args ...string) *local.Process {
	st.t.Helper()
	p, err := local.StartProcess(local.Command{Name: name, Path: binary, Args: args, Env: st.env, Output: st.output, Restart: true, Grace: time.Millisecond})
	require.NoError(st.t, err)
	st.t.Cleanup(func() { _ = p.Stop(context.Background()) }) // whatever state the test left it in
	return p
}

// kill ends a process as a crash would. It is started again, as a supervisor
// would, and kill returns when it is.
func (st *stack) kill(p *local.Process) {
	st.t.Helper()
	lives := p.Lives()
	require.NoError(st.t, p.Kill())
	require.Eventually(st.t, func() bool { return p.Lives() > lives && p.PID() != 0 }, patience, tick)
}

func (st *stack) stopTemporal() {
	st.t.Helper()
	require.NoError(st.t, st.temporal.Kill())
	<-st.temporal.Done()
}

// startTemporalAgain starts Temporal where it was before.
func (st *stack) startTemporalAgain() {
	st.t.Helper()
	server, err := local.StartTemporal(st.t.Context(), st.where)
	require.NoError(st.t, err)
	st.temporal = server
	st.t.Cleanup(func() {
		_ = server.Kill() // it keeps nothing that matters
		<-server.Done()
	})
}

// loseTemporal kills Temporal, deletes its database and starts an empty one.
func (st *stack) loseTemporal() {
	st.t.Helper()
	st.stopTemporal()
	files, err := filepath.Glob(st.where.File + "*")
	require.NoError(st.t, err)
	require.NotEmpty(st.t, files)
	for _, file := range files {
		require.NoError(st.t, os.Remove(file))
	}
	st.startTemporalAgain()
}

// fanfare runs a command to its end and returns its exit code and what it printed.
func (st *stack) fanfare(args ...string) (code int, out []byte) {
	st.t.Helper()
	cmd := exec.CommandContext(st.t.Context(), binary, args...)
	cmd.Env = st.env
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); err != nil {
		require.ErrorAs(st.t, err, &exit)
		st.t.Logf("fanfare %s: exit %d: %s", strings.Join(args, " "), exit.ExitCode(), complaints.String())
		return exit.ExitCode(), out
	}
	return 0, out
}

// verify runs `fanfare verify` and returns its answer.
func (st *stack) verify() fanfare.Verification {
	st.t.Helper()
	code, out := st.fanfare("verify", "--json")
	var v fanfare.Verification
	require.NoError(st.t, json.Unmarshal(out, &v), "%s", out)
	require.Equal(st.t, v.OK, code == 0)
	require.Empty(st.t, v.Problems)
	return v
}

// count asks the ledger's tables directly, for what no command tells.
func (st *stack) count(sql string, args ...any) (n int64) {
	st.t.Helper()
	conn, err := pgx.Connect(st.t.Context(), st.database)
	require.NoError(st.t, err)
	defer conn.Close(context.WithoutCancel(st.t.Context()))
	require.NoError(st.t, conn.QueryRow(st.t.Context(), sql, args...).Scan(&n))
	return n
}

// settledByEvidence counts calls that a look-up settled.
func (st *stack) settledByEvidence(id fanfare.PublicationID) int64 {
	return st.count(`SELECT count(*) FROM calls WHERE publication_id = $1 AND outcome = 'accepted' AND evidence LIKE '%Email Logs show%'`, id)
}

// ambiguous counts deliveries that were in doubt, resent those that were sent
// again by policy.
func (st *stack) ambiguous(id fanfare.PublicationID) int64 {
	return st.count(`SELECT count(*) FROM attempts WHERE publication_id = $1 AND outcome = 'ambiguous'`, id)
}

func (st *stack) resent(id fanfare.PublicationID) int64 {
	return st.count(`SELECT count(*) FROM deliveries WHERE publication_id = $1 AND resends = 1`, id)
}

// callsOf are the calls that reached the sandbox for a publication.
func (st *stack) callsOf(id fanfare.PublicationID) []sandbox.Call {
	st.t.Helper()
	conn, err := pgx.Connect(st.t.Context(), st.database)
	require.NoError(st.t, err)
	defer conn.Close(context.WithoutCancel(st.t.Context()))
	rows, err := conn.Query(st.t.Context(), `SELECT call_id::text FROM calls WHERE publication_id = $1`, id)
	require.NoError(st.t, err)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(st.t, err)
	mine := map[string]bool{}
	for _, call := range ids {
		mine[call] = true
	}
	var calls []sandbox.Call
	for _, call := range st.sandbox.Calls(0, 1<<20) {
		if mine[call.ID] {
			calls = append(calls, call)
		}
	}
	return calls
}

// output keeps what the processes printed, to explain a test that failed.
type output struct {
	mu    sync.Mutex
	lines bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.lines.Write(b)
}

func (o *output) bytes() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	return bytes.Clone(o.lines.Bytes())
}

// explain shows, when a test failed, the calls as the ledger knows them and the
// last of what the processes printed.
func (st *stack) explain() {
	if !st.t.Failed() {
		return
	}
	st.t.Logf("the sandbox: %+v", st.sandbox.Stats())
	st.explainCalls()
	const times = "15:04:05.000"
	for _, c := range st.sandbox.Calls(0, 50) {
		st.t.Logf("call %s of %d arrived %s read %s answered %s: %d %s %s", c.ID, c.Messages, c.ArrivedAt.Format(times), c.ReadAt.Format(times), c.AnsweredAt.Format(times), c.Status, c.Fault, c.Error)
	}
	st.output.mu.Lock()
	defer st.output.mu.Unlock()
	var lines []string
	for line := range strings.Lines(st.output.lines.String()) {
		if !strings.Contains(line, "msg=request") { // the tests' own questions
			lines = append(lines, line)
		}
	}
	const enough = 60
	st.t.Logf("what the processes printed last:\n%s", strings.Join(lines[max(0, len(lines)-enough):], ""))
}

func (st *stack) explainCalls() {
	conn, err := pgx.Connect(context.Background(), st.database)
	if err != nil {
		return
	}
	defer conn.Close(context.Background())
	var calls string
	err = conn.QueryRow(context.Background(), `
		SELECT string_agg(format('%s %s batch %s size %s claimed %s ended %s %s %s %s', call_id, p.key, batch, size, claimed_at::time, ended_at::time, outcome, detail, evidence), E'\n' ORDER BY claimed_at)
		FROM calls JOIN publications p USING (publication_id)`).Scan(&calls)
	if err == nil {
		st.t.Logf("the calls, the first of them:\n%s", calls[:min(len(calls), 20_000)])
	}
	var doubts string
	err = conn.QueryRow(context.Background(), `
		SELECT string_agg(line, E'\n') FROM (
		  SELECT format('%s in doubt, %s: %s', count(*), provider, last_look) AS line FROM doubts GROUP BY provider, last_look
		  UNION ALL SELECT format('%s deliveries %s %s %s, due at %s', count(*), channel, state, reason, max(due_at)::time) FROM deliveries GROUP BY channel, state, reason
		  UNION ALL SELECT format('%s in doubt by calls %s %s %s', count(*), c.outcome, c.detail, c.evidence) FROM deliveries d JOIN calls c USING (publication_id, call_id)
		    WHERE d.state = 'in_doubt' GROUP BY c.outcome, c.detail, c.evidence
		  UNION ALL SELECT format('provider %s %s %s %s', provider, state, reason, throttled_until) FROM providers) lines`).Scan(&doubts)
	if err == nil {
		st.t.Log(doubts)
	}
}

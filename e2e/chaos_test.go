package e2e

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/local"
	"github.com/fanfare-dev/fanfare/local/localtest"
	"github.com/fanfare-dev/fanfare/sandbox"
)

// shortSeed is what `make test` runs: one storm that kills every process and cuts
// accepted calls of each channel, while readers refuse and come back.
const shortSeed = 79624

var (
	chaosSeed    = flag.Uint64("chaos.seed", 0, "the seed of the chaos run; 0 is a random one, or that of the short run")
	chaosMinutes = flag.Float64("chaos.minutes", 0, "how long the chaos goes on; 0 is the short run")
)

// accounts are those that are sent through, by the names that they have in records;
// each is a sandbox of its own.
var accounts = []string{"sendgrid", "sendgrid-2", "twilio", "twilio-2", "fcm"}

// longChaos is what people run; shortChaos goes with every test run.
func longChaos(seed uint64, length time.Duration) size {
	return size{seed: seed, length: length, topics: 6, most: 2500, every: 4 * time.Second, pace: 600, batch: 200, hits: 7}
}

func shortChaos(seed uint64) size {
	return size{seed: seed, length: 20 * time.Second, topics: 3, most: 600, every: 2500 * time.Millisecond, pace: 200, batch: 150, hits: 20}
}

// TestChaos hurts everything at random for a while, heals it, waits until all
// publications have finished, and counts. See docs/testing.md.
func TestChaos(t *testing.T) {
	t.Parallel()
	s := shortChaos(shortSeed)
	if *chaosMinutes > 0 {
		s = longChaos(rand.Uint64N(1_000_000)+1, time.Duration(*chaosMinutes*float64(time.Minute)))
	}
	if *chaosSeed != 0 {
		s.seed = *chaosSeed
	}
	plan := s.plan()
	c := startChaos(t, s)
	c.sayf("chaos", "seed %d, %s, policy %s, %d workers, %d readers, %d steps", s.seed, s.length, s.policy(), s.workers(), s.most, len(plan))
	if *chaosMinutes > 0 {
		c.sayf("chaos", "the same again: make chaos SEED=%d MINUTES=%g", s.seed, *chaosMinutes)
	}
	c.subscribeAll()
	c.follow(plan)
	c.heal()
	c.drain()
	c.account()
}

// chaos is one run.
type chaos struct {
	*stack
	size      size
	postgres  *ownPostgres
	network   *network
	sandboxes map[string]*sandbox.Sandbox
	addresses map[string]string // of the sandboxes
	began     time.Time
	out       sync.Mutex

	mu    sync.Mutex
	known map[string]*article
	keys  []string // in the order in which they were accepted

	refusals    map[reader][]*refusal // in the order in which they were asked for
	refusedMail []string              // how addresses began that a provider refused for a while
	killed      map[string]int64
}

// article is a publication as its publisher knows it.
type article struct {
	id        fanfare.PublicationID
	topic     string
	channels  []fanfare.Channel
	expires   bool
	toCancel  atomic.Bool    // that was asked for, perhaps in vain
	cancelled time.Time      // when that was answered
	paused    [][2]time.Time // from the answer until resuming was asked for
}

// startChaos starts a PostgreSQL, a Temporal, two sandboxes, a server and workers,
// and lays a wire between any two that talk.
func startChaos(t *testing.T, s size) *chaos {
	t.Helper()
	c := &chaos{
		size: s, postgres: newOwnPostgres(t), network: newNetwork(t), began: time.Now(),
		known: map[string]*article{}, refusals: map[reader][]*refusal{}, killed: map[string]int64{}, addresses: map[string]string{}, sandboxes: map[string]*sandbox.Sandbox{},
	}
	st := &stack{t: t, output: &output{}, batchSize: s.batch}
	c.stack = st
	c.postgres.config.Output = st.output
	c.postgres.kill()
	c.postgres.start() // now with its words kept: they must name nobody
	st.database = c.postgres.now.URL
	st.listen = net.JoinHostPort("127.0.0.1", strconv.Itoa(freePort(t)))
	public := "http://" + c.network.wire("sandboxes/webhooks", st.listen)
	st.api = public
	for _, name := range accounts {
		c.sandboxes[name], c.addresses[name] = st.startSandbox(true, name)
	}
	st.api = "http://" + st.listen
	st.where = local.TemporalConfig{Path: localtest.CLI(), File: filepath.Join(t.TempDir(), "temporal.db"), Headless: true, Output: st.output, Port: freePort(t)}
	st.startTemporalAgain()
	st.env = append(append(os.Environ(), st.env...),
		"FANFARE_DATABASE_URL="+st.database, "FANFARE_TEMPORAL_ADDRESS="+st.temporal.Address,
		"FANFARE_LISTEN="+st.listen, "FANFARE_PUBLIC_URL="+public, "FANFARE_API_URL="+st.api,
		"FANFARE_API_KEYS=e2e-key", "FANFARE_API_KEY=e2e-key", "FANFARE_SECRET="+secret,
		"FANFARE_RETRY_FAST=200ms,500ms,1s", "FANFARE_RETRY_SLOW=2s,3s",
		"FANFARE_DOUBT_EMAIL="+s.policy(), "FANFARE_DOUBT_SMS="+s.policy(), "FANFARE_DOUBT_PUSH="+s.policy(), "FANFARE_DOUBT_DEADLINE=8s",
	)
	st.server = c.runWired("server", "server")
	for i := range s.workers() {
		st.workers = append(st.workers, c.runWired(fmt.Sprintf("worker-%d", i+1), "worker", "--batch-size", strconv.Itoa(st.batchSize)))
	}
	c.calm()
	return c
}

// runWired starts the binary behind wires of its own.
func (c *chaos) runWired(name string, args ...string) *local.Process {
	c.t.Helper()
	plain := c.env
	defer func() { c.env = plain }()
	database, err := url.Parse(c.database)
	require.NoError(c.t, err)
	database.Host = c.network.wire(name+"/postgres", database.Host)
	c.env = append(append([]string{}, plain...), // of two settings of one name the later counts
		"FANFARE_DATABASE_URL="+database.String(),
		"FANFARE_TEMPORAL_ADDRESS="+c.network.wire(name+"/temporal", c.temporal.Address))
	if name != "server" { // which calls no provider
		for _, account := range accounts {
			c.env = append(c.env, settingsOf(account)+"BASE_URL="+c.network.wireURL(name+"/"+account, c.addresses[account]))
		}
	}
	return c.run(name, args...)
}

// sayf prints a line: when, who, what.
func (c *chaos) sayf(lane, format string, args ...any) {
	c.out.Lock()
	defer c.out.Unlock()
	fmt.Fprintf(c.t.Output(), "%6.1fs %-12s %s\n", time.Since(c.began).Seconds(), lane, fmt.Sprintf(format, args...))
}

// follow does what was planned. Only what nobody waits for is late when a machine is slow.
func (c *chaos) follow(plan []step) {
	c.began = time.Now()
	lanes := map[string][]step{}
	for _, s := range plan {
		lanes[s.lane] = append(lanes[s.lane], s)
	}
	var all sync.WaitGroup
	for lane, steps := range lanes {
		all.Go(func() {
			for _, s := range steps {
				if !wait(c.t.Context(), time.Until(c.began.Add(s.at))) {
					return
				}
				c.sayf(lane, "%s", s.text)
				if what := s.do(c.t.Context(), c); what != "" {
					c.sayf(lane, "  %s", what)
				}
			}
		})
	}
	all.Wait()
}

// heal undoes whatever is still hurt, and does what an operator does after a bad day.
func (c *chaos) heal() {
	c.t.Helper()
	for _, p := range c.workers {
		_ = p.Signal(cont) // it may have died and come back
	}
	require.NoError(c.t, c.network.heal(c.t.Context()))
	c.calm()
	for name := range c.sandboxes {
		c.sayf("operator", "close %s: %s", name, c.turn(c.t.Context(), name, "close", false))
	}
	code, out := c.fanfare("recover")
	require.Zero(c.t, code, "%s", out)
	c.sayf("operator", "recover: %s", strings.TrimSpace(string(out)))
}

// calm is the weather between storms: sandboxes that behave, and are not so fast
// that nothing is ever under way.
func (c *chaos) calm() {
	for _, each := range c.sandboxes {
		require.NoError(c.t, each.SetFaults(sandbox.Faults{Pace: c.size.pace}))
	}
}

// drain waits until everything has come to its end: publications, replays, events.
// It gives up when nothing at all has changed for patience.
func (c *chaos) drain() {
	c.t.Helper()
	var left, before string
	said := time.Now()
	changed := time.Now()
	for {
		left = c.unfinished()
		if left == "" {
			c.sayf("chaos", "everything has finished")
			return
		}
		if left != before {
			before, changed = left, time.Now()
		}
		if time.Since(said) > 10*time.Second {
			c.sayf("chaos", "waiting: %s", left)
			said = time.Now()
		}
		if time.Since(changed) > patience {
			c.saveOutput()
			b := c.open()
			for _, stuck := range b.unfinished() {
				c.sayf("", "%s", b.tell(stuck))
			}
			require.Fail(c.t, "something does not finish, and nothing has changed for "+patience.String(), left)
		}
		wait(c.t.Context(), 250*time.Millisecond)
	}
}

// unfinished says what has still to happen; empty when nothing has.
func (c *chaos) unfinished() string {
	c.t.Helper()
	var left []string
	for _, ask := range []struct{ what, sql string }{
		{"publications not finished", `SELECT count(*) FROM publications WHERE finished_at IS NULL`},
		{"recipients pending, sending or in doubt", `SELECT COALESCE(sum(intended - sent - delivered - failed - skipped - dead), 0)::bigint FROM batches JOIN publications USING (publication_id) WHERE finished_at IS NULL`},
		{"replays running", `SELECT count(*) FROM replays WHERE state = 'running'`},
		{"events to apply", `SELECT count(*) FROM event_inbox`},
		{"orders to Temporal", `SELECT count(*) FROM outbox`},
	} {
		if n := c.count(ask.sql); n > 0 {
			left = append(left, fmt.Sprintf("%d %s", n, ask.what))
		}
	}
	query(c, func(p struct{ Key, State string }) { left = append(left, p.Key+" is "+p.State) },
		`SELECT key, state::text FROM publications WHERE finished_at IS NULL ORDER BY 1 LIMIT 3`)
	for name, one := range c.sandboxes {
		if waiting := one.Stats().Webhooks.Waiting; waiting > 0 {
			left = append(left, fmt.Sprintf("%d events at %s", waiting, name))
		}
	}
	return strings.Join(left, ", ")
}

// saveOutput keeps what all processes printed, for whoever has to find out.
func (c *chaos) saveOutput() {
	path := filepath.Join(os.TempDir(), fmt.Sprintf("fanfare-chaos-%d.log", c.size.seed))
	if err := os.WriteFile(path, c.output.bytes(), 0o600); err == nil {
		c.sayf("chaos", "what the processes printed is in %s", path)
	}
}

// subscribeAll imports the readers of each topic: the first few of all readers.
func (c *chaos) subscribeAll() {
	c.t.Helper()
	for i, n := range c.size.topicSizes() {
		var lines strings.Builder
		for r := range n {
			fmt.Fprintln(&lines, reader(r).line())
		}
		topic := topicName(i)
		require.Empty(c.t, c.asks(c.t.Context(), "PUT", "/v1/topics/"+topic, map[string]string{"name": topic}, nil))
		status, answer, err := c.ask(c.t.Context(), "e2e-key", "POST", "/v1/topics/"+topic+"/subscribers/import", "application/x-ndjson", []byte(lines.String()))
		require.NoError(c.t, err)
		require.Equal(c.t, 200, status, "%s", answer)
		var report fanfare.ImportReport
		require.NoError(c.t, json.Unmarshal(answer, &report))
		require.Zero(c.t, report.RejectedCount, "%s", answer)
	}
	c.sayf("chaos", "topics of %v readers", c.size.topicSizes())
}

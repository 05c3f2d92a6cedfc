package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/local"
	"github.com/fanfare-dev/fanfare/local/localtest"
	"github.com/fanfare-dev/fanfare/sandbox"
)

const (
	cont = syscall.SIGCONT
	// askFor is how long a client waits for one answer; a server that lost its
	// database in mid-question may take long.
	askFor = 20 * time.Second
)

// ask makes a request until it is answered with something else than "later", as a
// client does.
func (c *chaos) ask(ctx context.Context, bearer, method, path, contentType string, body []byte) (int, []byte, error) {
	for {
		status, answer, err := c.askOnce(ctx, bearer, method, path, contentType, body)
		if err == nil && status < http.StatusInternalServerError {
			return status, answer, nil
		}
		if status == http.StatusInternalServerError {
			c.sayf("client", "%s %s: 500 %s", method, path, answer)
		}
		if !wait(ctx, 200*time.Millisecond) {
			return status, answer, fmt.Errorf("%s %s: %w", method, path, ctx.Err())
		}
	}
}

func (c *chaos) askOnce(ctx context.Context, bearer, method, path, contentType string, body []byte) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, c.api+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Authorization", "Bearer "+bearer)
	request.Header.Set("Content-Type", contentType)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	return response.StatusCode, answer, err
}

// asks is ask with JSON both ways; what is not 2xx comes back as words.
func (c *chaos) asks(ctx context.Context, method, path string, body, answer any) string {
	return c.asksAs(ctx, "e2e-key", method, path, body, answer)
}

// asksAs does so with a key or a token.
func (c *chaos) asksAs(ctx context.Context, bearer, method, path string, body, answer any) string {
	var sent []byte
	if body != nil {
		sent, _ = json.Marshal(body) // maps of texts always marshal
	}
	status, got, err := c.ask(ctx, bearer, method, path, "application/json", sent)
	switch {
	case err != nil:
		return err.Error()
	case status >= http.StatusMultipleChoices:
		var problem struct{ Code, Detail string }
		_ = json.Unmarshal(got, &problem) // where it is none, the status says enough
		return fmt.Sprintf("%d %s: %s", status, problem.Code, problem.Detail)
	case answer != nil:
		if err := json.Unmarshal(got, answer); err != nil {
			return err.Error()
		}
	}
	return ""
}

// backlog is how many publications may be unfinished before no more are published. A
// slow machine then does fewer of the plan, and does not need hours to finish them.
const backlog = 20

func (c *chaos) publish(ctx context.Context, key string, a *article, starts, expires time.Duration) string {
	if n := c.behind(ctx); n >= backlog {
		return fmt.Sprintf("left out: %d are not finished yet", n)
	}
	body := map[string]any{"key": key, "topic": a.topic, "content": content(key), "channels": a.channels}
	if starts > 0 {
		body["scheduled_at"] = time.Now().Add(starts).UTC().Format(time.RFC3339Nano)
	}
	if expires > 0 {
		body["expires_at"] = time.Now().Add(expires).UTC().Format(time.RFC3339Nano)
	}
	var p struct {
		ID       fanfare.PublicationID `json:"id"`
		Intended int64                 `json:"intended"`
	}
	if refused := c.asks(ctx, http.MethodPost, "/v1/publications", body, &p); refused != "" {
		return "refused: " + refused // its time has passed while nobody answered
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	a.id, a.expires = p.ID, expires > 0
	c.known[key] = a
	c.keys = append(c.keys, key)
	return fmt.Sprintf("accepted for %d: %s", p.Intended, p.ID)
}

// behind is how many publications are not finished; 0 while nobody can tell.
func (c *chaos) behind(ctx context.Context) (n int) {
	conn, err := pgx.Connect(ctx, c.database)
	if err != nil {
		return 0
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := conn.QueryRow(ctx, `SELECT count(*) FROM publications WHERE finished_at IS NULL`).Scan(&n); err != nil {
		return 0
	}
	return n
}

func (c *chaos) article(key string) *article {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known[key]
}

// act cancels, pauses or resumes, and notes when no call may come.
func (c *chaos) act(ctx context.Context, key, what string) string {
	a := c.article(key)
	if a == nil {
		return "there is none"
	}
	asked := time.Now()
	if what == "cancel" {
		a.toCancel.Store(true)
	}
	var p fanfare.Publication
	if refused := c.asks(ctx, http.MethodPost, "/v1/publications/"+string(a.id)+"/"+what, nil, &p); refused != "" {
		return refused
	}
	answered := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case what == "cancel":
		a.cancelled = answered
	case what == "pause":
		a.paused = append(a.paused, [2]time.Time{answered})
	case len(a.paused) > 0:
		a.paused[len(a.paused)-1][1] = asked
	}
	return fmt.Sprintf("answered after %.1fs: it is %s", answered.Sub(asked).Seconds(), p.State)
}

// inbound has a phone answer an SMS, and says whether our webhook took it.
func (c *chaos) inbound(ctx context.Context, account, from, word string) (taken bool, err error) {
	body, _ := json.Marshal(map[string]string{"from": from, "to": "+15005550006", "body": word}) // texts always marshal
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.addresses[account]+"/sandbox/inbound", bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false, err
	}
	defer response.Body.Close()
	var became struct{ Posted bool }
	err = json.NewDecoder(response.Body).Decode(&became)
	return became.Posted, err
}

func (c *chaos) replay(ctx context.Context, filter map[string]any) string {
	var r fanfare.Replay
	if refused := c.asks(ctx, http.MethodPost, "/v1/replays", map[string]any{"filter": filter}, &r); refused != "" {
		return refused
	}
	return fmt.Sprintf("replay %s takes %d up", r.ID, r.Count)
}

func (c *chaos) replayOne(ctx context.Context, nth int) string {
	c.mu.Lock()
	if len(c.keys) == 0 {
		c.mu.Unlock()
		return "nothing was published yet"
	}
	key := c.keys[nth%len(c.keys)]
	c.mu.Unlock()
	return key + ": " + c.replay(ctx, map[string]any{"publication": key})
}

// reset is `temporal workflow reset` of one failed batch, as an operator types it.
func (c *chaos) reset(ctx context.Context, point string, nth int) string {
	out, err := c.temporalTool(ctx, "workflow", "list", "--query", `WorkflowType = "Batch" AND ExecutionStatus = "Failed"`, "--limit", "50", "-o", "json")
	if err != nil {
		return "could not list failed batches: " + err.Error()
	}
	var list []struct {
		Execution struct {
			WorkflowID string `json:"workflowId"`
			RunID      string `json:"runId"`
		} `json:"execution"`
	}
	if err := json.Unmarshal(out, &list); err != nil {
		return "could not read the list of failed batches: " + err.Error()
	}
	if len(list) == 0 {
		return "no batch has failed"
	}
	one := list[nth%len(list)].Execution
	_, err = c.temporalTool(ctx, "workflow", "reset", "--workflow-id", one.WorkflowID, "--run-id", one.RunID, "--type", point, "--reason", "chaos")
	if err != nil {
		return one.WorkflowID + ": " + err.Error()
	}
	return one.WorkflowID
}

func (c *chaos) temporalTool(ctx context.Context, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	path := localtest.CLI()
	if path == "" {
		path = "temporal"
	}
	var complaints bytes.Buffer
	address := fmt.Sprintf("127.0.0.1:%d", c.where.Port)
	cmd := exec.CommandContext(ctx, path, append(args, "--address", address, "--namespace", "fanfare")...)
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		line, _, _ := strings.Cut(strings.TrimSpace(complaints.String()), "\n")
		return nil, fmt.Errorf("temporal %s %s: %w: %s", args[0], args[1], err, line)
	}
	return out, nil
}

func (c *chaos) turn(ctx context.Context, provider, how string, pin bool) string {
	var p fanfare.Provider
	if refused := c.asks(ctx, http.MethodPost, "/v1/providers/"+provider+"/"+how, map[string]any{"pin": pin}, &p); refused != "" {
		return refused
	}
	return "it is " + string(p.State)
}

func (c *chaos) openForAWhile(ctx context.Context, provider string, rest time.Duration, pin bool) string {
	opened := c.turn(ctx, provider, "open", pin)
	wait(ctx, rest)
	return fmt.Sprintf("%s; closed by hand: %s", opened, c.turn(ctx, provider, "close", false))
}

// misbehave has a provider misbehave for a while. Its breaker opens and closes by
// itself, but for what a person must see to.
func (c *chaos) misbehave(ctx context.Context, provider string, f sandbox.Faults, account bool, lasts time.Duration) string {
	f.Pace = c.size.pace
	c.mu.Lock()
	c.refusedMail = append(c.refusedMail, f.Reject...)
	c.mu.Unlock()
	one := c.sandboxes[provider]
	if err := one.SetFaults(f); err != nil {
		return err.Error()
	}
	before := one.Stats().FaultsApplied
	wait(ctx, lasts)
	hit := one.Stats().FaultsApplied - before
	if err := one.SetFaults(sandbox.Faults{Pace: c.size.pace}); err != nil {
		return err.Error()
	}
	well := fmt.Sprintf("well again after %d faults", hit)
	if account {
		well += "; closed by hand: " + c.turn(ctx, provider, "close", false)
	}
	return well
}

// tally counts what was killed.
func (c *chaos) tally(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.killed[what]++
}

func (c *chaos) kill(p *local.Process) string {
	pid := p.PID()
	if err := p.Kill(); err != nil {
		return "it is not there: " + err.Error()
	}
	c.tally("workers and servers")
	return fmt.Sprintf("killed %d, its life %d", pid, p.Lives())
}

func (c *chaos) freeze(ctx context.Context, p *local.Process, lasts time.Duration) string {
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return "it is not there: " + err.Error()
	}
	wait(ctx, lasts)
	if err := p.Signal(cont); err != nil {
		return "it has gone: " + err.Error()
	}
	return "goes on"
}

func (c *chaos) temporalAway(ctx context.Context, lasts time.Duration, lose bool) string {
	if err := c.temporal.Kill(); err != nil {
		return err.Error()
	}
	<-c.temporal.Done()
	c.tally("Temporal")
	if lose {
		files, _ := filepath.Glob(c.where.File + "*") // the pattern is ours
		for _, file := range files {
			if err := os.Remove(file); err != nil {
				return err.Error()
			}
		}
	}
	wait(ctx, lasts)
	for {
		server, err := local.StartTemporal(ctx, c.where)
		if err == nil {
			c.temporal = server
			c.t.Cleanup(func() {
				_ = server.Kill() // it keeps nothing that matters
				<-server.Done()
			})
			return "back"
		}
		c.sayf("temporal", "does not start: %v", err)
		if !wait(ctx, second) {
			return err.Error()
		}
	}
}

func (c *chaos) postgresAway(ctx context.Context, lasts time.Duration) string {
	if err := c.postgres.now.Kill(); err != nil {
		return err.Error()
	}
	<-c.postgres.now.Done()
	c.tally("PostgreSQL")
	wait(ctx, lasts)
	for {
		server, err := local.StartPostgres(ctx, c.postgres.config)
		if err == nil {
			c.postgres.now = server
			c.t.Cleanup(func() { _ = server.Stop(context.Background()) })
			return "back"
		}
		c.sayf("postgres", "does not start: %v", err)
		if !wait(ctx, second) {
			return err.Error()
		}
	}
}

func (c *chaos) cut(ctx context.Context, from, to string, lasts time.Duration) string {
	names := c.network.names(from, "/"+to)
	for _, name := range names {
		c.network.cut(name)
	}
	wait(ctx, lasts)
	for _, name := range names {
		if err := c.network.mend(ctx, name); err != nil {
			return err.Error()
		}
	}
	return "mended"
}

func (c *chaos) poison(ctx context.Context, from, to string, with toxic, lasts time.Duration) string {
	names := c.network.names(from, "/"+to)
	with.Name = "chaos"
	for _, name := range names {
		if err := c.network.poison(name, with); err != nil {
			return err.Error()
		}
	}
	wait(ctx, lasts)
	for _, name := range names {
		c.network.cure(ctx, name, with.Name)
	}
	return "mended"
}

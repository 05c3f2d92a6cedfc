package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/ledger"
)

const topic = "bench"

// Publish imports subscribers, publishes one article to them and reports what
// it cost. It takes about a minute for a million.
func Publish(ctx context.Context, cfg Config) (report Report, err error) {
	report = newReport(cfg)
	s, err := startStack(ctx, cfg)
	if err != nil {
		return report, fmt.Errorf("bench publish: %w", err)
	}
	defer func() {
		if stopErr := s.stop(context.WithoutCancel(ctx)); err == nil {
			err = stopErr
		}
	}()
	run := &publishRun{stack: s, cfg: cfg, report: &report}
	for _, step := range []func(context.Context) error{run.waitReady, run.importAll, run.publish, run.watch, run.account} {
		if err := step(ctx); err != nil {
			return report, fmt.Errorf("bench publish: %w", err)
		}
	}
	return report, nil
}

type publishRun struct {
	*stack
	cfg      Config
	report   *Report
	id       fanfare.PublicationID
	accepted time.Time
	cpuFrom  map[string]float64
}

func (r *publishRun) waitReady(ctx context.Context) error {
	for {
		status, _, err := r.send(ctx, http.MethodGet, "/readyz", "", nil)
		if err == nil && status == http.StatusOK {
			break
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	_, _, err := r.send(ctx, http.MethodPut, "/v1/topics/"+topic, "application/json", bytes.NewReader([]byte(`{"name":"Bench"}`)))
	return err
}

// readers are a line of an import, by the channel that reaches them.
var readers = map[fanfare.Channel]string{
	fanfare.Email: `{"id":"reader-%[1]d","email":"reader-%[1]d@mail.example"}`,
	fanfare.SMS:   `{"id":"reader-%[1]d","phone":"+346%08[1]d"}`,
	// A token of FCM's has about as many characters.
	fanfare.Push:  `{"id":"reader-%[1]d","devices":[{"token":"%0160[1]d","platform":"android"}]}`,
	fanfare.InApp: `{"id":"reader-%[1]d"}`,
}

// importAll streams made-up subscribers through the API, as anybody would.
func (r *publishRun) importAll(ctx context.Context) error {
	r.cfg.Log.Info("importing", "subscribers", r.cfg.Subscribers)
	reader, writer := io.Pipe()
	go func() {
		var line bytes.Buffer
		for i := range r.cfg.Subscribers {
			fmt.Fprintf(&line, readers[r.cfg.Channel]+"\n", i+1)
			if line.Len() > 1<<16 {
				if _, err := writer.Write(line.Bytes()); err != nil {
					return // the reader has closed and says why
				}
				line.Reset()
				r.tell("import", int64(i), int64(r.cfg.Subscribers))
			}
		}
		_, _ = writer.Write(line.Bytes())
		_ = writer.Close()
	}()
	begun := time.Now()
	status, body, err := r.send(ctx, http.MethodPost, "/v1/topics/"+topic+"/subscribers/import", "application/x-ndjson", reader)
	if err != nil {
		return err
	}
	var imported fanfare.ImportReport
	if err := json.Unmarshal(body, &imported); err != nil || status != http.StatusOK || imported.Created != int64(r.cfg.Subscribers) {
		return fmt.Errorf("import answered %d: %s", status, body)
	}
	r.report.ImportSeconds = time.Since(begun).Seconds()
	r.report.ImportPerSecond = float64(r.cfg.Subscribers) / r.report.ImportSeconds
	// As autovacuum would have done by the next day: first plans are then good.
	_, err = r.db.Exec(ctx, `VACUUM (ANALYZE) subscribers, subscriptions`)
	return err
}

func (r *publishRun) publish(ctx context.Context) error {
	if _, err := r.db.Exec(ctx, `SELECT pg_stat_statements_reset()`); err != nil {
		return err
	}
	r.cpuFrom = r.cpu()
	begun := time.Now()
	status, body, err := r.send(ctx, http.MethodPost, "/v1/publications", "application/json", bytes.NewReader([]byte(
		`{"key":"bench","topic":"`+topic+`","channels":["`+string(r.cfg.Channel)+`"],"content":{"title":"A measured article","url":"https://blog.example/a","summary":"What it is about, in a sentence."}}`)))
	if err != nil {
		return err
	}
	if status != http.StatusAccepted {
		return fmt.Errorf("publish answered %d: %s", status, body)
	}
	r.accepted = time.Now()
	r.report.AcceptSeconds = r.accepted.Sub(begun).Seconds()
	var answer struct {
		ID fanfare.PublicationID `json:"id"`
	}
	err = json.Unmarshal(body, &answer)
	r.id = answer.ID
	return err
}

// watch looks a few times a second: often enough for the figure, too seldom to
// be part of it.
func (r *publishRun) watch(ctx context.Context) error {
	for {
		var p fanfare.Publication
		_, body, err := r.send(ctx, http.MethodGet, "/v1/publications/"+string(r.id), "", nil)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(body, &p); err != nil {
			return err
		}
		r.tell("publish", p.Totals.Intended-p.Totals.Unfinished(), p.Totals.Intended)
		if p.FinishedAt != nil {
			r.report.Sent = p.Totals.Sent
			return nil
		}
		if err := pause(ctx, 250*time.Millisecond); err != nil {
			return err
		}
	}
}

// account reads the figures that are only there at the end.
func (r *publishRun) account(ctx context.Context) error {
	for name, seconds := range r.cpu() {
		r.report.CPUSeconds[name] = seconds - r.cpuFrom[name]
	}
	r.report.WorkerPeak, r.report.ServerPeak = peakMemory(r.worker.PID()), peakMemory(r.server.PID())
	figures, err := ledger.Measure(ctx, r.db, r.id)
	if err != nil {
		return err
	}
	r.report.Received, r.report.Duplicates = r.sink.recipients.Load(), r.sink.twice.Load()
	first := time.Unix(0, r.sink.first.Load())
	if r.cfg.Channel == fanfare.InApp { // there is no provider: the inboxes are where it arrives
		r.report.Received, r.report.Duplicates, first = figures.Items, figures.ItemsTwice, figures.FirstSettled
	}
	r.report.FirstCallSeconds = first.Sub(r.accepted).Seconds()
	r.report.PublishSeconds = figures.LastSettled.Sub(figures.Accepted).Seconds()
	r.report.RecipientsPerSecond = float64(r.cfg.Subscribers) / r.report.PublishSeconds
	r.report.QueriesPer1000 = float64(figures.Queries) * 1000 / float64(r.cfg.Subscribers)
	events, err := r.events(ctx)
	r.report.EventsPer1000 = float64(events) * 1000 / float64(r.cfg.Subscribers)
	if err != nil {
		return err
	}
	return r.verify(ctx)
}

// verify counts row by row, as `fanfare verify` does.
func (r *publishRun) verify(ctx context.Context) error {
	books, err := ledger.Open(ctx, r.postgres.URL, 1, ledger.Config{})
	if err != nil {
		return err
	}
	defer books.Close()
	v, err := books.Verify(ctx, r.id, nil)
	r.report.Balanced = v.OK
	return err
}

// events counts the history events of everything that ran for the publication.
func (r *publishRun) events(ctx context.Context) (total int64, err error) {
	c, err := client.DialContext(ctx, client.Options{HostPort: r.temporal.Address, Namespace: "fanfare", Logger: sdklog.NewStructuredLogger(r.cfg.Log)})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	request := &workflowservice.ListWorkflowExecutionsRequest{Namespace: "fanfare", PageSize: 500, Query: fmt.Sprintf("FanfarePublication = '%s' AND ExecutionStatus != 'Running'", r.id)}
	for {
		page, err := c.ListWorkflow(ctx, request)
		if err != nil {
			return 0, err
		}
		for _, execution := range page.GetExecutions() {
			total += execution.GetHistoryLength()
		}
		if len(page.GetNextPageToken()) == 0 {
			return total, nil
		}
		request.NextPageToken = page.GetNextPageToken()
	}
}

func (r *publishRun) tell(step string, done, all int64) {
	if r.cfg.Progress != nil {
		r.cfg.Progress(step, done, all)
	}
}

func (r *publishRun) send(ctx context.Context, method, path, contentType string, body io.Reader) (int, []byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, r.api+path, body)
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Authorization", "Bearer "+apiKey)
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	return response.StatusCode, answer, err
}

func pause(ctx context.Context, span time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(span):
		return nil
	}
}

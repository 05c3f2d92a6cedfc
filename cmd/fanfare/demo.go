package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/google/uuid"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/sandbox"
	"github.com/fanfare-dev/fanfare/server/api"
	"github.com/fanfare-dev/fanfare/worker"
)

const (
	demoTopic fanfare.Topic = "writer-1"
	// demoSpan is how long the demo's send lasts: long enough to look at it and to
	// kill a worker, short enough to wait for.
	demoSpan = 30 * time.Second
	// demoBatches are enough to be seen moving in Temporal's Web UI. A worker sends
	// eight batches at once: with 40 of them, each call is answered within 6 s, which
	// is well within the 15 s that a call may take.
	demoBatches = 40
	// demoLongestCall bounds how long an answer may be held back.
	demoLongestCall = 6 * time.Second
	// demoCallsAtOnce is how many batches a worker sends at once.
	demoCallsAtOnce = 8
	// demoDoubtDeadline is short because the sandbox knows at once what it was sent.
	demoDoubtDeadline = "20s"
	// demoEvents is how long the demo waits for the last events; they take a second.
	demoEvents = 10 * time.Second
	// retryDemo is how long the demo waits for a server that is being started again.
	retryDemo = time.Minute
)

// pacing is how a demo is slowed down. The zero value slows nothing.
type pacing struct {
	batch int
	pace  float64
}

func (p pacing) sandboxArgs() []string {
	if p.pace == 0 {
		return nil
	}
	return []string{"--pace", strconv.FormatFloat(p.pace, 'f', 2, 64)}
}

func (p pacing) workerArgs() []string {
	if p.batch == 0 {
		return nil
	}
	return []string{"--batch-size", strconv.Itoa(p.batch)}
}

// paceFor makes a send to an audience last for demoSpan.
func paceFor(audience int) pacing {
	batch := min(max(audience/demoBatches, 1), worker.DefaultBatchSize)
	atOnce := min(audience, demoCallsAtOnce*batch)
	return pacing{batch: batch, pace: max(float64(audience)/demoSpan.Seconds(), float64(atOnce)/demoLongestCall.Seconds())}
}

// choosePacing also thinks of the subscribers that an earlier demo left behind.
func (d *dev) choosePacing(ctx context.Context) (pacing, error) {
	var before api.PublicationList
	err := d.client().send(ctx, http.MethodGet, "/v1/publications?limit=1&topic="+string(demoTopic), nil, &before)
	if err != nil {
		return pacing{}, err
	}
	audience := d.demo
	for _, p := range before.Items {
		audience = max(audience, int(p.Totals.Intended))
	}
	return paceFor(audience), nil
}

// runDemo subscribes made-up people, publishes an article to them and shows what
// becomes of it. A server that is killed meanwhile is waited for: importing and
// publishing again change nothing.
func (d *dev) runDemo(ctx context.Context) error {
	c := d.client()
	if err := retry(ctx, func() error { return d.importReaders(ctx, c) }); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	draft := article()
	var accepted api.AcceptedPublication
	if err := retry(ctx, func() error { return c.send(ctx, http.MethodPost, "/v1/publications", draft, &accepted) }); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	fmt.Fprintf(d.screen, "Publishing %q to %s. Kill the worker or the server meanwhile, with kill -9.\n",
		draft.Content.Title, count(accepted.Intended, "subscriber"))
	p, err := watch(ctx, c, accepted.Id, accepted.Intended, d.screen)
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	p, err = d.awaitEvents(ctx, c, p)
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	fmt.Fprintln(d.out)
	if err := printPublication(d.out, p); err != nil {
		return err
	}
	stats, err := d.sandboxStats(ctx)
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	fmt.Fprintf(d.out, "%-17s%s (%s, %s)\n", "The mail:", d.sandboxPage(), count(stats.Messages, "message"), count(stats.Duplicates, "duplicate"))
	fmt.Fprint(d.out, "\nStill serving. Count again with `fanfare verify`; Ctrl-C stops everything.\n")
	return nil
}

// awaitEvents waits a moment until what the sandbox reported has been taken in, so
// that a person sees the mail as delivered.
func (d *dev) awaitEvents(ctx context.Context, c *apiClient, p fanfare.Publication) (fanfare.Publication, error) {
	for begin := time.Now(); p.Totals.Sent > 0 && time.Since(begin) < demoEvents; {
		if err := pause(ctx, lookEvery); err != nil {
			return p, err
		}
		now, err := readPublication(ctx, c, p.ID)
		if err != nil && !temporary(err) {
			return p, err
		}
		if err == nil {
			p = now
		}
	}
	return p, nil
}

// retry tries again while the server is away.
func retry(ctx context.Context, do func() error) error {
	begin := time.Now()
	for {
		err := do()
		if err == nil || !temporary(err) || time.Since(begin) > retryDemo {
			return err
		}
		if pause(ctx, pingEvery) != nil {
			return ctx.Err()
		}
	}
}

func (d *dev) importReaders(ctx context.Context, c *apiClient) error {
	if err := c.send(ctx, http.MethodPut, topicPath(string(demoTopic)), map[string]string{"name": "Writer One"}, nil); err != nil {
		return err
	}
	bar := newProgress(d.screen, "importing", "subscribers", int64(d.demo))
	body, lines := io.Pipe()
	go func() { lines.CloseWithError(writeReaders(lines, d.demo, bar)) }()
	defer func() { _ = body.Close() }() // stops the writer; a pipe has nothing to say
	var report fanfare.ImportReport
	err := c.stream(ctx, http.MethodPost, topicPath(string(demoTopic))+"/subscribers/import", "application/x-ndjson", body, &report)
	bar.end()
	return err
}

// writeReaders writes made-up subscribers. Nobody has an address in .example.
func writeReaders(w io.Writer, n int, bar *progress) error {
	buffered := bufio.NewWriterSize(w, 64<<10)
	e := json.NewEncoder(buffered)
	for i := 1; i <= n; i++ {
		name := "reader-" + strconv.Itoa(i)
		if err := e.Encode(fanfare.Subscriber{ID: fanfare.SubscriberID(name), Email: name + "@mail.example"}); err != nil {
			return err
		}
		if i%1000 == 0 || i == n {
			bar.reach(int64(i), bar.what)
		}
	}
	return buffered.Flush()
}

func article() fanfare.Draft {
	return fanfare.Draft{
		Key: fanfare.Key("demo-" + uuid.NewString()), Topic: demoTopic,
		Channels: []fanfare.Channel{fanfare.Email}, // nobody made up has a telephone
		Content: fanfare.Content{
			Title:   "Why the sea is salt",
			URL:     "https://blog.example/why-the-sea-is-salt",
			Summary: "Rivers bring a little of it every day, and nothing takes it away again.",
			Body:    "Rain is slightly sour. It dissolves a little of every stone it runs over, and rivers carry that to the sea.\n\nWater leaves the sea again, as vapour. Salt does not.",
		},
	}
}

func (d *dev) sandboxStats(ctx context.Context) (sandbox.Stats, error) {
	var stats sandbox.Stats
	c := apiClient{base: "http://" + d.ports.sandbox.address()}
	err := c.send(ctx, http.MethodGet, "/sandbox/stats", nil, &stats)
	return stats, err
}

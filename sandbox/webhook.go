package sandbox

import (
	"container/heap"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// flushEvery is how often the events that are due are posted.
	flushEvery = 100 * time.Millisecond
	// A refused event is posted again after retryFirst, then twice that, up to retryMost.
	retryFirst = 200 * time.Millisecond
	retryMost  = 5 * time.Second
	// defaultMaxWaiting is two events for each of a million messages: 80 MB, and the
	// messages themselves where they are no longer kept.
	defaultMaxWaiting = 2_000_000
)

// WebhookStats counts events since the start or the last reset.
type WebhookStats struct {
	// Made is what happened to messages, each event once; Doubled the second copies
	// that a fault added. Dropped is what of both was not kept for want of room, and
	// Waiting what has still to be posted, or to be answered. Lost is what was
	// refused and is not posted again, because the provider would not.
	Made    int64 `json:"made"`
	Doubled int64 `json:"doubled"`
	Dropped int64 `json:"dropped"`
	Waiting int64 `json:"waiting"`
	Lost    int64 `json:"lost"`
	// Posts counts requests with true events, and Posted the events in them: those
	// answered with a 2xx are Accepted, the others Refused, and posted again or lost.
	// Early is those posted before their call was answered.
	Posts    int64 `json:"posts"`
	Posted   int64 `json:"posted"`
	Accepted int64 `json:"accepted"`
	Refused  int64 `json:"refused"`
	Early    int64 `json:"early"`
	// Forged counts events in posts with a wrong signature, Stale those in posts with
	// an old timestamp. None of them should have been answered with a 2xx.
	Forged         int64 `json:"forged"`
	ForgedAccepted int64 `json:"forged_accepted"`
	Stale          int64 `json:"stale"`
	StaleAccepted  int64 `json:"stale_accepted"`
}

func (s *WebhookStats) add(other *WebhookStats) {
	s.Made += other.Made
	s.Doubled += other.Doubled
	s.Dropped += other.Dropped
	s.Waiting += other.Waiting
	s.Lost += other.Lost
	s.Posts += other.Posts
	s.Posted += other.Posted
	s.Accepted += other.Accepted
	s.Refused += other.Refused
	s.Early += other.Early
	s.Forged += other.Forged
	s.ForgedAccepted += other.ForgedAccepted
	s.Stale += other.Stale
	s.StaleAccepted += other.StaleAccepted
}

// soon is how long after its acceptance a message has arrived somewhere.
const soon = 50 * time.Millisecond

// step is one thing that happens to a message after it was accepted.
type step struct {
	event string        // as the provider calls it
	after time.Duration // since the acceptance
	// details are the fields that only this event has, at SendGrid; nil is none.
	details func(address string) map[string]any
	// code is why it failed, at Twilio.
	code int
}

// event is one event that a webhook has to bring.
type event struct {
	of   messages
	step *step
	// due is when it may be posted, in nanoseconds of Unix time.
	due int64
	i   int32 // which message
	// tries counts the posts that were refused; again says that this is the second
	// copy of an event.
	tries uint8
	again bool
}

// poster is how one provider posts events.
type poster interface {
	// letter makes the request that tells of events.
	letter(ctx context.Context, events []event, g guise) (*http.Request, error)
	// again says whether an event is posted again after an attempt that failed. err is
	// a *refusedError, or what the client said.
	again(e *event, err error) bool
}

// refusedError is an answer to a post that is no 2xx.
type refusedError struct{ status int }

func (e *refusedError) Error() string { return fmt.Sprintf("answered with %d", e.status) }

// webhookConfig is what differs from provider to provider.
type webhookConfig struct {
	provider string
	poster   poster
	// perPost is how many events a request tells of, atOnce how many requests there
	// are at a time, timeout how long one may take.
	perPost, atOnce, maxWaiting int
	timeout                     time.Duration
}

// webhook is the events of one provider that wait and what becomes of them. A nil
// one is off.
type webhook struct {
	webhookConfig
	faults *faults
	log    *slog.Logger
	client *http.Client
	full   chan struct{} // there is enough for a post

	mu       sync.Mutex
	waiting  eventHeap
	count    *WebhookStats // replaced by a reset: what is under way belongs to the old one
	refusing bool
	forgery  int
}

func newWebhook(config webhookConfig, faults *faults, log *slog.Logger) *webhook {
	if config.maxWaiting == 0 {
		config.maxWaiting = defaultMaxWaiting
	}
	return &webhook{
		webhookConfig: config, faults: faults, log: log,
		client: &http.Client{
			Timeout:   config.timeout,
			Transport: &http.Transport{MaxIdleConnsPerHost: 2 * config.atOnce, IdleConnTimeout: time.Minute},
			// Providers do not follow; an answer that leads elsewhere is a refusal.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		full: make(chan struct{}, 1), count: new(WebhookStats),
	}
}

func (w *webhook) reset() {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waiting, w.count = nil, new(WebhookStats)
}

func (w *webhook) stats() WebhookStats {
	if w == nil {
		return WebhookStats{}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return *w.count
}

// report makes the events of the accepted messages from one up to, but not
// including, another. Where the faults say so, the first of them have been posted
// when it returns.
func (w *webhook) report(ctx context.Context, of messages, from, to int) {
	if w == nil {
		return
	}
	faults := w.faults.webhooks(w.provider)
	early := !faults.Hold && w.faults.chance(faults.Early)
	events, made := w.faults.events(of, from, to, faults)
	w.mu.Lock()
	count := w.count
	count.Made += made
	count.Doubled += int64(len(events)) - made
	if room := max(w.maxWaiting-int(count.Waiting), 0); len(events) > room {
		count.Dropped += int64(len(events) - room)
		events = events[:room]
	}
	count.Waiting += int64(len(events))
	var now []event
	for _, e := range events {
		if early && e.step.after <= soon && !e.again {
			now = append(now, e)
			continue
		}
		w.waiting.add(e)
	}
	count.Early += int64(len(now))
	enough := len(w.waiting) >= w.perPost
	w.mu.Unlock()
	if enough {
		select {
		case w.full <- struct{}{}:
		default:
		}
	}
	for len(now) > 0 {
		n := min(len(now), w.perPost)
		w.send(context.WithoutCancel(ctx), now[:n], count)
		now = now[n:]
	}
}

// run posts what is due until ctx ends.
func (w *webhook) run(ctx context.Context) {
	if w == nil {
		return
	}
	var posts errgroup.Group
	posts.SetLimit(w.atOnce)
	ticker := time.NewTicker(flushEvery)
	defer ticker.Stop()
	for ctx.Err() == nil {
		if events, count := w.take(time.Now()); len(events) > 0 {
			posts.Go(func() error {
				w.send(ctx, events, count)
				return nil
			})
			continue
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
		case <-w.full:
		}
	}
	_ = posts.Wait() // none of them fails
}

// take gives the events of the next post, if any are due and not held back.
func (w *webhook) take(now time.Time) ([]event, *WebhookStats) {
	if w.faults.webhooks(w.provider).Hold {
		return nil, nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []event
	for len(w.waiting) > 0 && w.waiting[0].due <= now.UnixNano() && len(out) < w.perPost {
		out = append(out, w.waiting.next())
	}
	return out, w.count
}

// send posts events once; unless they are accepted they wait for the next time.
func (w *webhook) send(ctx context.Context, events []event, count *WebhookStats) {
	w.mislead(ctx, events, count)
	err := w.post(ctx, events, honest)
	now, n := time.Now(), int64(len(events))
	w.mu.Lock()
	defer w.mu.Unlock()
	count.Posts++
	count.Posted += n
	if err == nil {
		count.Accepted += n
		count.Waiting -= n
		w.refusing = false
		return
	}
	count.Refused += n
	if !w.refusing && ctx.Err() == nil {
		w.refusing = true
		w.log.Warn("the target of the webhooks does not take events", "provider", w.provider, "error", err)
	}
	for _, e := range events {
		if ctx.Err() == nil && !w.poster.again(&e, err) {
			count.Lost++
			count.Waiting--
			continue
		}
		if count != w.count {
			continue // the sandbox was reset meanwhile
		}
		e.due = now.Add(min(retryFirst<<min(e.tries, 10), retryMost)).UnixNano()
		e.tries = min(e.tries, 254) + 1
		w.waiting.add(e)
	}
}

// post makes one request. Whatever is not answered with a 2xx is an error.
func (w *webhook) post(ctx context.Context, events []event, g guise) error {
	r, err := w.poster.letter(ctx, events, g)
	if err != nil {
		return fmt.Errorf("post events: %w", err)
	}
	return deliver(w.client, r)
}

// deliver makes a request of a provider's to a webhook.
func deliver(client *http.Client, r *http.Request) error {
	answer, err := client.Do(r)
	if err != nil {
		return fmt.Errorf("post events: %w", err)
	}
	defer answer.Body.Close()
	_, _ = io.CopyN(io.Discard, answer.Body, 64<<10) // so that the connection can be used again
	if answer.StatusCode < 200 || answer.StatusCode > 299 {
		return fmt.Errorf("post events: %w", &refusedError{answer.StatusCode})
	}
	return nil
}

// eventHeap holds events by when they are due.
type eventHeap []event

func (h *eventHeap) add(e event) {
	*h = append(*h, e) // not heap.Push, which would put each event into an interface
	heap.Fix(h, len(*h)-1)
}

func (h *eventHeap) next() event {
	first, last := (*h)[0], len(*h)-1
	(*h)[0] = (*h)[last]
	(*h)[last] = event{} // lets go of its messages
	*h = (*h)[:last]
	if last > 0 {
		heap.Fix(h, 0)
	}
	return first
}

// What container/heap asks for; Push and Pop are never called.
func (h *eventHeap) Len() int           { return len(*h) }
func (h *eventHeap) Less(i, j int) bool { return (*h)[i].due < (*h)[j].due }
func (h *eventHeap) Swap(i, j int)      { (*h)[i], (*h)[j] = (*h)[j], (*h)[i] }
func (h *eventHeap) Push(any)           {}
func (h *eventHeap) Pop() any           { return nil }

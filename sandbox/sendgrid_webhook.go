package sandbox

import (
	"bytes"
	"container/heap"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// eventsPerPost and flushEvery shape the posts: SendGrid gathers events to about
	// this many, and waits much longer than this, which nobody who watches would.
	eventsPerPost = 500
	flushEvery    = 100 * time.Millisecond
	// postsAtOnce keeps a target busy while it commits.
	postsAtOnce = 4
	// postTimeout is SendGrid's, as far as it is known.
	postTimeout = 10 * time.Second
	// A refused event is posted again after retryFirst, then twice that, up to retryMost.
	retryFirst = 200 * time.Millisecond
	retryMost  = 5 * time.Second
	// defaultMaxWaiting is two events for each of a million messages: 64 MB, and the
	// messages themselves where they are no longer kept.
	defaultMaxWaiting = 2_000_000

	signatureHeader = "X-Twilio-Email-Event-Webhook-Signature"
	timestampHeader = "X-Twilio-Email-Event-Webhook-Timestamp"
)

// Webhook is where SendGrid's Event Webhook goes.
type Webhook struct {
	// URL is posted to, such as http://127.0.0.1:8080/webhooks/sendgrid. Empty: no
	// events are made.
	URL string
	// Key signs the posts; it is on the curve P-256. nil makes a new one.
	Key *ecdsa.PrivateKey
	// MaxWaiting is how many events wait at most, those being posted included.
	// What does not fit is dropped and counted. 0 is 2,000,000.
	MaxWaiting int
}

// WebhookStats counts events since the start or the last reset.
type WebhookStats struct {
	// Made is what happened to messages, each event once; Doubled the second copies
	// that a fault added. Dropped is what of both was not kept for want of room, and
	// Waiting what has still to be posted, or to be answered.
	Made    int64 `json:"made"`
	Doubled int64 `json:"doubled"`
	Dropped int64 `json:"dropped"`
	Waiting int64 `json:"waiting"`
	// Posts counts requests with true events, and Posted the events in them: those
	// answered with a 2xx are Accepted, the others Refused, and posted again. Early
	// is those posted before their call was answered.
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

// NewWebhookKey makes a key that can sign posts.
func NewWebhookKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(fmt.Sprintf("make a webhook key: %v", err)) // no randomness: crypto/rand itself would have stopped us
	}
	return key
}

// WebhookPublicKey writes the public half as SendGrid shows it: base64 of DER, which
// is what a verifier is given as SENDGRID_WEBHOOK_PUBLIC_KEY.
func WebhookPublicKey(key *ecdsa.PrivateKey) string {
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		panic(fmt.Sprintf("write a webhook key: %v", err)) // not a key on a known curve: a mistake of the caller's
	}
	return base64.StdEncoding.EncodeToString(der)
}

// webhook is the events that wait and what becomes of them.
type webhook struct {
	Webhook
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

func newWebhook(config Webhook, faults *faults, log *slog.Logger) *webhook {
	if config.Key == nil {
		config.Key = NewWebhookKey()
	}
	if config.MaxWaiting == 0 {
		config.MaxWaiting = defaultMaxWaiting
	}
	return &webhook{
		Webhook: config, faults: faults, log: log,
		client: &http.Client{
			Timeout:   postTimeout,
			Transport: &http.Transport{MaxIdleConnsPerHost: 2 * postsAtOnce, IdleConnTimeout: time.Minute},
			// SendGrid does not follow; an answer that leads elsewhere is a refusal.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		full: make(chan struct{}, 1), count: new(WebhookStats),
	}
}

func (w *webhook) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waiting, w.count = nil, new(WebhookStats)
}

func (w *webhook) stats() WebhookStats {
	w.mu.Lock()
	defer w.mu.Unlock()
	return *w.count
}

// report makes the events of an accepted call. Where the faults say so, the first of
// them have been posted when it returns.
func (w *webhook) report(ctx context.Context, b *batch) {
	faults := w.faults.webhooks()
	early := !faults.Hold && w.faults.chance(faults.Early)
	events, made := w.faults.events(b, faults)
	w.mu.Lock()
	count := w.count
	count.Made += made
	count.Doubled += int64(len(events)) - made
	if room := max(w.MaxWaiting-int(count.Waiting), 0); len(events) > room {
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
	enough := len(w.waiting) >= eventsPerPost
	w.mu.Unlock()
	if enough {
		select {
		case w.full <- struct{}{}:
		default:
		}
	}
	for len(now) > 0 {
		n := min(len(now), eventsPerPost)
		w.send(context.WithoutCancel(ctx), now[:n], count)
		now = now[n:]
	}
}

// run posts what is due until ctx ends.
func (w *webhook) run(ctx context.Context) {
	var posts errgroup.Group
	posts.SetLimit(postsAtOnce)
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
	if w.faults.webhooks().Hold {
		return nil, nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []event
	for len(w.waiting) > 0 && w.waiting[0].due <= now.UnixNano() && len(out) < eventsPerPost {
		out = append(out, w.waiting.next())
	}
	return out, w.count
}

// send posts events once; unless they are accepted they wait for the next time.
func (w *webhook) send(ctx context.Context, events []event, count *WebhookStats) {
	w.mislead(ctx, events, count)
	body := render(events, w.faults.webhooks().NewIDs)
	stamp := unixSeconds(time.Now())
	err := w.post(ctx, body, stamp, w.sign(stamp, body))
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
		w.log.Warn("the target of the webhooks does not take events; they are posted again until it does", "url", w.URL, "error", err)
	}
	if count != w.count {
		return // the sandbox was reset meanwhile
	}
	for _, e := range events {
		e.due = now.Add(min(retryFirst<<min(e.tries, 10), retryMost)).UnixNano()
		e.tries = min(e.tries, 254) + 1
		w.waiting.add(e)
	}
}

// post makes one request. Whatever is not answered with a 2xx is an error.
func (w *webhook) post(ctx context.Context, body []byte, timestamp, signature string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL, bytes.NewReader(body)) //nolint:gosec // whoever starts the sandbox says where its events go
	if err != nil {
		return fmt.Errorf("post events: %w", err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "SendGrid Event API")
	r.Header.Set(timestampHeader, timestamp)
	if signature != "" {
		r.Header.Set(signatureHeader, signature)
	}
	answer, err := w.client.Do(r) //nolint:gosec // the same
	if err != nil {
		return fmt.Errorf("post events: %w", err)
	}
	defer answer.Body.Close()
	_, _ = io.CopyN(io.Discard, answer.Body, 64<<10) // so that the connection can be used again
	if answer.StatusCode < 200 || answer.StatusCode > 299 {
		return fmt.Errorf("post events: answered with %s", answer.Status)
	}
	return nil
}

func (w *webhook) sign(timestamp string, body []byte) string { return sign(w.Key, timestamp, body) }

// sign gives the signature of a post in the form of its header.
func sign(key *ecdsa.PrivateKey, timestamp string, body []byte) string {
	hash := sha256.New()
	_, _ = io.WriteString(hash, timestamp)
	_, _ = hash.Write(body)
	signature, _ := ecdsa.SignASN1(rand.Reader, key, hash.Sum(nil)) // a key on P-256 always signs
	return base64.StdEncoding.EncodeToString(signature)
}

func unixSeconds(t time.Time) string { return strconv.FormatInt(t.Unix(), 10) }

// eventHeap holds events by when they are due.
type eventHeap []event

func (h *eventHeap) add(e event) {
	*h = append(*h, e) // not heap.Push, which would put each event into an interface
	heap.Fix(h, len(*h)-1)
}

func (h *eventHeap) next() event {
	first, last := (*h)[0], len(*h)-1
	(*h)[0] = (*h)[last]
	(*h)[last] = event{} // lets go of its batch
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

package sandbox

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// exchange is one call under way, at any provider.
type exchange struct {
	s                 *Sandbox
	provider, channel string
	w                 http.ResponseWriter
	r                 *http.Request
	n                 uint64
	// refused says that the provider's own rules refused it; statistics tell
	// that from a fault's answer.
	refused bool
}

// open writes a call down. It comes first of all, before the body is read.
func (s *Sandbox) open(w http.ResponseWriter, r *http.Request, provider, channel string) *exchange {
	arrived := time.Now().UTC()
	return &exchange{
		s: s, provider: provider, channel: channel, w: w, r: r,
		n: s.store.begin(provider, channel, arrived),
	}
}

// down ends the call here, and says so, when the whole provider is down.
func (x *exchange) down(body []byte) bool {
	mode := x.s.faults.down(x.provider)
	if mode == "" {
		return false
	}
	x.s.store.faulted(x.n, "down")
	if mode == DownClose {
		x.drop(0)
	}
	// The body is taken first, or the client may miss the answer while writing.
	_, _ = io.Copy(io.Discard, http.MaxBytesReader(x.w, x.r.Body, maxMailBytes))
	x.reply(http.StatusServiceUnavailable, "application/json", body)
	return true
}

// fault decides what is done to the call; the zero Fault is nothing.
func (x *exchange) fault(refused bool) Fault {
	f := x.s.faults.pick(x.provider, x.channel, refused)
	if f.Action != "" {
		x.s.store.faulted(x.n, string(f.Action))
	}
	return f
}

func (x *exchange) read() {
	now := time.Now().UTC()
	x.s.store.update(x.n, func(c *Call) { c.ReadAt = now })
}

func (x *exchange) describe(call string, messages int) {
	x.s.store.update(x.n, func(c *Call) { c.ID, c.Messages = call, messages })
}

func (x *exchange) note(why string) {
	x.s.store.update(x.n, func(c *Call) { c.Error = why })
}

// accept keeps the messages. From here on the provider has them, whatever its
// answer will be.
func (x *exchange) accept(b *batch) {
	x.s.store.accept(x.n, b)
	if x.s.webhook != nil {
		x.s.webhook.report(x.r.Context(), b)
	}
}

// reply ends the call with an answer. It is written down before it is sent, so
// that whoever has the answer finds it in the list.
func (x *exchange) reply(status int, contentType string, body []byte) {
	if contentType != "" {
		x.w.Header().Set("Content-Type", contentType)
	}
	x.w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	x.s.store.finish(x.n, status, x.refused)
	x.w.WriteHeader(status)
	_, _ = x.w.Write(body) // a client that left is not an error of ours
}

// faultStatus answers a fault's status; asJSON is its body in the provider's shape.
func (x *exchange) faultStatus(f Fault, asJSON []byte) {
	if f.RetryAfter > 0 {
		x.w.Header().Set("Retry-After", strconv.Itoa(f.RetryAfter))
	}
	if f.RateLimitReset > 0 {
		reset := time.Now().Unix() + int64(f.RateLimitReset)
		x.w.Header().Set("X-RateLimit-Reset", strconv.FormatInt(reset, 10))
		x.w.Header().Set("X-RateLimit-Remaining", "0")
	}
	if f.HTML {
		x.reply(f.Status, "text/html", htmlError(f.Status))
		return
	}
	x.reply(f.Status, "application/json", asJSON)
}

// htmlError is what a proxy in front of a provider answers.
func htmlError(status int) []byte {
	title := fmt.Sprintf("%d %s", status, http.StatusText(status))
	return fmt.Appendf(nil, "<html>\r\n<head><title>%s</title></head>\r\n<body><center><h1>%s</h1></center><hr><center>nginx</center></body>\r\n</html>\r\n", title, title)
}

// drop closes the connection without (the rest of) an answer. It does not return.
func (x *exchange) drop(status int) {
	x.s.store.finish(x.n, status, false)
	panic(http.ErrAbortHandler)
}

// hang never answers. It ends when the client leaves or the sandbox stops.
func (x *exchange) hang() {
	<-x.r.Context().Done()
	x.drop(0)
}

// truncate answers a status and cuts the connection inside the promised body.
func (x *exchange) truncate(status int) {
	x.w.Header().Set("Content-Length", "64")
	x.w.WriteHeader(status)
	_, _ = io.WriteString(x.w, "{")
	_ = http.NewResponseController(x.w).Flush()
	x.drop(status)
}

// wait sleeps for d and says whether it could: false when ctx ended first.
func wait(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

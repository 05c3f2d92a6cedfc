package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// maxReusedBuffer keeps one huge request from holding its memory for ever.
const maxReusedBuffer = 4 << 20

// exchange is one call under way, at any provider.
type exchange struct {
	s                 *Sandbox
	provider, channel string
	w                 http.ResponseWriter
	r                 *http.Request
	n                 uint64
	// failure is the provider's way of saying a status that no rule of its own led to.
	failure func(status int) []byte
	// refused says that the provider's own rules refused it; statistics tell
	// that from a fault's answer.
	refused bool
}

// answer is how a call ends.
type answer struct {
	status      int
	contentType string
	body        []byte
	// note is why a call was refused, for the list of calls. It names no address.
	note string
}

// open writes a call down, first of all, and reads its body, which is to be given back
// with release when nothing of it is needed any more. It has ended the call when it says
// false.
func (s *Sandbox) open(w http.ResponseWriter, r *http.Request, provider, channel string, most int64, failure func(status int) []byte) (x *exchange, body *bytes.Buffer, ok bool) {
	arrived := time.Now().UTC()
	x = &exchange{
		s: s, provider: provider, channel: channel, w: w, r: r, failure: failure,
		n: s.store.begin(provider, channel, arrived),
	}
	if x.down() {
		return x, nil, false
	}
	body, ok = x.body(most)
	return x, body, ok
}

// down ends the call here, and says so, when the whole provider is down.
func (x *exchange) down() bool {
	mode := x.s.faults.down(x.provider)
	if mode == "" {
		return false
	}
	x.s.store.faulted(x.n, x.channel, "down")
	if mode == DownClose {
		x.drop(0)
	}
	// The body is taken first, or the client may miss the answer while writing.
	_, _ = io.Copy(io.Discard, http.MaxBytesReader(x.w, x.r.Body, maxMailBytes))
	x.reply(answer{status: http.StatusServiceUnavailable, contentType: "application/json", body: x.failure(http.StatusServiceUnavailable)})
	return true
}

// body reads the request into a buffer. It has ended the call when it says false.
func (x *exchange) body(most int64) (body *bytes.Buffer, ok bool) {
	buf, _ := x.s.buffers.Get().(*bytes.Buffer)
	if buf == nil {
		buf = new(bytes.Buffer)
	}
	buf.Reset()
	if _, err := buf.ReadFrom(http.MaxBytesReader(x.w, x.r.Body, most)); err != nil {
		x.s.release(buf)
		x.unreadable(err)
		return nil, false
	}
	now := time.Now().UTC()
	x.s.store.update(x.n, func(c *Call) { c.ReadAt = now })
	return buf, true
}

func (s *Sandbox) release(buf *bytes.Buffer) {
	if buf.Cap() <= maxReusedBuffer {
		s.buffers.Put(buf)
	}
}

// unreadable ends a call whose body is too long or did not come.
func (x *exchange) unreadable(err error) {
	var tooLong *http.MaxBytesError
	if !errors.As(err, &tooLong) {
		x.note("the body did not arrive whole")
		x.drop(0)
	}
	// The limit sits in a proxy, before the provider's own code, so this is HTML.
	x.refuse(answer{
		status: http.StatusRequestEntityTooLarge, contentType: "text/html", body: htmlError(http.StatusRequestEntityTooLarge),
		note: fmt.Sprintf("the body is over %d bytes", tooLong.Limit),
	})
}

func (x *exchange) describe(call string, messages int) {
	x.s.store.update(x.n, func(c *Call) { c.ID, c.Messages = call, messages })
}

func (x *exchange) note(why string) {
	x.s.store.update(x.n, func(c *Call) { c.Error = why })
}

// end does what the faults say, and without one what the provider would: refuse the
// call, where no is not nil, or accept its messages and say so. What accept has
// kept the provider has, whatever it answers.
func (x *exchange) end(no *answer, messages int, accept func() answer) {
	fault := x.fault(no != nil)
	switch fault.Action {
	case ActionStatus:
		x.faultStatus(fault)
		return
	case ActionClose:
		x.drop(0)
	case ActionHang:
		x.hang()
	case ActionLatency:
		if !wait(x.r.Context(), time.Duration(fault.Delay)) {
			x.drop(0)
		}
	}
	if no != nil {
		x.refuse(*no)
		return
	}
	yes := accept()
	switch fault.Action {
	case ActionAcceptThenClose:
		x.drop(0)
	case ActionAcceptThenHang:
		x.hang()
	case ActionTruncate:
		x.truncate(yes.status)
	}
	wait(x.r.Context(), x.s.faults.turn(messages, time.Now()))
	x.reply(yes)
}

// fault decides what is done to the call; the zero Fault is nothing.
func (x *exchange) fault(refused bool) Fault {
	f := x.s.faults.pick(x.provider, x.channel, refused)
	if f.Action != "" {
		x.s.store.faulted(x.n, x.channel, string(f.Action))
	}
	return f
}

func (x *exchange) refuse(no answer) {
	x.refused = true
	x.note(no.note)
	x.reply(no)
}

// reply ends the call with an answer. It is written down before it is sent, so
// that whoever has the answer finds it in the list.
func (x *exchange) reply(a answer) {
	if a.contentType != "" {
		x.w.Header().Set("Content-Type", a.contentType)
	}
	x.w.Header().Set("Content-Length", strconv.Itoa(len(a.body)))
	x.s.store.finish(x.n, x.channel, a.status, x.refused)
	x.w.WriteHeader(a.status)
	_, _ = x.w.Write(a.body) // a client that left is not an error of ours
}

// faultStatus answers a fault's status.
func (x *exchange) faultStatus(f Fault) {
	if f.RetryAfter > 0 {
		x.w.Header().Set("Retry-After", strconv.Itoa(f.RetryAfter))
	}
	if f.RateLimitReset > 0 {
		reset := time.Now().Unix() + int64(f.RateLimitReset)
		x.w.Header().Set("X-RateLimit-Reset", strconv.FormatInt(reset, 10))
		x.w.Header().Set("X-RateLimit-Remaining", "0")
	}
	if f.HTML {
		x.reply(answer{status: f.Status, contentType: "text/html", body: htmlError(f.Status)})
		return
	}
	x.reply(answer{status: f.Status, contentType: "application/json", body: x.failure(f.Status)})
}

// htmlError is what a proxy in front of a provider answers.
func htmlError(status int) []byte {
	title := fmt.Sprintf("%d %s", status, http.StatusText(status))
	return fmt.Appendf(nil, "<html>\r\n<head><title>%s</title></head>\r\n<body><center><h1>%s</h1></center><hr><center>nginx</center></body>\r\n</html>\r\n", title, title)
}

// drop closes the connection without (the rest of) an answer. It does not return.
func (x *exchange) drop(status int) {
	x.s.store.finish(x.n, x.channel, status, false)
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

package server

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/server/api"
)

// readerToken is the stream's address up to the token.
const readerToken = "/v1/me/inbox/stream?token="

// tokenFor is a token of the fake's subscriber for so long.
func tokenFor(life time.Duration) string {
	return fanfare.SubscriberToken{Number: 42, Expires: testNow.Add(life)}.Sign(testSecret)
}

// sse is one block of a stream: an event or a comment.
type sse struct{ ID, Event, Data, Comment string }

// streaming is an open stream as a client reads it.
type streaming struct {
	t      *testing.T
	body   io.ReadCloser
	header http.Header
	blocks chan sse // closed at the end
}

// quick looks often, so that tests are.
func quick(_ *Config, s *spans, _ *[]Check) { s.look = 5 * time.Millisecond }

func (r *running) follow(t *testing.T, query string, edits ...edit) *streaming {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.base+readerToken+tokenFor(time.Hour)+query, http.NoBody)
	require.NoError(t, err)
	for _, change := range edits {
		change(request)
	}
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	t.Cleanup(cancel)
	require.Equal(t, http.StatusOK, response.StatusCode)
	s := &streaming{t: t, body: response.Body, header: response.Header, blocks: make(chan sse, 100)}
	go func() {
		defer close(s.blocks)
		defer response.Body.Close()
		lines := bufio.NewReader(response.Body)
		var block sse
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return
			}
			name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
			switch name {
			case "":
				if block != (sse{}) {
					s.blocks <- block
				}
				block = sse{}
				block.Comment = value // of ": comment"
			case "id":
				block.ID = value
			case "event":
				block.Event = value
			case "data":
				block.Data = value
			}
		}
	}()
	return s
}

// next waits for the next event and passes over comments.
func (s *streaming) next() sse {
	s.t.Helper()
	for {
		select {
		case block, ok := <-s.blocks:
			require.True(s.t, ok, "the stream has ended")
			if block.Comment == "" {
				return block
			}
		case <-time.After(10 * time.Second):
			require.FailNow(s.t, "no event came")
		}
	}
}

// ends waits for the end.
func (s *streaming) ends() {
	s.t.Helper()
	for {
		select {
		case _, ok := <-s.blocks:
			if !ok {
				return
			}
		case <-time.After(10 * time.Second):
			require.FailNow(s.t, "the stream goes on")
		}
	}
}

// item is the next event, which is about an item.
func (s *streaming) item(id string) api.InboxChange {
	s.t.Helper()
	event := s.next()
	require.Equal(s.t, "item", event.Event)
	require.Equal(s.t, id, event.ID)
	var change api.InboxChange
	require.NoError(s.t, json.Unmarshal([]byte(event.Data), &change))
	return change
}

func TestStreamTellsWhatHappensFromNowOn(t *testing.T) {
	t.Parallel()
	r := start(t, quick)
	r.ledger.post("before")
	s := r.follow(t, "", header("Origin", "https://blog.example"))
	require.Equal(t, "text/event-stream", s.header.Get("Content-Type"))
	require.Equal(t, "no-store", s.header.Get("Cache-Control"))
	require.Equal(t, "no", s.header.Get("X-Accel-Buffering"))
	require.Equal(t, "*", s.header.Get("Access-Control-Allow-Origin"))
	require.Equal(t, sse{ID: "1", Event: "unread", Data: `{"unread":1}`}, s.next())

	r.ledger.post("now\ndata: not")
	change := s.item("2")
	require.Equal(t, "now\ndata: not", change.Item.Title)
	require.EqualValues(t, 2, change.Unread)
	require.Equal(t, http.StatusOK, r.send(t, http.MethodPost, "/v1/me/inbox/1/read", "", asReader).status)
	change = s.item("3")
	require.Equal(t, "before", change.Item.Title)
	require.NotNil(t, change.Item.ReadAt)
	require.EqualValues(t, 1, change.Unread)
	require.NotContains(t, r.logs.String(), tokenFor(time.Hour))
}

// Whoever comes back goes on behind the last event they saw, wherever they say so.
func TestStreamGoesOnWhereItWasCut(t *testing.T) {
	t.Parallel()
	r := start(t, quick)
	for i := range 7 {
		r.ledger.post(fmt.Sprintf("item %d", i+1))
	}
	for _, from := range []struct {
		query, header string
		first         int
	}{
		{"&last_event_id=0", "", 1},
		{"&last_event_id=3", "", 4},
		{"", "5", 6},
		{"&last_event_id=1", "4", 5}, // the browser's word is the newer one
	} {
		s := r.follow(t, from.query, header("Last-Event-ID", from.header))
		require.Equal(t, "unread", s.next().Event)
		for i := from.first; i <= 7; i++ {
			require.Equal(t, fmt.Sprintf("item %d", i), s.item(fmt.Sprint(i)).Item.Title)
		}
		r.ledger.post("one more")
		require.Equal(t, "one more", s.item("8").Item.Title)
		r.ledger.set(func() { r.ledger.change, r.ledger.items = 7, r.ledger.items[:7] })
		s.body.Close()
	}
	for _, bad := range []string{"x", "-1", "1.5"} {
		got := r.send(t, http.MethodGet, readerToken+tokenFor(time.Hour)+"&last_event_id="+bad, "", noKey)
		require.Equal(t, http.StatusBadRequest, got.status, bad)
		require.Equal(t, []string{"last_event_id"}, fields(got.problem(t)))
	}
}

// A position that the inbox has not reached, as after the database was restored, is unknown,
// also where the inbox passes it before the first look.
func TestStreamFromAnUnknownPositionBringsEverything(t *testing.T) {
	t.Parallel()
	r := start(t, quick)
	r.ledger.post("item 1")
	posted := make(chan struct{})
	r.ledger.set(func() {
		r.ledger.inside = func(_ context.Context, op string) {
			if op == "read news" {
				<-posted
			}
		}
	})
	s := r.follow(t, "&last_event_id=3")
	require.Equal(t, "unread", s.next().Event)
	for i := range 4 {
		r.ledger.post(fmt.Sprintf("item %d", i+2))
	}
	close(posted)
	for i := range 5 {
		require.Equal(t, fmt.Sprintf("item %d", i+1), s.item(fmt.Sprint(i+1)).Item.Title)
	}
}

// To open a stream takes no longer than another request: a client must not wait for ever.
func TestStreamThatCannotBeOpenedIsGivenUp(t *testing.T) {
	t.Parallel()
	r := start(t, quick, func(_ *Config, s *spans, _ *[]Check) { s.request = 50 * time.Millisecond })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r.ledger.set(func() {
		r.ledger.inside = func(in context.Context, _ string) {
			select {
			case <-in.Done():
			case <-ctx.Done():
			}
		}
	})
	_, got, err := r.try(ctx, http.MethodGet, readerToken+tokenFor(time.Hour), "", noKey)
	require.NoError(t, err)
	require.Equal(t, http.StatusServiceUnavailable, got.status)
	require.True(t, got.problem(t).Retryable)
}

// Who asks for the header alone gets it, and leaves no stream behind.
func TestStreamsHeaderAlone(t *testing.T) {
	t.Parallel()
	r := start(t, quick)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for range 2 { // over the same connection
		_, got, err := r.try(ctx, http.MethodHead, readerToken+tokenFor(time.Hour), "", noKey)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, got.status)
		require.Equal(t, "text/event-stream", got.header.Get("Content-Type"))
	}
	_, got, err := r.try(ctx, http.MethodHead, readerToken+"x", "", noKey)
	require.NoError(t, err)
	require.Equal(t, http.StatusUnauthorized, got.status)
}

func TestStreamTakesATokenInItsAddressAndNothingElseDoes(t *testing.T) {
	t.Parallel()
	r := start(t)
	require.Equal(t, http.StatusUnauthorized, r.send(t, http.MethodGet, "/v1/me/inbox?token="+tokenFor(time.Hour), "", noKey).status)
	require.Equal(t, http.StatusUnauthorized, r.send(t, http.MethodGet, readerToken+"x", "", noKey).status)
	got := r.send(t, http.MethodGet, readerToken+tokenFor(-time.Hour), "", noKey)
	require.Equal(t, http.StatusUnauthorized, got.status)
	require.Equal(t, api.ProblemCodeTokenExpired, got.problem(t).Code)
}

// A stream shows that it lives, and outlives every time-out of other requests.
func TestStreamStaysOpen(t *testing.T) {
	t.Parallel()
	const brief = 100 * time.Millisecond
	r := start(t, quick, func(_ *Config, s *spans, _ *[]Check) {
		s.read, s.request, s.write, s.header, s.beat = brief, brief, brief, brief, 20*time.Millisecond
	})
	s := r.follow(t, "")
	s.next()
	for begun := time.Now(); time.Since(begun) < 5*brief; {
		require.Equal(t, sse{Comment: "still here"}, <-s.blocks)
	}
	r.ledger.post("late")
	require.Equal(t, "late", s.item("1").Item.Title)
}

func TestStreamEndsWithItsToken(t *testing.T) {
	t.Parallel()
	r := start(t, quick)
	s := r.follow(t, "", header("Authorization", "Bearer "+tokenFor(200*time.Millisecond+time.Second)))
	require.Equal(t, "unread", s.next().Event)
	s.ends()
}

func TestStreamEndsWithItsSubscriber(t *testing.T) {
	t.Parallel()
	r := start(t, quick)
	s := r.follow(t, "")
	r.ledger.set(func() { r.ledger.erased = true })
	s.ends()
	require.Equal(t, http.StatusNotFound, r.send(t, http.MethodGet, readerToken+tokenFor(time.Hour), "", noKey).status, "and a browser stays away then")
}

// A server that stops waits for no stream.
func TestStreamEndsWhenTheServerStops(t *testing.T) {
	t.Parallel()
	r := start(t, quick, func(_ *Config, s *spans, _ *[]Check) { s.drain = time.Minute })
	all := []*streaming{r.follow(t, ""), r.follow(t, ""), r.follow(t, "")}
	for _, s := range all {
		s.next()
	}
	r.stop()
	for _, s := range all {
		s.ends()
	}
	select {
	case err := <-r.served:
		require.NoError(t, err)
	case <-time.After(20 * time.Second):
		require.FailNow(t, "the server waits for streams")
	}
	require.NotContains(t, r.logs.String(), "are cut")
}

func TestStreamsAreBounded(t *testing.T) {
	t.Parallel()
	r := start(t, quick)
	var last *streaming
	for range maxFollowersEach {
		last = r.follow(t, "")
		last.next()
	}
	got := r.send(t, http.MethodGet, readerToken+tokenFor(time.Hour), "", noKey)
	require.Equal(t, http.StatusServiceUnavailable, got.status)
	require.Equal(t, api.ProblemCodeUnavailable, got.problem(t).Code)
	require.NotEmpty(t, got.header.Get("Retry-After"))
	require.NoError(t, last.body.Close())
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		_, got, err := r.try(ctx, http.MethodGet, readerToken+tokenFor(time.Hour), "", noKey)
		return got.status == http.StatusOK && errors.Is(err, context.DeadlineExceeded)
	}, 10*time.Second, 20*time.Millisecond, "one that left makes room")
}

func TestAllStreamsOfAServerAreBounded(t *testing.T) {
	t.Parallel()
	f := newFollowers(nil, time.Second, nil)
	var some []*follower
	for n := range maxFollowers {
		one, err := f.join(fanfare.InboxPosition{Number: fanfare.SubscriberNumber(1 + n/maxFollowersEach)})
		require.NoError(t, err)
		some = append(some, one)
	}
	_, err := f.join(fanfare.InboxPosition{Number: 1 << 40})
	require.ErrorIs(t, err, errTooManyStreams)
	for _, one := range some {
		f.leave(one)
	}
	require.Zero(t, f.open)
	require.Empty(t, f.each)
}

// While the database is away streams stay open, and then tell what happened meanwhile.
func TestStreamWaitsForTheDatabase(t *testing.T) {
	t.Parallel()
	r := start(t, quick)
	s := r.follow(t, "")
	s.next()
	r.ledger.set(func() { r.ledger.fail = fanfare.ErrUnavailable })
	require.Eventually(t, func() bool { return strings.Contains(r.logs.String(), "streams wait until they can") }, 10*time.Second, time.Millisecond)
	r.ledger.post("meanwhile")
	r.ledger.set(func() { r.ledger.fail = nil })
	require.Equal(t, "meanwhile", s.item("1").Item.Title)
	require.Equal(t, 1, strings.Count(r.logs.String(), "streams wait until they can"))
}

// slowConnection takes so little at once before the deadline must be set anew.
type slowConnection struct {
	http.ResponseWriter
	left  int
	taken strings.Builder
}

func (s *slowConnection) SetWriteDeadline(time.Time) error { s.left = 32 << 10; return nil }
func (s *slowConnection) FlushError() error                { return nil }

func (s *slowConnection) Write(p []byte) (int, error) {
	n := min(len(p), s.left)
	s.left -= n
	s.taken.Write(p[:n])
	if n < len(p) {
		return n, os.ErrDeadlineExceeded
	}
	return n, nil
}

// A client that reads on is not cut, however long it takes for a large item: it would
// come back for the same item, and be cut again.
func TestStreamWaitsForAClientThatReadsOn(t *testing.T) {
	t.Parallel()
	slow := &slowConnection{}
	s := &stream{out: slow, control: http.NewResponseController(slow), patient: time.Second}
	large := strings.Repeat("long ", 1<<16)
	require.NoError(t, s.write(large))
	require.Equal(t, large, slow.taken.String())
}

// A client that does not read holds up nobody, is not read for meanwhile, and is cut.
func TestStreamOfASlowClientIsCut(t *testing.T) {
	t.Parallel()
	// Long enough for the client that does read, on a machine that is busy.
	r := start(t, quick, func(_ *Config, s *spans, _ *[]Check) { s.idle = 3 * time.Second })
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(r.base, "http://"))
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.(*net.TCPConn).SetReadBuffer(4<<10))
	_, err = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", readerToken+tokenFor(time.Hour))
	require.NoError(t, err)
	s := r.follow(t, "")
	s.next()
	large := strings.Repeat("long ", 1<<18)
	for i := range 6 { // more than the buffers of two sockets hold
		r.ledger.post(large)
		require.Len(t, s.item(fmt.Sprint(i+1)).Item.Title, len(large))
	}
	require.Eventually(t, func() bool { return strings.Contains(r.logs.String(), "client is gone") }, 30*time.Second, time.Millisecond)
}

func TestNobodyIsAskedForNobody(t *testing.T) {
	t.Parallel()
	r := start(t, quick)
	s := r.follow(t, "")
	s.next()
	asked := func() (n int) {
		r.ledger.set(func() { n = r.ledger.asked })
		return n
	}
	require.Eventually(t, func() bool { return asked() > 3 }, 10*time.Second, time.Millisecond)
	require.NoError(t, s.body.Close())
	before := -1
	require.Eventually(t, func() bool {
		was := before
		before = asked()
		return before == was
	}, 10*time.Second, 50*time.Millisecond)
}

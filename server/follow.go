package server

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/labstack/echo/v4"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/server/api"
)

// InboxFollower tells what happened in inboxes.
type InboxFollower interface {
	InboxNews(ctx context.Context, since []fanfare.InboxPosition) ([]fanfare.InboxNews, error)
}

const (
	// maxFollowers is how many streams a server has open at once. One was measured to
	// cost 37 KB of memory, and the questions for all of them a twenty-fifth of a core.
	maxFollowers = 10_000
	// maxFollowersEach is how many of them are one subscriber's: more open pages than
	// people have, and too few to keep the others out.
	maxFollowersEach = 20
	// pieceBytes is how much of a stream a client must take before it is held for gone: in
	// 30 s, less than the slowest mobile network carries.
	pieceBytes = 16 << 10
)

// followers are the open streams of this server. They learn of news by one query for all
// of them twice a second. To be told by the database would be quicker by a quarter of a
// second, and make the commits of all posts wait for each other.
//
// A stream is asked about only while it waits: one whose client reads slowly neither
// gathers news nor keeps the others waiting.
type followers struct {
	news  InboxFollower
	every time.Duration
	log   *slog.Logger

	mu      sync.Mutex
	open    int
	each    map[fanfare.SubscriberNumber]int
	waiting map[*follower]bool
	over    chan struct{} // closed when the server stops
	stopped bool
}

// follower is one stream. While it waits, at is not changed.
type follower struct {
	at   fanfare.InboxPosition
	news chan fanfare.InboxNews // has room for what was asked for
}

func newFollowers(news InboxFollower, every time.Duration, log *slog.Logger) *followers {
	return &followers{
		news: news, every: every, log: log, over: make(chan struct{}),
		each: map[fanfare.SubscriberNumber]int{}, waiting: map[*follower]bool{},
	}
}

// join counts a stream in, unless there are too many.
func (f *followers) join(at fanfare.InboxPosition) (*follower, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopped || f.open >= maxFollowers || f.each[at.Number] >= maxFollowersEach {
		return nil, errTooManyStreams
	}
	f.open++
	f.each[at.Number]++
	return &follower{at: at, news: make(chan fanfare.InboxNews, 1)}, nil
}

func (f *followers) leave(one *follower) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.waiting, one)
	f.open--
	if f.each[one.at.Number]--; f.each[one.at.Number] == 0 {
		delete(f.each, one.at.Number)
	}
}

// ask has the news behind one.at sent to one, once.
func (f *followers) ask(one *follower) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiting[one] = true
}

// run looks for news until ctx ends, and then ends all streams.
func (f *followers) run(ctx context.Context) {
	tick := time.NewTicker(f.every)
	defer tick.Stop()
	away := false
	for {
		select {
		case <-ctx.Done():
			f.mu.Lock()
			defer f.mu.Unlock()
			f.stopped = true
			close(f.over)
			return
		case <-tick.C:
		}
		err := f.look(ctx)
		if err != nil && !away && ctx.Err() == nil {
			f.log.Warn("inboxes cannot be read, streams wait until they can", "error", err)
		}
		away = err != nil
	}
}

// look asks once for all who wait.
func (f *followers) look(ctx context.Context) error {
	f.mu.Lock()
	asked, since := make([]*follower, 0, len(f.waiting)), make([]fanfare.InboxPosition, 0, len(f.waiting))
	for one := range f.waiting {
		asked, since = append(asked, one), append(since, one.at)
	}
	f.mu.Unlock()
	if len(asked) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 20*f.every)
	defer cancel()
	news, err := f.news.InboxNews(ctx, since)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range news {
		one := asked[n.Position]
		if f.waiting[one] {
			delete(f.waiting, one)
			one.news <- n
		}
	}
	return nil
}

// FollowInbox streams what happens in the subscriber's inbox until the client leaves, the
// token expires or the server stops.
func (i *inbox) FollowInbox(c echo.Context, params api.FollowInboxParams) error {
	me := tokenOf(c)
	inbox, err := i.whereItStands(c.Request().Context(), me.Number)
	if err != nil {
		return err
	}
	at := fanfare.InboxPosition{Number: me.Number, Seen: inbox.Change}
	for _, given := range []*int64{params.LastEventId, params.LastEventID} { // what the browser says is newer than the address
		if given != nil {
			at.Seen = fanfare.InboxChange(*given)
		}
	}
	if at.Seen > inbox.Change {
		at.Seen = 0 // unknown, and must stay so when the inbox gets that far
	}
	one, err := i.followers.join(at)
	if err != nil {
		return err
	}
	defer i.followers.leave(one)
	s := i.open(c)
	if isHead(c) {
		return nil
	}
	err = s.write(comeBack())
	if err == nil {
		err = s.send(at.Seen, "unread", map[string]int64{"unread": inbox.Unread})
	}
	if err == nil {
		ctx, cancel := context.WithTimeout(c.Request().Context(), me.Expires.Sub(i.now()))
		defer cancel()
		err = i.followers.keepTelling(ctx, one, s, i.spans.beat)
	}
	if err != nil {
		i.followers.log.Debug("a stream's client is gone", "request_id", requestID(c), "error", err)
	}
	return nil
}

// whereItStands takes no longer than other requests may.
func (i *inbox) whereItStands(ctx context.Context, number fanfare.SubscriberNumber) (fanfare.Inbox, error) {
	ctx, cancel := context.WithTimeout(ctx, i.spans.request)
	defer cancel()
	return i.reader.Inbox(ctx, fanfare.InboxQuery{Number: number, Limit: 1})
}

// keepTelling writes the news of one to s until ctx or the server ends.
func (f *followers) keepTelling(ctx context.Context, one *follower, s *stream, every time.Duration) error {
	beat := time.NewTicker(every)
	defer beat.Stop()
	f.ask(one)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.over:
			return nil
		case <-beat.C:
			if err := s.write(": still here\n\n"); err != nil {
				return err
			}
		case news := <-one.news:
			if err := s.tell(news); err != nil || news.Closed {
				return err
			}
			one.at.Seen = news.Seen
			f.ask(one)
		}
	}
}

// stream writes server-sent events.
type stream struct {
	out     io.Writer
	control *http.ResponseController
	patient time.Duration // how long a client may take for one piece
}

// open answers a request with a stream.
func (i *inbox) open(c echo.Context) *stream {
	control := http.NewResponseController(c.Response())
	// The server reads on to see the client leave; the deadline of the request would look
	// like that.
	_ = control.SetReadDeadline(time.Time{})
	header := c.Response().Header()
	header.Set(echo.HeaderContentType, "text/event-stream")
	header.Set(echo.HeaderCacheControl, "no-store")
	header.Set("X-Accel-Buffering", "no") // nginx gathers answers otherwise
	c.Response().WriteHeader(http.StatusOK)
	return &stream{out: c.Response(), control: control, patient: i.spans.idle}
}

// write gives each piece its time: a client that was cut in a large item would come back
// for the same item, and be cut again.
func (s *stream) write(text string) error {
	for len(text) > 0 {
		piece := text[:min(len(text), pieceBytes)]
		text = text[len(piece):]
		_ = s.control.SetWriteDeadline(time.Now().Add(s.patient))
		if _, err := io.WriteString(s.out, piece); err != nil {
			return err
		}
	}
	return s.control.Flush()
}

func (s *stream) send(id fanfare.InboxChange, event string, data any) error {
	text, err := json.Marshal(data)
	if err != nil {
		return err
	}
	return s.write(fmt.Sprintf("id: %d\nevent: %s\ndata: %s\n\n", id, event, text))
}

func (s *stream) tell(news fanfare.InboxNews) error {
	for _, c := range news.Changes {
		if err := s.send(c.Change, "item", api.InboxChange{Item: c.Item, Unread: news.Unread}); err != nil {
			return err
		}
	}
	return nil
}

// comeBack spreads those who come back after a restart over some seconds.
func comeBack() string {
	return fmt.Sprintf("retry: %d\n\n", 1000+rand.IntN(3000)) //nolint:gosec // nothing to be kept secret
}

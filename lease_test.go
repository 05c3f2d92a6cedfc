package fanfare

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"
)

// These tests stand inside the package to end a lease at an exact point of a
// request, which no clock could do: they set its spans to zero.

func testLease() *Lease { return NewLease("call-1", time.Now(), time.Hour, time.Hour) }

func lapse(l *Lease) { l.begin, l.until = 0, 0 }

func TestLeaseTimes(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, tc := range map[string]struct {
		start        time.Time
		begin, until time.Duration
		mayBegin     bool
		mayContinue  bool
	}{
		"fresh":                        {now, time.Hour, 2 * time.Hour, true, true},
		"begun":                        {now.Add(-90 * time.Minute), time.Hour, 2 * time.Hour, false, true},
		"over":                         {now.Add(-3 * time.Hour), time.Hour, 2 * time.Hour, false, false},
		"no time at all":               {now, 0, 0, false, false},
		"clock set back a little":      {now.Add(500 * time.Millisecond), time.Hour, 2 * time.Hour, true, true},
		"clock set back":               {now.Add(time.Minute), time.Hour, 2 * time.Hour, false, false},
		"wall clock only, over":        {now.Add(-3 * time.Hour).Round(0), time.Hour, 2 * time.Hour, false, false},
		"wall clock only, and in time": {now.Round(0), time.Hour, 2 * time.Hour, true, true},
	} {
		l := NewLease("call-1", tc.start, tc.begin, tc.until)
		require.Equal(t, tc.mayBegin, l.MayBegin() == nil, name)
		require.Equal(t, tc.mayContinue, l.mayContinue() == nil, name)
		if !tc.mayBegin {
			require.ErrorIs(t, l.MayBegin(), ErrTooLate, name)
		}
		require.True(t, l.Deadline().Equal(tc.start.Add(tc.until)), name)
	}
}

// wire is a server that writes down every byte and answers whole requests.
type wire struct {
	net.Listener
	conns atomic.Int64
	ended chan []byte // what one connection brought, when it has ended
}

func newWire(t *testing.T) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	w := &wire{Listener: l, ended: make(chan []byte, 8)}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			w.conns.Add(1)
			go w.serve(conn)
		}
	}()
	return w
}

func (w *wire) serve(conn net.Conn) {
	defer conn.Close()
	var got bytes.Buffer
	buf := make([]byte, 4096)
	for {
		n, err := conn.Read(buf)
		got.Write(buf[:n])
		if err != nil {
			w.ended <- got.Bytes()
			return
		}
		if strings.HasSuffix(got.String(), "the end") {
			_, _ = io.WriteString(conn, "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
		}
	}
}

func (w *wire) url() string { return "http://" + w.Addr().String() }

func transport(t *testing.T) *http.Transport {
	t.Helper()
	base := &http.Transport{}
	t.Cleanup(base.CloseIdleConnections)
	return base
}

func post(ctx context.Context, t *testing.T, url string, header int) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader("beginning and the end"))
	require.NoError(t, err)
	if header > 0 {
		r.Header.Set("X-Long", strings.Repeat("x", header))
	}
	return r
}

func do(t *testing.T, base http.RoundTripper, r *http.Request) error {
	t.Helper()
	answer, err := GatedTransport{Base: base}.RoundTrip(r)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, answer.Body)
	require.NoError(t, err)
	require.NoError(t, answer.Body.Close())
	require.Equal(t, http.StatusAccepted, answer.StatusCode)
	return nil
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

type closing struct {
	io.Reader
	closed bool
}

func (c *closing) Close() error { c.closed = true; return nil }

func TestGateRefusesAtTheDoor(t *testing.T) {
	t.Parallel()
	l := testLease()
	lapse(l)
	body := &closing{Reader: strings.NewReader("x")}
	r := post(WithLease(t.Context(), l), t, "http://nowhere.example", 0)
	r.Body = body
	_, err := GatedTransport{Base: roundTrip(func(*http.Request) (*http.Response, error) {
		return nil, errors.New("must not be asked")
	})}.RoundTrip(r)
	require.ErrorIs(t, err, ErrTooLate)
	require.ErrorContains(t, err, "call-1")
	require.True(t, body.closed)
	require.False(t, l.Written())
}

// Waiting for a connection can take longer than the lease lasts.
func TestGateWritesNothingOnceTheLeaseHasRunOut(t *testing.T) {
	t.Parallel()
	for name, header := range map[string]int{"small headers": 0, "headers over the transport's buffer": 64 << 10} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, base, l := newWire(t), transport(t), testLease()
			ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GetConn: func(string) { lapse(l) }})
			err := do(t, base, post(WithLease(ctx, l), t, w.url(), header))
			require.ErrorIs(t, err, ErrTooLate)
			require.False(t, l.Written())
			require.Empty(t, <-w.ended)
		})
		t.Run(name+", on a connection that was idle", func(t *testing.T) {
			t.Parallel()
			w, base, l := newWire(t), transport(t), testLease()
			require.NoError(t, do(t, base, post(WithLease(t.Context(), testLease()), t, w.url(), 0)))
			ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GetConn: func(string) { lapse(l) }})
			err := do(t, base, post(WithLease(ctx, l), t, w.url(), header))
			require.ErrorIs(t, err, ErrTooLate)
			require.False(t, l.Written())
			require.Equal(t, 1, strings.Count(string(<-w.ended), "POST "), "the first request, and nothing of the second")
			require.EqualValues(t, 1, w.conns.Load(), "a refused request must not try again elsewhere")
		})
	}
}

// The one window left: a machine that stalls between the connection and the
// write. Headers go out, alone, whatever their size, and the body never follows.
func TestGateKeepsTheBodyBack(t *testing.T) {
	t.Parallel()
	for name, header := range map[string]int{"small headers": 0, "headers over the transport's buffer": 64 << 10} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, base, l := newWire(t), transport(t), testLease()
			ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{WroteHeaders: func() { lapse(l) }})
			err := do(t, base, post(WithLease(ctx, l), t, w.url(), header))
			require.ErrorIs(t, err, ErrTooLate)
			require.False(t, l.Written())
			got := string(<-w.ended)
			require.Truef(t, got == "" || strings.HasSuffix(got, "\r\n\r\n"), "%d bytes, and not headers only", len(got))
			require.NotContains(t, got, "beginning")
			require.Greater(t, len(got), header, "what this test is about did not happen")
		})
	}
}

// counting is a provider of the usual kind: it reads a request whole and then
// acts. It is careless, too: a request that was cut it answers with 200.
type counting struct {
	arrived, cut, acted atomic.Int64
	peer                atomic.Value
}

func (c *counting) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.arrived.Add(1)
	c.peer.Store(r.Proto + " " + r.RemoteAddr)
	if _, err := io.ReadAll(r.Body); err != nil {
		c.cut.Add(1)
		return
	}
	c.acted.Add(1)
	w.WriteHeader(http.StatusAccepted)
}

func TestGateAgainstRealServers(t *testing.T) {
	t.Parallel()
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		start := func(t *testing.T) (*counting, string, *http.Transport) {
			t.Helper()
			c := &counting{}
			s := httptest.NewUnstartedServer(c)
			s.EnableHTTP2 = proto == "HTTP/2.0"
			s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
			s.StartTLS()
			t.Cleanup(s.Close)
			base := s.Client().Transport.(*http.Transport)
			require.NoError(t, do(t, base, post(WithLease(t.Context(), testLease()), t, s.URL, 0)))
			require.Contains(t, c.peer.Load(), proto)
			return c, s.URL, base
		}
		t.Run(proto+", too late when connected", func(t *testing.T) {
			t.Parallel()
			c, url, base := start(t)
			peer := c.peer.Load()
			for _, header := range []int{0, 64 << 10} {
				l := testLease()
				ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GetConn: func(string) { lapse(l) }})
				require.ErrorIs(t, do(t, base, post(WithLease(ctx, l), t, url, header)), ErrTooLate)
				require.False(t, l.Written())
			}
			require.NoError(t, do(t, base, post(WithLease(t.Context(), testLease()), t, url, 0)))
			require.EqualValues(t, 2, c.arrived.Load(), "the first and the last request, and nothing between")
			if proto == "HTTP/2.0" {
				require.Equal(t, peer, c.peer.Load(), "others share the connection: it must stay open")
			}
		})
		t.Run(proto+", too late for the body", func(t *testing.T) {
			t.Parallel()
			c, url, base := start(t)
			l := testLease()
			ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{WroteHeaders: func() { lapse(l) }})
			require.ErrorIs(t, do(t, base, post(WithLease(ctx, l), t, url, 0)), ErrTooLate)
			require.False(t, l.Written())
			require.Eventually(t, func() bool { return c.cut.Load() == c.arrived.Load()-1 }, 10*time.Second, time.Millisecond)
			require.EqualValues(t, 1, c.acted.Load(), "the provider must not act on headers alone")
		})
	}
}

// brokenOnce is a connection that fails to write once, with nothing written.
type brokenOnce struct {
	net.Conn
	broken *atomic.Bool
}

func (c brokenOnce) Write(p []byte) (int, error) {
	if c.broken.CompareAndSwap(true, false) {
		return 0, net.ErrClosed
	}
	return c.Conn.Write(p)
}

// The transport sends again, by itself, what it could not write on a connection
// that had been idle.
func TestGateHoldsWhenTheTransportTriesAgain(t *testing.T) {
	t.Parallel()
	for name, late := range map[string]bool{"in time": false, "too late by then": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, base, broken := newWire(t), transport(t), &atomic.Bool{}
			base.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
				return brokenOnce{conn, broken}, err
			}
			require.NoError(t, do(t, base, post(WithLease(t.Context(), testLease()), t, w.url(), 0)))
			broken.Store(true)
			l, tries := testLease(), 0
			ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GetConn: func(string) {
				if tries++; tries == 2 && late {
					lapse(l)
				}
			}})
			err := do(t, base, post(WithLease(ctx, l), t, w.url(), 0))
			require.Equal(t, 2, tries)
			base.CloseIdleConnections()
			got := string(<-w.ended) + string(<-w.ended) // two connections, ended in either order
			if late {
				require.ErrorIs(t, err, ErrTooLate)
				require.Equal(t, 1, strings.Count(got, "POST "), "the first request only")
				require.False(t, l.Written())
				return
			}
			require.NoError(t, err)
			require.Equal(t, 2, strings.Count(got, "beginning and the end"))
			require.True(t, l.Written())
		})
	}
}

// reads hands the gated request to f in place of a network, which then answers.
func reads(t *testing.T, l *Lease, r *http.Request, f func(r *http.Request)) error {
	t.Helper()
	return do(t, roundTrip(func(r *http.Request) (*http.Response, error) {
		f(r)
		return &http.Response{StatusCode: http.StatusAccepted, Body: http.NoBody}, nil
	}), r.WithContext(WithLease(r.Context(), l)))
}

func TestWrittenMeansTheWholeBody(t *testing.T) {
	t.Parallel()
	l := testLease()
	err := reads(t, l, post(t.Context(), t, "http://nowhere.example", 0), func(r *http.Request) {
		body := iotest.OneByteReader(r.Body)
		for range r.ContentLength - 1 {
			_, err := body.Read(make([]byte, 8))
			require.NoError(t, err)
			require.False(t, l.Written())
		}
		_, err := body.Read(make([]byte, 8))
		require.NoError(t, err)
		require.True(t, l.Written(), "the last byte may leave as soon as it was read")
	})
	require.NoError(t, err)
}

// A call of several requests has to know of each whether it was written.
func TestWrittenOfAPart(t *testing.T) {
	t.Parallel()
	call := testLease()
	first, second := call.Part(), call.Part()
	require.Equal(t, call.Call, first.Call)
	require.True(t, first.Deadline().Equal(call.Deadline()))
	err := reads(t, first, post(t.Context(), t, "http://nowhere.example", 0), func(r *http.Request) {
		_, err := io.ReadAll(r.Body)
		require.NoError(t, err)
	})
	require.NoError(t, err)
	require.True(t, first.Written())
	require.True(t, call.Written(), "something of the call was")
	require.False(t, second.Written())
	require.False(t, call.Part().Written(), "a new request is not")
}

func TestPartHasTheTimesOfItsCall(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		begin, until time.Duration
	}{"fresh": {time.Hour, time.Hour}, "begun": {0, time.Hour}, "over": {0, 0}} {
		call := NewLease("call-1", time.Now(), tc.begin, tc.until)
		require.Equal(t, call.MayBegin() == nil, call.Part().MayBegin() == nil, name)
		require.Equal(t, call.mayContinue() == nil, call.Part().mayContinue() == nil, name)
	}
}

// Of a body of unknown length any byte may be the last.
func TestWrittenOfUnknownLength(t *testing.T) {
	t.Parallel()
	for _, length := range []int64{-1, 0} { // to a client, 0 beside a body means unknown too
		l := testLease()
		r := post(t.Context(), t, "http://nowhere.example", 0)
		r.ContentLength = length
		err := reads(t, l, r, func(r *http.Request) {
			require.False(t, l.Written())
			_, err := r.Body.Read(make([]byte, 1))
			require.NoError(t, err)
			require.True(t, l.Written())
		})
		require.NoError(t, err)
	}
}

func TestGateCutsABodyAtTheEndOfTheLease(t *testing.T) {
	t.Parallel()
	l := testLease()
	err := reads(t, l, post(t.Context(), t, "http://nowhere.example", 0), func(r *http.Request) {
		_, err := r.Body.Read(make([]byte, 4))
		require.NoError(t, err)
		l.begin = 0
		_, err = r.Body.Read(make([]byte, 4))
		require.NoError(t, err, "what has begun in time may go on")
		l.until = 0
		_, err = r.Body.Read(make([]byte, 64))
		require.ErrorIs(t, err, ErrTooLate)
		require.ErrorIs(t, context.Cause(r.Context()), ErrTooLate)
		require.False(t, l.Written())
	})
	require.ErrorIs(t, err, ErrTooLate, "whatever was answered")
}

func TestGateChecksARepeatedBody(t *testing.T) {
	t.Parallel()
	l := testLease()
	err := reads(t, l, post(t.Context(), t, "http://nowhere.example", 0), func(r *http.Request) {
		_, err := io.ReadAll(r.Body)
		require.NoError(t, err)
		lapse(l)
		again, err := r.GetBody()
		require.NoError(t, err)
		_, err = again.Read(make([]byte, 64))
		require.ErrorIs(t, err, ErrTooLate)
		require.True(t, l.Written(), "the first try was")
	})
	require.ErrorIs(t, err, ErrTooLate)
}

func TestGateLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	l := testLease()
	lapse(l)
	empty, err := http.NewRequestWithContext(WithLease(t.Context(), l), http.MethodPost, "http://nowhere.example", http.NoBody)
	require.NoError(t, err)
	for name, r := range map[string]*http.Request{
		"no lease": post(t.Context(), t, "http://nowhere.example", 0),
		"no body":  empty,
	} {
		_, err := GatedTransport{Base: roundTrip(func(got *http.Request) (*http.Response, error) {
			require.Same(t, r, got, name)
			return &http.Response{}, nil
		})}.RoundTrip(r)
		require.NoError(t, err)
	}
}

// Errors that are not the gate's come out as they went in.
func TestGatePassesErrorsOn(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	r := post(WithLease(t.Context(), testLease()), t, "http://nowhere.example", 0)
	_, err := GatedTransport{Base: roundTrip(func(*http.Request) (*http.Response, error) { return nil, broken })}.RoundTrip(r)
	require.Same(t, broken, err)
}

// resetter speaks as much HTTP/2 as it takes to have a request whole, and then says that
// it broke the protocol, which net/http takes for leave to send it again.
type resetter struct {
	net.Listener
	whole atomic.Int64
}

func (s *resetter) serve(conn net.Conn) {
	defer conn.Close()
	// The client's preface, then our settings: length, type 4, flags, stream.
	_, _ = io.CopyN(io.Discard, conn, int64(len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")))
	_, _ = conn.Write([]byte{0, 0, 0, 4, 0, 0, 0, 0, 0})
	for {
		var header [9]byte
		if _, err := io.ReadFull(conn, header[:]); err != nil {
			return
		}
		_, _ = io.CopyN(io.Discard, conn, int64(header[0])<<16|int64(header[1])<<8|int64(header[2]))
		switch kind, flags := header[3], header[4]; {
		case kind == 4 && flags == 0: // settings, to be acknowledged
			_, _ = conn.Write([]byte{0, 0, 0, 4, 1, 0, 0, 0, 0})
		case kind == 0 && flags&1 != 0: // the end of the body
			s.whole.Add(1)
			reset := append([]byte{0, 0, 4, 3, 0}, header[5:9]...)
			_, _ = conn.Write(append(reset, 0, 0, 0, 1))
		}
	}
}

// Left alone, net/http sends a request hundreds of times that a server takes whole and
// then resets so. Once more it must send: that is how a server refuses what it did not
// look at, because it is about to close the connection.
func TestGateBoundsWhatHTTP2SendsAgain(t *testing.T) {
	t.Parallel()
	known := httptest.NewUnstartedServer(nil)
	known.StartTLS()
	t.Cleanup(known.Close)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: known.TLS.Certificates, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12})
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	s := &resetter{Listener: l}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go s.serve(conn)
		}
	}()
	base := known.Client().Transport.(*http.Transport).Clone()
	base.ForceAttemptHTTP2 = true
	t.Cleanup(base.CloseIdleConnections)
	lease := NewLease("call-1", time.Now(), 5*time.Second, time.Hour)
	err = do(t, base, post(WithLease(t.Context(), lease), t, "https://"+l.Addr().String(), 0))
	require.Error(t, err)
	require.NotErrorIs(t, err, ErrTooLate)
	require.True(t, lease.Written())
	require.EqualValues(t, 2, s.whole.Load(), "requests that the provider has whole")
}

package smtp

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http/httptest"
	"net/textproto"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare"
)

// Scripted ends of a conversation, in place of an answer.
const (
	hang = "hang" // says nothing and waits for the other end to close
	cut  = "cut"  // closes at once; as the last line of an answer, behind it
)

// fakeRelay speaks just enough SMTP, and says at each step what the script says:
// an answer, hang or cut; "" is the answer that lets the conversation go on.
// Steps are CONNECT, EHLO, STARTTLS, AUTH, MAIL, RCPT, DATA, BODY (in the middle
// of the message), DOT, and whatever else a client says.
type fakeRelay struct {
	script func(connection int, step string) string
	// delay is waited before the answer to AUTH.
	delay time.Duration
	// whole hears of a mail that is there with its dot; nil is deaf.
	whole func(connection int, mail receivedMail)
	tls   *tls.Config

	mu          sync.Mutex
	connections int
	open        int
	lines       []string // commands
	mails       []receivedMail
	overTLS     []bool // for each mail
}

type receivedMail struct{ from, to, data string }

func (r *fakeRelay) heard() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.lines...)
}

func (r *fakeRelay) received() []receivedMail {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]receivedMail(nil), r.mails...)
}

// counted are the connections made so far, and those open now.
func (r *fakeRelay) counted() (made, open int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.connections, r.open
}

// session is one connection at the relay's end.
type session struct {
	*fakeRelay
	n      int
	conn   net.Conn
	text   *textproto.Reader
	secure bool
	from   string
	to     string
}

func (r *fakeRelay) serve(conn net.Conn) {
	r.mu.Lock()
	r.connections++
	r.open++
	s := &session{fakeRelay: r, n: r.connections, conn: conn}
	r.mu.Unlock()
	defer func() {
		_ = conn.Close()
		r.mu.Lock()
		r.open--
		r.mu.Unlock()
	}()
	s.text = textproto.NewReader(bufio.NewReader(conn))
	if !s.say("CONNECT", "220 relay.example ESMTP") {
		return
	}
	for {
		line, err := s.text.ReadLine()
		if err != nil || !s.command(line) {
			return
		}
	}
}

// say answers a step; false ends the connection.
func (s *session) say(step, usual string) bool {
	answer := usual
	if s.script != nil {
		if scripted := s.script(s.n, step); scripted != "" {
			answer = scripted
		}
	}
	switch answer {
	case hang:
		_, _ = io.Copy(io.Discard, s.conn)
		return false
	case cut:
		return false
	}
	answer, ends := strings.CutSuffix(answer, "\n"+cut)
	if _, err := io.WriteString(s.conn, strings.ReplaceAll(answer, "\n", "\r\n")+"\r\n"); err != nil {
		return false
	}
	return !ends && !strings.HasPrefix(answer, "421") // which closes
}

func (s *session) command(line string) bool {
	s.mu.Lock()
	s.lines = append(s.lines, line)
	s.mu.Unlock()
	verb, rest, _ := strings.Cut(line, " ")
	switch strings.ToUpper(verb) {
	case "EHLO":
		return s.say("EHLO", s.extensions())
	case "STARTTLS":
		return s.startTLS()
	case "AUTH":
		pass(s.delay)
		return s.say("AUTH", "235 2.7.0 welcome")
	case "MAIL":
		s.from = rest
		return s.say("MAIL", "250 2.1.0 Ok")
	case "RCPT":
		s.to = rest
		return s.say("RCPT", "250 2.1.5 Ok")
	case "DATA":
		return s.data()
	case "QUIT":
		s.say("QUIT", "221 2.0.0 Bye")
		return false
	}
	return s.say(strings.ToUpper(verb), "250 2.0.0 Ok")
}

func (s *session) extensions() string {
	lines := []string{"relay.example", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "AUTH LOGIN PLAIN"}
	if s.tls != nil && !s.secure {
		lines = []string{"relay.example", "STARTTLS"}
	}
	last := len(lines) - 1
	var answer strings.Builder
	for _, line := range lines[:last] {
		answer.WriteString("250-" + line + "\n")
	}
	return answer.String() + "250 " + lines[last]
}

func (s *session) startTLS() bool {
	const usual = "220 2.0.0 Go on"
	if s.script != nil {
		if scripted := s.script(s.n, "STARTTLS"); scripted != "" {
			return s.say("STARTTLS", usual)
		}
	}
	if !s.say("STARTTLS", usual) {
		return false
	}
	secure := tls.Server(s.conn, s.tls)
	if secure.Handshake() != nil {
		return false
	}
	s.conn, s.secure = secure, true
	s.text = textproto.NewReader(bufio.NewReader(secure))
	return true
}

func (s *session) data() bool {
	const usual = "354 End with a dot"
	if s.script != nil && s.script(s.n, "DATA") != "" {
		return s.say("DATA", usual)
	}
	if !s.say("DATA", usual) {
		return false
	}
	if s.script != nil && s.script(s.n, "BODY") != "" {
		return s.interrupt()
	}
	body, err := s.text.ReadDotBytes()
	if err != nil {
		return false
	}
	s.mu.Lock()
	mail := receivedMail{s.from, s.to, string(body)}
	s.mails = append(s.mails, mail)
	s.overTLS = append(s.overTLS, s.secure)
	s.mu.Unlock()
	if s.whole != nil {
		s.whole(s.n, mail)
	}
	return s.say("DOT", "250 2.0.0 Ok: queued as 4XkQ2b0Zz1z9rT")
}

// trickle is how often a relay takes a byte that hangs in a message.
const trickle = time.Second

// interrupt does as the script says in the middle of a message, and ends.
func (s *session) interrupt() bool {
	if s.script(s.n, "BODY") != hang {
		s.say("BODY", "")
		return false
	}
	for one := make([]byte, 1); ; {
		if _, err := s.conn.Read(one); err != nil {
			return false
		}
		pass(trickle)
	}
}

// dial connects to the relay in memory, so that a test can run in virtual time.
func (r *fakeRelay) dial(_ context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	go r.serve(theirs)
	return ours, nil
}

// listen serves the relay on this machine's network and returns its address.
func (r *fakeRelay) listen(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var serving sync.WaitGroup
	serving.Go(func() { r.accept(listener) })
	t.Cleanup(func() {
		_ = listener.Close()
		serving.Wait()
	})
	return listener.Addr().String()
}

// accept serves connections until the listener is closed.
func (r *fakeRelay) accept(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		if narrow, ok := conn.(*net.TCPConn); ok {
			_ = narrow.SetReadBuffer(1 << 12)
		}
		go r.serve(conn)
	}
}

// at is a script of one answer at one step, on every connection.
func at(step, answer string) func(int, string) string {
	return func(_ int, now string) string {
		if now == step {
			return answer
		}
		return ""
	}
}

// certificate makes the relay one whose certificate s takes; it is for
// 127.0.0.1 and example.com.
func (r *fakeRelay) certificate(t *testing.T) *x509.CertPool {
	t.Helper()
	server := httptest.NewTLSServer(nil)
	t.Cleanup(server.Close)
	r.tls = &tls.Config{Certificates: server.TLS.Certificates, MinVersion: tls.VersionTLS12}
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	return roots
}

// sending makes a sender that reaches r in memory.
func (r *fakeRelay) sending(t *testing.T, url fanfare.Secret) *Sender {
	t.Helper()
	s, err := New(Config{URL: url, From: "The Slow Coast <news@blog.example>", Dial: r.dial})
	require.NoError(t, err)
	return s
}

package smtp

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	gosmtp "github.com/wneessen/go-mail/smtp"
)

const (
	// keepFor is how long an unused connection is kept. Relays cut them after 30 s
	// to 5 min (RFC 5321, 4.5.3.2.7 asks for 5 min); whoever closes first knows.
	keepFor = 30 * time.Second
	// partFor bounds saying goodbye.
	partFor = time.Second
)

var (
	errNoTLS  = errors.New("it offers no STARTTLS: use smtps://, or ?tls=none for a relay on the same machine, in SMTP_URL")
	errNoAuth = errors.New("it offers neither AUTH PLAIN nor AUTH LOGIN: take user and password out of SMTP_URL, or use another port")
)

// conn is a connection to the relay on which a message may be begun.
type conn struct {
	raw    net.Conn
	client *gosmtp.Client
	lapse  *time.Timer // while it is kept
}

// connect reaches the relay, greets it and signs in. An error comes with the step
// at which it happened. Nothing of it outlives ctx.
func (s *Sender) connect(ctx context.Context) (*conn, step, error) {
	raw, err := s.dial(ctx, "tcp", s.relay.address)
	if err != nil {
		return nil, atConnect, err
	}
	stop := endWith(ctx, raw)
	client, at, err := s.greet(ctx, raw)
	if !stop() && err == nil {
		at, err = atHello, ctx.Err()
	}
	if err != nil {
		_ = raw.Close() // the TLS layer would first wait for the relay
		return nil, at, err
	}
	return &conn{raw: raw, client: client}, 0, nil
}

// endWith closes raw when ctx ends, which ends whatever waits for it. stop
// reports whether raw is still whole, and it is then left alone.
func endWith(ctx context.Context, raw net.Conn) (stop func() bool) {
	return context.AfterFunc(ctx, func() { _ = raw.Close() })
}

func (s *Sender) greet(ctx context.Context, raw net.Conn) (*gosmtp.Client, step, error) {
	if s.relay.security == implicitTLS {
		secure := tls.Client(raw, s.tls)
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, atTLS, err
		}
		raw = secure
	}
	client, err := gosmtp.NewClient(raw, s.relay.host)
	if err != nil {
		return nil, atGreeting, err
	}
	if err := client.Hello(s.hello); err != nil {
		return nil, atHello, err
	}
	if s.relay.security == startTLS {
		if offered, _ := client.Extension("STARTTLS"); !offered {
			return nil, atTLS, errNoTLS
		}
		if err := client.StartTLS(s.tls); err != nil {
			return nil, atTLS, err
		}
	}
	if s.relay.auth == nil {
		return client, 0, nil
	}
	_, offered := client.Extension("AUTH")
	auth := s.relay.auth(offered)
	if auth == nil {
		return nil, atAuth, errNoAuth
	}
	return client, atAuth, client.Auth(auth)
}

// part says goodbye without waiting for the answer, and closes.
func (c *conn) part() {
	_ = c.raw.SetDeadline(time.Now().Add(partFor))
	_ = c.client.Text.PrintfLine("QUIT")
	_ = c.raw.Close()
}

// pool keeps connections between calls. The zero value is empty.
type pool struct {
	mu   sync.Mutex
	idle []*conn
}

// put keeps c for the next call, for keepFor at most.
func (p *pool) put(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle = append(p.idle, c)
	c.lapse = time.AfterFunc(keepFor, func() {
		if p.remove(c) {
			c.part()
		}
	})
}

// take returns the connection that was used last, or nil.
func (p *pool) take() *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) == 0 {
		return nil
	}
	c := p.idle[len(p.idle)-1]
	p.idle = p.idle[:len(p.idle)-1]
	c.lapse.Stop()
	return c
}

// remove reports whether c was there to be removed.
func (p *pool) remove(c *conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.Index(p.idle, c)
	if i >= 0 {
		p.idle = slices.Delete(p.idle, i, i+1)
	}
	return i >= 0
}

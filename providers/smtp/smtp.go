// Package smtp sends email through a relay that speaks SMTP, and is the only
// importer of go-mail.
//
// It owns the conversation with the relay, the shape of a message and the
// meaning of an answer. It never decides who is sent to and never sends a
// message again; the one thing it repeats is to connect, when a connection it
// had kept turns out to be closed before the relay took anything.
//
// It promises:
//
//  1. A call is one message to one recipient: SMTP has one answer for a message,
//     and each recipient has an unsubscribe link of their own.
//  2. The lease is checked after connecting, greeting and signing in, immediately
//     before MAIL FROM is written. The whole conversation ends with the context.
//  3. Every end of a call is one fanfare.OutcomeKind. Until the line with the dot
//     that ends a message is written the relay cannot have accepted it. From then
//     on only an answer tells; without one the call is ambiguous.
//  4. What it says about a call holds no address and no content: of what the relay
//     says it keeps the codes, and the queue id.
//
// Of go-mail it uses the message writer and the package smtp, whose steps are
// explicit. mail.Client is not used: it connects, sends and resets by deadlines
// of its own, its errors quote the relay and the recipient, and neither tells
// whether the dot was written.
package smtp

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/mail"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode"

	gosmtp "github.com/wneessen/go-mail/smtp"

	"github.com/fanfare-dev/fanfare"
)

// maxConnections is how many connections a sender has open at once; a call beyond
// them waits for one as long as its lease lets it. Postfix takes 50 from one
// client (smtpd_client_connection_count_limit), so two workers fit.
const maxConnections = 20

// Config is what a relay needs to know of us, and we of it.
type Config struct {
	// Name is the provider's name in records and in front of its codes; empty is
	// "smtp".
	Name string
	// URL is smtp://user:password@host:587 (STARTTLS, always), smtps:// (port 465,
	// TLS from the first byte) or smtp://host:25?tls=none for a relay on the same
	// machine. Without user and password nobody signs in.
	URL fanfare.Secret
	// From is the sender: an address, or "Name <address>".
	From string
	// Dial opens connections; nil is the network's.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Log hears of connections; nil keeps silent.
	Log *slog.Logger
}

// Sender sends email through one relay. It is safe for concurrent use.
type Sender struct {
	name   string
	from   *mail.Address
	hello  string // who we say we are
	relay  relay
	tls    *tls.Config
	dial   func(ctx context.Context, network, address string) (net.Conn, error)
	log    *slog.Logger
	places chan struct{} // one for each connection that may be in use
	kept   pool
}

// New checks the settings and makes a sender; it does not connect. The error
// matches fanfare.ErrInvalid, names every bad setting and quotes none.
func New(c Config) (*Sender, error) {
	var wrong []fanfare.Violation
	to, why := readURL(c.URL)
	if why != "" {
		wrong = append(wrong, fanfare.Violation{Field: "SMTP_URL", Detail: why})
	}
	from, why := sender(c.From)
	if why != "" {
		wrong = append(wrong, fanfare.Violation{Field: "SMTP_FROM", Detail: why})
	}
	if len(wrong) > 0 {
		return nil, fmt.Errorf("configure smtp: %w", &fanfare.InvalidError{Violations: wrong})
	}
	hello, err := os.Hostname()
	if err != nil {
		hello = "localhost"
	}
	s := &Sender{
		name: c.Name, from: from, hello: hello, relay: to,
		tls:    &tls.Config{ServerName: to.host, MinVersion: tls.VersionTLS12},
		dial:   c.Dial,
		log:    c.Log,
		places: make(chan struct{}, maxConnections),
	}
	if s.name == "" {
		s.name = "smtp"
	}
	if s.dial == nil {
		s.dial = new(net.Dialer).DialContext
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s, nil
}

// Name is the provider's name in records and in front of its codes.
func (s *Sender) Name() string { return s.name }

// MaxRecipients is how many recipients one call may have.
func (s *Sender) MaxRecipients() int { return 1 }

// security is how a connection is encrypted.
type security int

const (
	startTLS security = iota
	implicitTLS
	plain
)

// relay is a URL that was read.
type relay struct {
	host     string
	address  string // host and port
	security security
	// auth chooses among the mechanisms that a relay offers; nil when there is
	// nothing to sign in with. User and password live in the closure, where not even
	// %+v of a Sender finds them.
	auth func(offered string) gosmtp.Auth
}

func readURL(raw fanfare.Secret) (r relay, why string) {
	const form = "must be smtp:// or smtps://, then user:password@ or nothing, host and port; signs such as @ / # % in user and password are written as %40 %2F %23 %25"
	u, err := url.Parse(string(raw))
	if err != nil || u.Hostname() == "" || u.Path != "" && u.Path != "/" || u.Fragment != "" {
		return relay{}, form
	}
	var port string
	switch {
	case u.Scheme == "smtp" && u.RawQuery == "tls=none":
		r.security, port = plain, "25"
	case u.RawQuery != "":
		return relay{}, "may end in ?tls=none after smtp://, and in nothing else"
	case u.Scheme == "smtp":
		r.security, port = startTLS, "587"
	case u.Scheme == "smtps":
		r.security, port = implicitTLS, "465"
	default:
		return relay{}, form
	}
	if u.Port() != "" {
		port = u.Port()
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return relay{}, "must have a port from 1 to 65535"
	}
	r.host, r.address = u.Hostname(), net.JoinHostPort(u.Hostname(), port)
	if u.User == nil {
		return r, ""
	}
	password, _ := u.User.Password()
	switch {
	case u.User.Username() == "" || password == "":
		return relay{}, "must hold both user and password, or neither"
	case r.security == plain && !loopback(r.host):
		return relay{}, "must not send a password without TLS to another machine"
	}
	r.auth = signIn(u.User.Username(), password, r.host)
	return r, ""
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// signIn knows the two mechanisms that relays offer over TLS. Where there is no
// TLS readURL has seen to it that the relay is this machine.
func signIn(user, password, host string) func(offered string) gosmtp.Auth {
	return func(offered string) gosmtp.Auth {
		mechanisms := strings.Fields(strings.ToUpper(offered))
		switch {
		case slices.Contains(mechanisms, "PLAIN"):
			return gosmtp.PlainAuth("", user, password, host, true)
		case slices.Contains(mechanisms, "LOGIN"):
			return gosmtp.LoginAuth(user, password, host, true)
		}
		return nil
	}
}

// sender reads "a@b" or "Name <a@b>". Its domain becomes part of the Message-ID,
// and not every relay takes Unicode there.
func sender(raw string) (from *mail.Address, why string) {
	from, err := mail.ParseAddress(raw)
	switch {
	case err != nil:
		return nil, `must be an address or "Name <address>"`
	case strings.ContainsFunc(from.Address, func(r rune) bool { return r > unicode.MaxASCII }):
		return nil, "must hold an address in ASCII"
	case strings.ContainsFunc(from.Name+from.Address, unicode.IsControl):
		return nil, "must not hold control characters"
	}
	return from, ""
}

package smtp

import (
	"fmt"
	"net"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/providers/conformance"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	conformance.Run(t, conformance.Subject{
		New: func(tb testing.TB, at conformance.Place) conformance.Sender {
			tb.Helper()
			url := "smtp://news:the-password@" + at.Address + "?tls=none"
			if at.TLS || !strings.HasPrefix(at.Address, "127.") {
				url = "smtps://news:the-password@" + at.Address
			}
			s, err := New(Config{URL: fanfare.Secret(url), From: "The Slow Coast <news@blog.example>"})
			require.NoError(tb, err)
			return s
		},
		Provider: relays{},
		Call: func(n int) fanfare.Call {
			c := call(0)
			c.Recipients = nil
			for i := range n {
				c.Recipients = append(c.Recipients, call(fanfare.SubscriberNumber(i)).Recipients...)
			}
			return c
		},
		Codes: map[conformance.Situation]string{
			conformance.Accepted: "250", conformance.Rejected: "5.1.1", conformance.TooLarge: "5.3.4",
			conformance.Throttled: "4.7.1", conformance.Unavailable: "4.3.2", conformance.AccountFault: "5.7.0",
		},
		Waits:   map[conformance.Situation]time.Duration{conformance.Throttled: rateWait},
		Secrets: []string{"the-password"},
		Golden:  "testdata/request.txt",
	})
}

// relays plays relays.
type relays struct{}

// Play implements conformance.Provider.
func (relays) Play(tb testing.TB, listener net.Listener, stage *conformance.Stage) {
	tb.Helper()
	var mu sync.Mutex
	cues := map[int]conformance.Cue{} // of the message under way on each connection
	cue := func(connection int) conformance.Cue {
		mu.Lock()
		defer mu.Unlock()
		return cues[connection]
	}
	r := &fakeRelay{
		script: func(connection int, step string) string {
			if step == "MAIL" {
				stage.Begin()
				mu.Lock()
				cues[connection] = stage.Cue()
				mu.Unlock()
			}
			now := cue(connection)
			at, answer := line(now)
			if at != step {
				return ""
			}
			return answer
		},
		whole: func(connection int, mail receivedMail) {
			if at, _ := line(cue(connection)); at == "DOT" && cue(connection).Situation != conformance.TooLarge {
				stage.Take(taken(cue(connection), mail))
			}
		},
	}
	go r.accept(listener)
}

// line is what a relay says in a situation, and to which command.
func line(cue conformance.Cue) (at, answer string) {
	switch cue.Situation {
	case conformance.Accepted:
		return "DOT", "250 2.0.0 Ok: queued as " + cue.ID
	case conformance.Rejected:
		return "RCPT", "550 5.1.1 " + cue.Gossip
	case conformance.Throttled:
		return "MAIL", "450 4.7.1 " + cue.Gossip
	case conformance.Unavailable:
		return "MAIL", "421 4.3.2 " + cue.Gossip
	case conformance.AccountFault:
		return "MAIL", "530 5.7.0 " + cue.Gossip
	case conformance.TooLarge:
		return "DOT", "552 5.3.4 " + cue.Gossip
	case conformance.Failed:
		return "DOT", "354 " + cue.Gossip
	case conformance.Garbled:
		return "DOT", "Ok " + cue.Gossip
	case conformance.Cut:
		return "DOT", cut
	case conformance.Silent:
		return "DOT", hang
	case conformance.BrokenOff:
		return "DOT", "250-2.0.0 " + cue.Gossip + "\n" + cut
	}
	return "", ""
}

var (
	recipientForm = regexp.MustCompile(`^TO:<(.*)>$`)
	dateForm      = regexp.MustCompile(`(?m)^Date: .*$`)
	boundaryForm  = regexp.MustCompile(`[0-9a-f]{60}`)
)

func taken(cue conformance.Cue, mail receivedMail) conformance.Taken {
	data := boundaryForm.ReplaceAllString(dateForm.ReplaceAllString(mail.data, "Date: today"), "boundary")
	return conformance.Taken{
		ID:       cue.ID,
		Messages: []conformance.Message{{To: recipientForm.FindStringSubmatch(mail.to)[1], Text: mail.data}},
		Request:  fmt.Sprintf("MAIL %s\nRCPT %s\n\n%s", mail.from, mail.to, data),
	}
}

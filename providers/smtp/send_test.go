package smtp

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare"
)

const (
	callID = fanfare.CallID("0198c5a0-9a51-7cc3-98c4-1c0c0c0739aa")

	unencrypted = fanfare.Secret("smtp://127.0.0.1:25?tls=none")
	signedIn    = fanfare.Secret("smtp://news:p%40ss@127.0.0.1:25?tls=none")
	startsTLS   = fanfare.Secret("smtp://news:p%40ss@example.com:587")
	isTLS       = fanfare.Secret("smtps://news:p%40ss@example.com")
)

func call(number fanfare.SubscriberNumber) fanfare.Call {
	return fanfare.Call{
		ID: callID, Publication: "0198c5a0-7d1e-7cc3-98c4-dc0c0c07398f", Channel: fanfare.Email,
		Message: fanfare.Message{
			Subject: "Why the tide tables were wrong",
			HTML:    `<p>Hello &amp; welcome</p><a href="` + fanfare.UnsubscribeTag + `">Unsubscribe</a> <a href="` + fanfare.PreferencesTag + `">Preferences</a>`,
			Text:    "Hello & welcome\n.\nNobody had noticed for eighty years that they were wrong.\nUnsubscribe: " + fanfare.UnsubscribeTag + "\nPreferences: " + fanfare.PreferencesTag + "\n",
		},
		Recipients: []fanfare.Recipient{{
			Number:      number,
			Address:     fmt.Sprintf("reader-%d@readers.example", number),
			Unsubscribe: fmt.Sprintf("https://blog.example/unsubscribe/AQ%dID4mT0kq1cVbX9Jz2wQw", number),
			Preferences: fmt.Sprintf("https://blog.example/preferences/AQ%dIDw0kq1cVbX4mT9Jz2wQ", number),
		}},
	}
}

// long makes a message for the middle of which a relay can wait, where a test is
// about that: more than the buffers of both ends hold.
func long(c fanfare.Call, step string) fanfare.Call {
	if step == "BODY" {
		c.Message.Text = strings.Repeat("Again and again and again.\n", 1<<14)
	}
	return c
}

const (
	beginBy = time.Second
	callFor = 15 * time.Second
)

// leased is what a worker gives a sender.
func leased(t *testing.T) context.Context {
	t.Helper()
	lease := fanfare.NewLease(callID, time.Now(), beginBy, callFor)
	ctx, cancel := context.WithDeadline(fanfare.WithLease(t.Context(), lease), lease.Deadline())
	t.Cleanup(cancel)
	return ctx
}

// pass lets time pass, which is virtual: it takes none.
func pass(d time.Duration) { <-time.After(d) }

// wait lets kept connections lapse, as every goroutine of a test in virtual time
// must end.
func wait(t *testing.T, r *fakeRelay) {
	t.Helper()
	pass(keepFor + partFor)
	synctest.Wait()
	_, open := r.counted()
	require.Zero(t, open, "connections are still open")
}

func TestEveryAnswerIsOneOutcome(t *testing.T) {
	t.Parallel()
	unavailable := func(code string) fanfare.Outcome {
		return fanfare.Outcome{Kind: fanfare.OutcomeUnavailable, Code: code}
	}
	account := func(code string) fanfare.Outcome {
		return fanfare.Outcome{Kind: fanfare.OutcomeUnavailable, Code: code, Account: true}
	}
	rejected := func(code string) fanfare.Outcome {
		return fanfare.Outcome{Kind: fanfare.OutcomeRejected, Code: code}
	}
	paced := func(code string) fanfare.Outcome {
		return fanfare.Outcome{Kind: fanfare.OutcomeThrottled, Code: code, RetryAfter: time.Minute}
	}
	released := func(code string) fanfare.Outcome {
		return fanfare.Outcome{Kind: fanfare.OutcomeReleased, Code: code}
	}
	ambiguous := fanfare.Outcome{Kind: fanfare.OutcomeAmbiguous}
	for _, c := range []struct {
		step, answer string
		want         fanfare.Outcome
	}{
		{"CONNECT", "421 too busy", unavailable("421")},
		{"CONNECT", "450 4.3.2 not now", unavailable("4.3.2")},
		{"CONNECT", "554 5.7.1 we know you", account("5.7.1")},
		{"CONNECT", "HTTP/1.1 400 Bad Request", unavailable("")},
		{"CONNECT", cut, unavailable("")},
		{"EHLO", "421 4.3.0 going down", unavailable("4.3.0")},
		{"EHLO", "250 relay.example", account("")}, // no AUTH
		{"EHLO", cut, unavailable("")},
		{"AUTH", "535 5.7.8 wrong password of news@blog.example", account("5.7.8")},
		{"AUTH", "530 authentication required", account("530")},
		{"AUTH", "454 4.7.0 directory is away", unavailable("4.7.0")},
		{"AUTH", "334 Z28gb24=", unavailable("")},
		{"AUTH", cut, unavailable("")},
		{"MAIL", "550 5.1.8 sender unknown", account("5.1.8")},
		{"MAIL", "530 5.7.0 sign in", account("5.7.0")},
		{"MAIL", "421 too many messages", paced("421")},
		{"MAIL", "421 4.3.2 shutting down", unavailable("4.3.2")},
		{"MAIL", "450 4.7.1 slow down", paced("4.7.1")},
		{"MAIL", "452 4.3.1 disk full", unavailable("4.3.1")},
		{"MAIL", "354 what", unavailable("354")},
		{"MAIL", cut, unavailable("")},
		{"RCPT", "550 5.1.1 <reader-7@readers.example>: no such user", rejected("5.1.1")},
		{"RCPT", "550 no such user", rejected("550")},
		{"RCPT", "554-5.2.1 mailbox\n554 5.2.1 disabled", rejected("5.2.1")},
		{"RCPT", "550 4.1.1 confused", rejected("550")},
		{"RCPT", "554 5.7.1 relay access denied", account("5.7.1")},
		{"RCPT", "550 5.1.7 bad sender", account("5.1.7")},
		{"RCPT", "503 sign in first", account("503")},
		{"RCPT", "450 4.2.0 greylisted", released("4.2.0")},
		{"RCPT", "421 4.3.2 shutting down", unavailable("4.3.2")},
		{"RCPT", "421 4.7.0 too fast", paced("4.7.0")},
		{"RCPT", cut, unavailable("")},
		{"DATA", "554 5.5.1 no valid recipients", rejected("5.5.1")},
		{"RCPT", "451 4.3.0 look-up failed", unavailable("4.3.0")},
		{"DATA", "451 4.3.5 out of sorts", unavailable("4.3.5")},
		{"DATA", "451 4.2.0 not now", released("4.2.0")},
		{"DATA", "250 ok", unavailable("250")},
		{"DATA", cut, unavailable("")},
		{"BODY", cut, unavailable("")},
		{"DOT", "554 5.7.1 that is spam", rejected("5.7.1")},
		{"DOT", "550 no", rejected("550")},
		{"DOT", "451 4.7.1 try later", released("4.7.1")},
		{"DOT", "421 4.3.0 gone", unavailable("4.3.0")},
		{"DOT", "251 fine as well", fanfare.Outcome{Kind: fanfare.OutcomeAccepted, Code: "251"}},
		{"DOT", "354 go on", fanfare.Outcome{Kind: fanfare.OutcomeAmbiguous, Code: "354"}},
		{"DOT", "Ok", ambiguous},
		{"DOT", "250-half an ans", ambiguous}, // and then nothing
		{"DOT", cut, ambiguous},
	} {
		t.Run(c.step+" "+c.answer, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := &fakeRelay{script: at(c.step, c.answer)}
				reply := r.sending(t, signedIn).Send(leased(t), long(call(7), c.step))
				got := reply.Outcome
				if c.want.Kind != fanfare.OutcomeAccepted {
					require.NotEmpty(t, got.Detail)
				}
				require.Equal(t, got.Account, strings.Contains(got.Detail, "SMTP_URL"), "what a person has to see to says what to do")
				require.NotRegexp(t, `@|reader|news|spam|no such|greylisted`, got.Detail, "what the relay says is not kept")
				got.Detail = ""
				require.Empty(t, cmp.Diff(c.want, got))
				require.False(t, reply.Split)
				if got.Kind == fanfare.OutcomeReleased {
					mine := reply.Named[0]
					require.Equal(t, fanfare.OutcomeThrottled, mine.Kind, "a deferral costs its recipient an attempt")
					require.Equal(t, c.want.Code, mine.Code)
					require.NotEmpty(t, mine.Detail)
				} else {
					require.Empty(t, reply.Named)
				}
				wait(t, r)
			})
		})
	}
}

func TestHangingRelayEndsWithTheContext(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		url  fanfare.Secret
		step string
		want fanfare.OutcomeKind
	}{
		{signedIn, "CONNECT", fanfare.OutcomeUnavailable},
		{signedIn, "EHLO", fanfare.OutcomeUnavailable},
		{startsTLS, "STARTTLS", fanfare.OutcomeUnavailable},
		{startsTLS, "AUTH", fanfare.OutcomeUnavailable},
		{isTLS, "CONNECT", fanfare.OutcomeUnavailable}, // no handshake comes
		{signedIn, "AUTH", fanfare.OutcomeUnavailable},
		{signedIn, "MAIL", fanfare.OutcomeUnavailable},
		{signedIn, "RCPT", fanfare.OutcomeUnavailable},
		{signedIn, "DATA", fanfare.OutcomeUnavailable},
		{signedIn, "BODY", fanfare.OutcomeUnavailable}, // takes a byte a second
		{signedIn, "DOT", fanfare.OutcomeAmbiguous},
	} {
		for _, cancelled := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s cancelled %t", c.step, cancelled), func(t *testing.T) {
				t.Parallel()
				r := &fakeRelay{script: at(c.step, hang)}
				roots := r.certificate(t)
				if c.url == signedIn {
					r.tls = nil
				}
				synctest.Test(t, func(t *testing.T) {
					s := r.sending(t, c.url)
					s.tls.RootCAs = roots
					ctx, cancel := context.WithCancel(leased(t))
					defer cancel()
					until := callFor
					want := c.want
					if cancelled {
						until = 3 * time.Second
						time.AfterFunc(until, cancel)
						if want == fanfare.OutcomeUnavailable {
							want = fanfare.OutcomeReleased // nobody's fault
						}
					}
					began := time.Now()
					reply := s.Send(ctx, long(call(7), c.step))
					require.Equal(t, until, time.Since(began))
					require.Equal(t, want, reply.Outcome.Kind, reply.Outcome.Detail)
					if c.step != "DOT" {
						require.Empty(t, r.received())
					}
					pass(trickle)
					synctest.Wait()
					_, open := r.counted()
					require.Zero(t, open, "the connection outlived its call")
				})
			})
		}
	}
}

// The gate: after all that may take long, and before the first byte of a message.
func TestSlowSignInReleases(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &fakeRelay{delay: beginBy + time.Millisecond}
		s := r.sending(t, signedIn)
		reply := s.Send(leased(t), call(7))
		require.Equal(t, fanfare.OutcomeReleased, reply.Outcome.Kind)
		require.Contains(t, reply.Outcome.Detail, "too late")
		for _, line := range r.heard() {
			require.NotRegexp(t, `^(MAIL|RCPT|DATA)`, line)
		}

		// What took so long is not done again: the next call finds it ready.
		reply = s.Send(leased(t), call(7))
		require.Equal(t, fanfare.OutcomeAccepted, reply.Outcome.Kind)
		made, _ := r.counted()
		require.Equal(t, 1, made)
		wait(t, r)
	})
}

func TestMessageThatIsNotWrittenInTimeGetsNoDot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		// The context's clock stood still, as that of a machine that slept.
		lease := fanfare.NewLease(callID, time.Now(), beginBy, 2*time.Second)
		ctx := fanfare.WithLease(t.Context(), lease)
		r := &fakeRelay{script: func(_ int, step string) string {
			if step == "DATA" {
				pass(3 * time.Second)
			}
			return ""
		}}
		reply := r.sending(t, unencrypted).Send(ctx, call(7))
		require.Equal(t, fanfare.OutcomeReleased, reply.Outcome.Kind)
		require.Empty(t, r.received())
		wait(t, r)
	})
}

func TestConnectionsAreKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &fakeRelay{}
		s := r.sending(t, signedIn)
		send := func() {
			t.Helper()
			reply := s.Send(leased(t), call(7))
			require.Equal(t, fanfare.OutcomeAccepted, reply.Outcome.Kind, reply.Outcome.Detail)
		}
		for range 5 {
			send()
			pass(keepFor - time.Second)
		}
		made, open := r.counted()
		require.Equal(t, []int{1, 1}, []int{made, open})
		wait(t, r)
		require.Equal(t, "QUIT", r.heard()[len(r.heard())-1], "who is kept long enough is told goodbye")
		send()
		made, _ = r.counted()
		require.Equal(t, 2, made)
		require.Len(t, r.received(), 6)
		wait(t, r)
	})
}

func TestKeptConnectionThatIsDeadIsNoFailure(t *testing.T) {
	t.Parallel()
	for _, answer := range []string{"421 4.4.2 timeout", cut} {
		t.Run(answer, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				mails := 0
				r := &fakeRelay{}
				r.script = func(n int, step string) string {
					if step == "MAIL" {
						if mails++; n == 1 && mails == 2 {
							return answer
						}
					}
					return ""
				}
				s := r.sending(t, signedIn)
				for number := range 3 {
					reply := s.Send(leased(t), call(fanfare.SubscriberNumber(number)))
					require.Equal(t, fanfare.OutcomeAccepted, reply.Outcome.Kind, reply.Outcome.Detail)
				}
				made, _ := r.counted()
				require.Equal(t, 2, made)
				require.Len(t, r.received(), 3, "each once")
				wait(t, r)
			})
		})
	}
}

// A relay that refuses a new connection as it refused the kept one is asked once.
func TestConnectsAgainOnlyOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		accepted := false
		r := &fakeRelay{}
		r.script = func(_ int, step string) string {
			switch {
			case step == "DOT":
				accepted = true
			case step == "MAIL" && accepted:
				return cut
			}
			return ""
		}
		s := r.sending(t, signedIn)
		require.Equal(t, fanfare.OutcomeAccepted, s.Send(leased(t), call(1)).Outcome.Kind)
		require.Equal(t, fanfare.OutcomeUnavailable, s.Send(leased(t), call(2)).Outcome.Kind)
		made, _ := r.counted()
		require.Equal(t, 2, made)
		wait(t, r)
	})
}

// What hangs while it is kept is not known to be dead, and takes the call's time.
func TestKeptConnectionThatHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mails := 0
		r := &fakeRelay{script: func(_ int, step string) string {
			if step != "MAIL" {
				return ""
			}
			if mails++; mails == 2 {
				return hang
			}
			return ""
		}}
		s := r.sending(t, signedIn)
		require.Equal(t, fanfare.OutcomeAccepted, s.Send(leased(t), call(1)).Outcome.Kind)
		require.Equal(t, fanfare.OutcomeUnavailable, s.Send(leased(t), call(2)).Outcome.Kind)
		wait(t, r)
		made, _ := r.counted()
		require.Equal(t, 1, made, "there is no time left to connect in")
	})
}

func TestCallsBeyondTheConnectionsWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &fakeRelay{script: at("DOT", hang)}
		s := r.sending(t, unencrypted)
		var calls sync.WaitGroup
		for range maxConnections {
			calls.Go(func() { s.Send(leased(t), call(1)) })
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(leased(t), beginBy)
		defer cancel()
		began := time.Now()
		require.Equal(t, fanfare.OutcomeReleased, s.Send(ctx, call(2)).Outcome.Kind)
		require.Equal(t, beginBy, time.Since(began))
		calls.Wait()
		wait(t, r)
		made, _ := r.counted()
		require.Equal(t, maxConnections, made)
	})
}

// A message that fits into our buffer has not left us when it is written there.
func TestCutBeforeTheDotIsNoDoubt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &fakeRelay{script: at("BODY", cut)}
		reply := r.sending(t, unencrypted).Send(leased(t), call(7))
		require.Equal(t, fanfare.OutcomeUnavailable, reply.Outcome.Kind, reply.Outcome.Detail)
		wait(t, r)
	})
}

func TestReconnectingTooLateReleases(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mails := 0
		r := &fakeRelay{script: func(_ int, step string) string {
			if step != "MAIL" {
				return ""
			}
			if mails++; mails == 2 {
				pass(beginBy)
				return cut
			}
			return ""
		}}
		s := r.sending(t, signedIn)
		require.Equal(t, fanfare.OutcomeAccepted, s.Send(leased(t), call(1)).Outcome.Kind)
		require.Equal(t, fanfare.OutcomeReleased, s.Send(leased(t), call(2)).Outcome.Kind)
		require.Len(t, r.received(), 1)
		wait(t, r)
	})
}

// A conversation that was refused is not gone on with, and one in which the relay
// said more than it was asked would take the wrong answer for the right one.
func TestConnectionIsNotKeptAfterTrouble(t *testing.T) {
	t.Parallel()
	for step, answer := range map[string]string{"RCPT": "550 5.1.1 no", "DOT": "250 Ok\n550 no, after all"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := &fakeRelay{script: at(step, answer)}
				s := r.sending(t, unencrypted)
				s.Send(leased(t), call(1))
				s.Send(leased(t), call(2))
				made, _ := r.counted()
				require.Equal(t, 2, made)
				synctest.Wait()
				_, open := r.counted()
				require.Zero(t, open)
			})
		})
	}
}

func TestEncryption(t *testing.T) {
	t.Parallel()
	t.Run("STARTTLS", func(t *testing.T) {
		t.Parallel()
		r := &fakeRelay{}
		roots := r.certificate(t)
		synctest.Test(t, func(t *testing.T) {
			s := r.sending(t, startsTLS)
			s.tls.RootCAs = roots
			reply := s.Send(leased(t), call(7))
			require.Equal(t, fanfare.OutcomeAccepted, reply.Outcome.Kind, reply.Outcome.Detail)
			require.Equal(t, []bool{true}, r.overTLS)
			wait(t, r)
		})
	})
	t.Run("from the first byte", func(t *testing.T) {
		t.Parallel()
		r := &fakeRelay{}
		roots := r.certificate(t)
		config := r.tls
		r.tls = nil
		synctest.Test(t, func(t *testing.T) {
			s := r.sending(t, isTLS)
			s.tls.RootCAs = roots
			s.dial = func(context.Context, string, string) (net.Conn, error) {
				ours, theirs := net.Pipe()
				go r.serve(tls.Server(theirs, config))
				return ours, nil
			}
			reply := s.Send(leased(t), call(7))
			require.Equal(t, fanfare.OutcomeAccepted, reply.Outcome.Kind, reply.Outcome.Detail)
			wait(t, r)
		})
	})
	for name, c := range map[string]struct {
		script func(int, string) string
		trust  bool
		want   fanfare.Outcome
	}{
		"not trusted":  {nil, false, fanfare.Outcome{Kind: fanfare.OutcomeUnavailable}},
		"refused":      {at("STARTTLS", "454 4.7.0 no keys"), true, fanfare.Outcome{Kind: fanfare.OutcomeUnavailable, Code: "4.7.0"}},
		"refused ever": {at("STARTTLS", "502 5.5.1 what"), true, fanfare.Outcome{Kind: fanfare.OutcomeUnavailable, Code: "5.5.1", Account: true}},
		"cut":          {at("STARTTLS", cut), true, fanfare.Outcome{Kind: fanfare.OutcomeUnavailable}},
		"not offered":  {at("EHLO", "250-relay.example\n250 AUTH PLAIN"), true, fanfare.Outcome{Kind: fanfare.OutcomeUnavailable, Account: true}},
		"EHLO unknown": {at("EHLO", "502 5.5.1 what"), true, fanfare.Outcome{Kind: fanfare.OutcomeUnavailable, Account: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &fakeRelay{script: c.script}
			roots := r.certificate(t)
			synctest.Test(t, func(t *testing.T) {
				s := r.sending(t, startsTLS)
				if c.trust {
					s.tls.RootCAs = roots
				} else {
					s.tls.RootCAs = roots.Clone()
					s.tls.ServerName = "elsewhere.example"
				}
				got := s.Send(leased(t), call(7)).Outcome
				require.NotEmpty(t, got.Detail)
				got.Detail = ""
				require.Empty(t, cmp.Diff(c.want, got))
				for _, line := range r.heard() {
					require.NotRegexp(t, `^(AUTH|MAIL)`, line, "nothing is said in the clear")
				}
				wait(t, r)
			})
		})
	}
}

func TestSignsInWithLogin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &fakeRelay{}
		r.script = func(_ int, step string) string {
			return map[string]string{
				"EHLO": "250-relay.example\n250 AUTH LOGIN", "AUTH": "334 VXNlcm5hbWU6", "BMV3CW==": "334 UGFzc3dvcmQ6", "CEBZCW==": "235 welcome",
			}[step]
		}
		reply := r.sending(t, signedIn).Send(leased(t), call(7))
		require.Equal(t, fanfare.OutcomeAccepted, reply.Outcome.Kind, reply.Outcome.Detail)
		require.Contains(t, r.heard(), "AUTH LOGIN")
		wait(t, r)
	})
}

func TestAddressInOtherScripts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := call(7)
		c.Recipients[0].Address = "läser@readers.example"
		r := &fakeRelay{}
		reply := r.sending(t, unencrypted).Send(leased(t), c)
		require.Equal(t, fanfare.OutcomeAccepted, reply.Outcome.Kind, reply.Outcome.Detail)
		require.Equal(t, "FROM:<news@blog.example> BODY=8BITMIME SMTPUTF8", r.received()[0].from)
		require.Equal(t, "TO:<läser@readers.example>", r.received()[0].to)
		require.Contains(t, r.received()[0].data, "\nTo: <läser@readers.example>\n")
		require.Contains(t, r.received()[0].data, "Date: Sat, 01 Jan 2000 00:00:00 +0000\n", "now, in virtual time")
		wait(t, r)

		r = &fakeRelay{script: at("EHLO", "250-relay.example\n250 8BITMIME")}
		s := r.sending(t, unencrypted)
		reply = s.Send(leased(t), c)
		require.Equal(t, fanfare.OutcomeRejected, reply.Outcome.Kind)
		require.Equal(t, "5.6.7", reply.Outcome.Code)
		require.Equal(t, fanfare.OutcomeAccepted, s.Send(leased(t), call(7)).Outcome.Kind, "the connection is as good as before")
		made, _ := r.counted()
		require.Equal(t, 1, made)
		wait(t, r)
	})
}

func TestCallOfNobody(t *testing.T) {
	t.Parallel()
	r := &fakeRelay{}
	c := call(1)
	c.Recipients = nil
	reply := r.sending(t, unencrypted).Send(leased(t), c)
	require.Equal(t, fanfare.OutcomeReleased, reply.Outcome.Kind)
	require.False(t, reply.Split)
	made, _ := r.counted()
	require.Zero(t, made)
}

// A relay that has heard enough says so and goes, in the middle of a message.
func TestRefusalInTheMiddleIsHeard(t *testing.T) {
	t.Parallel()
	r := &fakeRelay{script: at("BODY", "552 5.3.4 too large")}
	narrow := func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err == nil {
			err = conn.(*net.TCPConn).SetWriteBuffer(1 << 12)
		}
		return conn, err
	}
	s, err := New(Config{URL: fanfare.Secret("smtp://" + r.listen(t) + "?tls=none"), From: "news@blog.example", Dial: narrow})
	require.NoError(t, err)
	outcome := s.Send(leased(t), long(call(7), "BODY")).Outcome
	require.Equal(t, fanfare.OutcomeRejected, outcome.Kind, outcome.Detail)
	require.Equal(t, "5.3.4", outcome.Code)
}

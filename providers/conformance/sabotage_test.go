package conformance_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/providers/conformance"
)

// A suite that nothing can fail proves nothing. Each of these is a pigeon with one
// fault that senders have, and the trials that must find it; they may find more.

type send func(context.Context, fanfare.Call) fanfare.Reply

// spoilt is a sender with another Send.
type spoilt struct {
	conformance.Sender

	send send
}

func (s spoilt) Send(ctx context.Context, call fanfare.Call) fanfare.Reply { return s.send(ctx, call) }

// replies changes what a sender says.
func replies(change func(call fanfare.Call, reply *fanfare.Reply)) func(send) send {
	return func(next send) send {
		return func(ctx context.Context, call fanfare.Call) fanfare.Reply {
			reply := next(ctx, call)
			change(call, &reply)
			return reply
		}
	}
}

// kinds has a sender say another kind wherever it says one.
func kinds(from, to fanfare.OutcomeKind) func(send) send {
	return replies(func(_ fanfare.Call, reply *fanfare.Reply) {
		if reply.Outcome.Kind == from {
			reply.Outcome.Kind = to
		}
	})
}

// named changes the outcomes of those who have one of their own.
func named(change func(place int, own *fanfare.Outcome)) func(send) send {
	return replies(func(_ fanfare.Call, reply *fanfare.Reply) {
		for _, place := range slices.Collect(maps.Keys(reply.Named)) {
			own := reply.Named[place]
			change(place, &own)
			reply.Named[place] = own
		}
	})
}

func TestEveryFaultIsFound(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]struct {
		spoil func(send) send
		found []string
	}{
		"takes doubt for a refusal": {
			kinds(fanfare.OutcomeAmbiguous, fanfare.OutcomeUnavailable),
			[]string{"failed", "garbled", "acceptance broken off", "cut after the request", "cut on a kept connection", "timed out after the request", "cancelled after the request", "answered in another protocol", "HTTP/2: cut after the request", "HTTP/2: cut on a kept connection", "HTTP/2: acceptance broken off", "HTTP/2: timed out after the request"},
		},
		"takes doubt for an acceptance": {
			replies(func(_ fanfare.Call, reply *fanfare.Reply) {
				if reply.Outcome.Kind == fanfare.OutcomeAmbiguous {
					reply.Outcome = fanfare.Outcome{Kind: fanfare.OutcomeAccepted}
				}
			}),
			[]string{"failed", "garbled", "acceptance broken off"},
		},
		"takes a refusal for doubt": {
			kinds(fanfare.OutcomeUnavailable, fanfare.OutcomeAmbiguous),
			[]string{"unavailable", "connection refused", "host unknown", "certificate not trusted", "account fault", "redirect not followed"},
		},
		"gives up whoever is throttled": {
			kinds(fanfare.OutcomeThrottled, fanfare.OutcomeRejected),
			[]string{"throttled", "throttled for a time", "refusal broken off", "refusal of a proxy", "HTTP/2: throttled"},
		},
		"costs an attempt when nothing began": {
			kinds(fanfare.OutcomeReleased, fanfare.OutcomeUnavailable),
			[]string{"cancelled before the request", "lease too late", "more recipients than a call may have", "one bad among many, named", "HTTP/2: lease too late"},
		},
		"tries again by itself": {
			func(next send) send {
				return func(ctx context.Context, call fanfare.Call) fanfare.Reply {
					if reply := next(ctx, call); reply.Outcome.Kind == fanfare.OutcomeAccepted || reply.Split {
						return reply
					}
					return next(ctx, call)
				}
			},
			[]string{"failed", "garbled", "cut after the request", "throttled", "unavailable", "the only one refused for good"},
		},
		"does not know the time asked for": {
			replies(func(_ fanfare.Call, reply *fanfare.Reply) { reply.Outcome.RetryAfter = 0 }),
			[]string{"throttled for a time", "unavailable for a time"},
		},
		"asks for a time of its own": {
			replies(func(_ fanfare.Call, reply *fanfare.Reply) { reply.Outcome.RetryAfter = time.Minute }),
			[]string{"throttled", "unavailable", "accepted"},
		},
		"does not know its account is at fault": {
			replies(func(_ fanfare.Call, reply *fanfare.Reply) { reply.Outcome.Account = false }),
			[]string{"account fault", "redirect not followed"},
		},
		"blames the account for everything": {
			replies(func(_ fanfare.Call, reply *fanfare.Reply) {
				reply.Outcome.Account = reply.Outcome.Kind == fanfare.OutcomeUnavailable
			}),
			[]string{"unavailable", "connection refused"},
		},
		"does not say what to do": {
			replies(func(_ fanfare.Call, reply *fanfare.Reply) { reply.Outcome.Detail = "no" }),
			[]string{"account fault", "redirect not followed", "accepted"},
		},
		"fails the neighbours": {
			replies(func(_ fanfare.Call, reply *fanfare.Reply) {
				if len(reply.Named) > 0 {
					*reply = fanfare.Reply{Outcome: reply.Named[slices.Collect(maps.Keys(reply.Named))[0]]}
				}
			}),
			[]string{"one bad among many, named"},
		},
		"does not look for the bad one": {
			replies(func(_ fanfare.Call, reply *fanfare.Reply) {
				if reply.Split {
					*reply = fanfare.Reply{Outcome: fanfare.Outcome{Kind: fanfare.OutcomeRejected, Code: "422", Detail: "no"}}
				}
			}),
			[]string{"one bad among many, not named", "too large together"},
		},
		"looks for the bad one for ever": {
			replies(func(_ fanfare.Call, reply *fanfare.Reply) {
				if reply.Outcome.Kind == fanfare.OutcomeRejected {
					*reply = fanfare.Reply{Outcome: fanfare.Outcome{Kind: fanfare.OutcomeReleased, Detail: "no"}}
				}
			}),
			[]string{"one bad among many, not named", "too large"},
		},
		"splits one": {
			replies(func(_ fanfare.Call, reply *fanfare.Reply) {
				reply.Split = reply.Outcome.Kind == fanfare.OutcomeRejected
			}),
			[]string{"the only one refused for good"},
		},
		"names the wrong one": {
			replies(func(_ fanfare.Call, reply *fanfare.Reply) {
				if own, ok := reply.Named[3]; ok {
					reply.Named = map[int]fanfare.Outcome{2: own}
				}
			}),
			[]string{"one bad among many, named"},
		},
		"names nobody there": {
			replies(func(_ fanfare.Call, reply *fanfare.Reply) {
				if own, ok := reply.Named[3]; ok {
					reply.Named[7] = own
				}
			}),
			[]string{"one bad among many, named"},
		},
		"tells an address": {
			replies(func(call fanfare.Call, reply *fanfare.Reply) {
				if reply.Outcome.Detail != "" {
					reply.Outcome.Detail += strings.ToUpper(call.Recipients[0].Address)
				}
			}),
			[]string{"the only one refused for good", "failed", "throttled", "connection refused"},
		},
		"tells of a neighbour": {
			named(func(place int, own *fanfare.Outcome) { own.Detail = fmt.Sprintf("loft-%d.harbour-street", place) }),
			[]string{"one bad among many, named"},
		},
		"tells a part of the message": {
			replies(func(call fanfare.Call, reply *fanfare.Reply) {
				if reply.Outcome.Detail != "" {
					reply.Outcome.Detail += call.Message.Text[10:40]
				}
			}),
			[]string{"the only one refused for good", "failed"},
		},
		"keeps an address as a code": {
			replies(func(call fanfare.Call, reply *fanfare.Reply) { reply.Outcome.Code = call.Recipients[0].Address }),
			[]string{"accepted", "the only one refused for good"},
		},
		"knows another code": {
			replies(func(_ fanfare.Call, reply *fanfare.Reply) { reply.Outcome.Code += "0" }),
			[]string{"accepted", "the only one refused for good", "throttled", "unavailable", "account fault", "too large"},
		},
		"loses the id": {
			replies(func(_ fanfare.Call, reply *fanfare.Reply) { reply.ProviderID = "" }),
			[]string{"accepted", "many at once"},
		},
		"suppresses somebody else": {
			replies(func(_ fanfare.Call, reply *fanfare.Reply) {
				reply.Suppress = []fanfare.Refused{{Address: "elsewhere", Reason: fanfare.SuppressedInvalid}}
			}),
			[]string{"accepted", "the only one refused for good"},
		},
		"suppresses whom it reached": {
			replies(func(call fanfare.Call, reply *fanfare.Reply) {
				reply.Suppress = []fanfare.Refused{{Address: call.Recipients[0].Address, Reason: fanfare.SuppressedInvalid}}
			}),
			[]string{"accepted"},
		},
		"sends what is too large in two": {
			func(next send) send {
				return func(ctx context.Context, call fanfare.Call) fanfare.Reply {
					if len(call.Message.Text) > 100 {
						piece := call
						piece.Message.Text = call.Message.Text[:100]
						next(ctx, piece)
						call.Message.Text = call.Message.Text[100:]
					}
					return next(ctx, call)
				}
			},
			[]string{"too large"},
		},
		"sends something else": {
			func(next send) send {
				return func(ctx context.Context, call fanfare.Call) fanfare.Reply {
					call.Message.Subject = ""
					return next(ctx, call)
				}
			},
			[]string{"golden request"},
		},
		"sends to the first only": {
			func(next send) send {
				return func(ctx context.Context, call fanfare.Call) fanfare.Reply {
					call.Recipients = call.Recipients[:1]
					return next(ctx, call)
				}
			},
			[]string{"accepted", "many at once", "HTTP/2: many at once"},
		},
		"keeps the call under way in a field": {
			func(next send) send {
				var mu sync.Mutex
				var under fanfare.Call
				both := make(chan struct{}, 2)
				return func(ctx context.Context, call fanfare.Call) fanfare.Reply {
					mu.Lock()
					under = call
					mu.Unlock()
					select { // until another call is here too, where there are several
					case both <- struct{}{}:
						<-time.After(20 * time.Millisecond)
					default:
					}
					mu.Lock()
					call = under
					mu.Unlock()
					return next(ctx, call)
				}
			},
			[]string{"many at once"},
		},
		"does not end with the call": {
			func(next send) send {
				return func(ctx context.Context, call fanfare.Call) fanfare.Reply {
					return next(context.WithoutCancel(ctx), call)
				}
			},
			[]string{"cancelled before the request"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := subject()
			s.New = func(tb testing.TB, at conformance.Place) conformance.Sender {
				sender := subject().New(tb, at)
				return spoilt{Sender: sender, send: fault.spoil(sender.Send)}
			}
			if slices.Contains(fault.found, "too large") {
				s.Oversize = func(c fanfare.Call) fanfare.Call {
					c.Message.Text = strings.Repeat(c.Message.Text, 10)
					return c
				}
			}
			if slices.Contains(fault.found, "golden request") && conformance.Updating() {
				return // it would be written as the fault has it
			}
			require.ElementsMatch(t, fault.found, conformance.Failures(t, s, fault.found))
		})
	}
}

// roundTrip is a transport.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// follow goes where an answer says.
func follow(base http.RoundTripper) http.RoundTripper {
	return roundTrip(func(r *http.Request) (*http.Response, error) {
		answer, err := base.RoundTrip(r)
		if err != nil || answer.StatusCode/100 != 3 {
			return answer, err
		}
		_, _ = io.Copy(io.Discard, answer.Body)
		_ = answer.Body.Close()
		next := r.Clone(r.Context())
		next.Body, _ = r.GetBody()
		next.URL, _ = answer.Location()
		return base.RoundTrip(next)
	})
}

// talkative is a sender that shows its key when it is printed.
type talkative struct{ conformance.Sender }

func (talkative) String() string { return "pigeon with the-key" }

func TestFaultsOfTransportAreFound(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]struct {
		build func(tb testing.TB, at conformance.Place) conformance.Sender
		found []string
	}{
		"follows redirects": {
			func(tb testing.TB, at conformance.Place) conformance.Sender {
				at.Client.Transport = follow(at.Client.Transport)
				return subject().New(tb, at)
			},
			[]string{"redirect not followed"},
		},
		"knows no lease": {
			func(tb testing.TB, at conformance.Place) conformance.Sender {
				at.Client = &http.Client{}
				return subject().New(tb, at)
			},
			[]string{"lease too late", "cut after the request", "cancelled after the request"},
		},
		"trusts everybody": {
			func(tb testing.TB, at conformance.Place) conformance.Sender {
				at.Client.Transport = fanfare.GatedTransport{Base: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
				return subject().New(tb, at)
			},
			[]string{"certificate not trusted"},
		},
		"speaks HTTP/1 only": {
			func(tb testing.TB, at conformance.Place) conformance.Sender {
				base := at.Client.Transport.(fanfare.GatedTransport).Base.(*http.Transport)
				base.ForceAttemptHTTP2 = false
				return subject().New(tb, at)
			},
			[]string{"HTTP/2: throttled", "HTTP/2: many at once", "HTTP/2: cut after the request"},
		},
		"connects for every call": {
			func(tb testing.TB, at conformance.Place) conformance.Sender {
				at.Client.Transport = fanfare.GatedTransport{Base: &http.Transport{DisableKeepAlives: true}}
				return subject().New(tb, at)
			},
			[]string{"connections are used again"},
		},
		"shows its key": {
			func(tb testing.TB, at conformance.Place) conformance.Sender { return talkative{subject().New(tb, at)} },
			[]string{"secrets are not printed"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := subject()
			s.New = fault.build
			require.ElementsMatch(t, fault.found, conformance.Failures(t, s, fault.found))
		})
	}
}

func TestEveryTrialFindsAFault(t *testing.T) {
	t.Parallel()
	here, err := os.ReadFile("sabotage_test.go")
	require.NoError(t, err)
	for _, trial := range conformance.Trials(t, subject()) {
		require.Contains(t, string(here), fmt.Sprintf("%q", trial))
	}
}

// A stand-in that does not do its part would let everything pass.
func TestLazyStandInsAreFound(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*conformance.HTTP){
		"says nothing that could be told": func(h *conformance.HTTP) {
			h.Answer = func(cue conformance.Cue) conformance.Answer {
				cue.Gossip = ""
				return answers(cue)
			}
		},
		"has no answer": func(h *conformance.HTTP) {
			h.Answer = func(conformance.Cue) conformance.Answer { return conformance.Answer{} }
		},
		"takes nothing": func(h *conformance.HTTP) {
			h.Read = func(*http.Request, []byte) ([]conformance.Message, error) { return nil, io.EOF }
		},
	} {
		s := subject()
		lazy := s.Provider.(conformance.HTTP)
		spoil(&lazy)
		s.Provider = lazy
		found := []string{"the only one refused for good", "throttled"}
		require.ElementsMatch(t, found, conformance.Failures(t, s, found), name)
	}
}

// The guide's code is that of the pigeon, which is tested.
func TestGuideShowsThePigeon(t *testing.T) {
	t.Parallel()
	guide, err := os.ReadFile("../../docs/adding-a-provider.md")
	require.NoError(t, err)
	pigeon, err := os.ReadFile("pigeon_test.go")
	require.NoError(t, err)
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllSubmatch(guide, -1)
	require.GreaterOrEqual(t, len(blocks), 2)
	for _, block := range blocks {
		require.Contains(t, string(pigeon), string(block[1]))
	}
}

package activities_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/activities"
)

// singleDesk sends one message to a call, 64 at a time.
func singleDesk(t *testing.T, book *batchBook, p *provider) *desk {
	t.Helper()
	p.size = 1
	d := newDesk(t, book, p)
	d.CallsInFlight = 64
	return d
}

func TestOneMessageCallsAreClaimedAndSettledTogether(t *testing.T) {
	virtually(t, func(t *testing.T) {
		book, p := newBatchBook(640), &provider{}
		begun := time.Now()
		d := singleDesk(t, book, p)
		d.Settler = unhurried{book}
		result, err := d.send(activities.SendInput{})
		require.NoError(t, err)
		require.Equal(t, fanfare.Totals{Intended: 640, Sent: 640}, result.Tally.Totals)
		require.Less(t, time.Since(begun), 1500*time.Millisecond, "ten times 64 at once")
		require.Equal(t, 64, p.most)
		require.Len(t, p.calls, 640)
		for _, call := range p.calls {
			require.Len(t, call.Recipients, 1)
		}
		require.LessOrEqual(t, book.settles, 32, "settled by the dozen")
		claims := map[string]int{}
		for _, done := range book.asked() {
			claims[done]++
		}
		require.LessOrEqual(t, claims["claim new"], 640/16+2, "at least a quarter of the places each time")
		require.LessOrEqual(t, claims["claim due"], 4, "at the start, each second, and at the end")
	})
}

func TestThoseWhoWaitedGoBeforeThoseNeverClaimed(t *testing.T) {
	virtually(t, func(t *testing.T) {
		book, p := newBatchBook(20), &provider{takes: 500 * time.Millisecond}
		tries := 0
		p.reply = func(call fanfare.Call) fanfare.Reply {
			if call.Recipients[0].Number == 3 && tries == 0 {
				tries++
				return fanfare.Reply{Outcome: fanfare.Outcome{Kind: fanfare.OutcomeUnavailable, RetryAfter: time.Second}}
			}
			return accepted
		}
		d := singleDesk(t, book, p)
		d.CallsInFlight = 1
		result, err := d.send(activities.SendInput{})
		require.NoError(t, err)
		require.EqualValues(t, 20, result.Tally.Totals.Sent)
		again := slices.IndexFunc(p.calls[3:], func(call fanfare.Call) bool { return call.Recipients[0].Number == 3 })
		require.LessOrEqual(t, again, 4, "two calls a second: a second's wait, and another until it is looked for")
	})
}

// unhurried takes a while to settle.
type unhurried struct{ *batchBook }

func (s unhurried) SettleAll(ctx context.Context, ref fanfare.BatchRef, all []fanfare.Settlement) error {
	<-time.After(10 * time.Millisecond)
	return s.batchBook.SettleAll(ctx, ref, all)
}

func TestACallThatHangsHoldsUpNobodyElse(t *testing.T) {
	virtually(t, func(t *testing.T) {
		book, p := newBatchBook(640), &provider{}
		begun := time.Now()
		var mu sync.Mutex
		var others time.Duration
		p.during = func(_ context.Context, n int) {
			if n == 7 {
				<-time.After(14 * time.Second)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			others = max(others, time.Since(begun))
		}
		_, err := singleDesk(t, book, p).send(activities.SendInput{})
		require.NoError(t, err)
		require.Len(t, p.calls, 640)
		require.Less(t, others, 2*time.Second)
	})
}

func TestAWaitOfOnesOwnHoldsBackNobodyElse(t *testing.T) {
	virtually(t, func(t *testing.T) {
		book, p := newBatchBook(200), &provider{}
		p.reply = func(call fanfare.Call) fanfare.Reply {
			if call.Recipients[0].Number == 50 {
				return fanfare.Reply{Outcome: fanfare.Outcome{Kind: fanfare.OutcomeUnavailable}, Wait: 10 * time.Second}
			}
			return accepted
		}
		result, err := singleDesk(t, book, p).send(activities.SendInput{})
		require.NoError(t, err)
		require.Zero(t, result.Wait)
		require.Equal(t, fanfare.Totals{Intended: 200, Pending: 1, Sent: 199}, result.Tally.Totals)
		for _, s := range book.settled {
			if s.result.Outcome.Kind == fanfare.OutcomeUnavailable {
				require.Equal(t, 10*time.Second, s.result.Outcome.RetryAfter)
			}
		}
	})
}

func TestOneRefusalAmongManyCallsStopsNothing(t *testing.T) {
	virtually(t, func(t *testing.T) {
		for _, kind := range []fanfare.OutcomeKind{fanfare.OutcomeUnavailable, fanfare.OutcomeAmbiguous, fanfare.OutcomeRejected} {
			book, p := newBatchBook(200), &provider{}
			p.reply = func(call fanfare.Call) fanfare.Reply {
				if call.Recipients[0].Number%50 == 0 {
					return fanfare.Reply{Outcome: fanfare.Outcome{Kind: kind, Code: "1"}}
				}
				return accepted
			}
			result, err := singleDesk(t, book, p).send(activities.SendInput{})
			require.NoError(t, err)
			require.EqualValues(t, 196, result.Tally.Totals.Sent)
			require.Zero(t, result.Wait, "%s", kind)
		}
	})
}

// A provider that takes some and throttles the others is there: to leave it alone for ever
// longer, as one that is away, would be to send a few each time.
func TestAProviderThatTakesSomeIsNotAway(t *testing.T) {
	virtually(t, func(t *testing.T) {
		book, p := newBatchBook(200), &provider{}
		p.reply = func(call fanfare.Call) fanfare.Reply {
			if call.Recipients[0].Number%4 == 0 {
				return accepted
			}
			return fanfare.Reply{Outcome: fanfare.Outcome{Kind: fanfare.OutcomeThrottled}}
		}
		result, err := singleDesk(t, book, p).send(activities.SendInput{})
		require.NoError(t, err)
		require.Equal(t, time.Second, result.Wait)
		require.True(t, result.Took)
		require.EqualValues(t, 16, result.Tally.Totals.Sent)

		p.reply = answer(fanfare.OutcomeThrottled)
		result, err = singleDesk(t, book, p).send(activities.SendInput{})
		require.NoError(t, err)
		require.False(t, result.Took)
	})
}

func TestAResultThatIsNotTakenKeepsNoOtherOut(t *testing.T) {
	virtually(t, func(t *testing.T) {
		book, p := newBatchBook(640), &provider{}
		p.during = func(_ context.Context, n int) { <-time.After(time.Duration(n) * time.Millisecond) } // one by one
		d := singleDesk(t, book, p)
		d.Settler = &poisoned{batchBook: book, away: time.Now().Add(10 * time.Second)}
		begun := time.Now()
		_, err := d.send(activities.SendInput{})
		require.ErrorContains(t, err, "it is wrong")
		require.Len(t, book.settled, 639)
		require.Greater(t, time.Since(begun), 9*time.Minute, "the one is tried as long as any")
		require.Less(t, book.lastSettled.Sub(begun), 20*time.Second, "and the others are taken while they are fresh")
	})
}

// poisoned takes everything but what has call-7 in it, once it is no longer away.
type poisoned struct {
	*batchBook

	away time.Time
}

func (p *poisoned) SettleAll(ctx context.Context, ref fanfare.BatchRef, all []fanfare.Settlement) error {
	switch {
	case time.Now().Before(p.away):
		return fanfare.ErrUnavailable
	case slices.ContainsFunc(all, func(s fanfare.Settlement) bool { return s.Call == "call-7" }):
		return errors.New("it is wrong")
	}
	return p.batchBook.SettleAll(ctx, ref, all)
}

func TestAProbeIsOneMessage(t *testing.T) {
	virtually(t, func(t *testing.T) {
		book, p := newBatchBook(3), &provider{}
		d := singleDesk(t, book, p)
		d.Breaker = &doors{probe: true}
		_, err := d.send(activities.SendInput{})
		require.NoError(t, err)
		require.Equal(t, []string{"claim due", "claim new"}, book.asked()[1:3])
		require.Equal(t, 3+2, strings.Count(strings.Join(book.asked(), ","), "claim new"), "one at a time, then nobody, and nobody once all have ended")
	})
}

// localized is an announcement with a template in three locales.
type localized struct{ *batchBook }

func (l localized) Announcement(ctx context.Context, id fanfare.PublicationID) (fanfare.Announcement, error) {
	a, err := l.batchBook.Announcement(ctx, id)
	a.Template = &fanfare.Template{Name: "news", DefaultLocale: "en", Texts: map[fanfare.Channel]map[string]fanfare.TemplateText{fanfare.Email: {"en": {}, "es": {}, "pt": {}}}}
	return a, err
}

func TestEachLocaleIsACallWithItsOwnMessage(t *testing.T) {
	virtually(t, func(t *testing.T) {
		book, p := newBatchBook(3000), &provider{}
		d := newDesk(t, book, p)
		d.Planner, d.CallsInFlight = localized{book}, 1
		begun := time.Now()
		result, err := d.send(activities.SendInput{})
		require.NoError(t, err)
		require.EqualValues(t, 3000, result.Tally.Totals.Sent)
		require.Equal(t, 300*time.Millisecond, time.Since(begun), "the locales of a claim at the same time")
		require.Len(t, p.calls, 9)
		subjects := map[string]int{}
		for _, call := range p.calls {
			subjects[call.Message.Subject] += len(call.Recipients)
		}
		require.Equal(t, map[string]int{"Writer One: A titleen": 1000, "Writer One: A titlees": 1000, "Writer One: A titlept": 1000}, subjects)
	})
}

// messages plays a provider that keeps no id of ours, and what else is known of its messages.
type messages struct {
	shows    map[string][]string // by address
	attached []string
	mu       sync.Mutex
	asked    []fanfare.Question
}

func (m *messages) LookUp(_ context.Context, about fanfare.Question) (fanfare.Sighting, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked = append(m.asked, about)
	return fanfare.Sighting{Messages: m.shows[about.Address]}, nil
}

func (m *messages) Unattached(_ context.Context, ids []string) (free []string, err error) {
	for _, id := range ids {
		if !slices.Contains(m.attached, id) {
			free = append(free, id)
		}
	}
	return free, nil
}

func TestAMessageOfNoOtherCallIsEvidence(t *testing.T) {
	t.Parallel()
	const own, witness = "+34600000001", "+34600000002"
	for name, test := range map[string]struct {
		shows   map[string][]string
		overdue bool
		did     string
	}{
		"one of no other call":                    {map[string][]string{own: {"SM1"}}, false, "settle call-1 of batch 1"},
		"one, beside those of other calls":        {map[string][]string{own: {"SM8", "SM1", "SM9"}}, false, "settle call-1 of batch 1"},
		"two of no other call":                    {map[string][]string{own: {"SM1", "SM2"}}, false, "look again call-1"},
		"only those of other calls":               {map[string][]string{own: {"SM8"}}, false, "look again call-1"},
		"nothing, and the witness is not shown":   {map[string][]string{witness: {"SM8"}}, true, "look again call-1"},
		"nothing, and the witness is shown":       {map[string][]string{witness: {"SM8", "SM9"}}, true, "apply policy call-1"},
		"two, and the witness is shown":           {map[string][]string{own: {"SM1", "SM2"}, witness: {"SM9"}}, true, "apply policy call-1"},
		"one that comes up once the witness does": {map[string][]string{own: {"SM1"}, witness: {"SM9"}}, true, "settle call-1 of batch 1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			shows := &messages{shows: test.shows, attached: []string{"SM8", "SM9"}}
			book := &doubtBook{due: []fanfare.Doubt{{
				Ref: theBatch, Call: "call-1", Provider: "sandbox", EndedAt: callEnded, Overdue: test.overdue, Address: own,
				Witness: "call-2", WitnessAbout: fanfare.Question{Address: witness}, WitnessMessage: "SM9",
			}}}
			book.unattached = shows.Unattached
			_, err := reconcile(t, book, map[string]activities.LookUp{"sandbox": shows})
			require.NoError(t, err)
			require.Equal(t, []string{test.did}, book.did)
			require.Equal(t, fanfare.Question{Call: "call-1", EndedAt: callEnded, Address: own, Text: "Writer One: A title"}, shows.asked[0])
			if book.settled.Outcome.Kind != "" {
				require.Equal(t, "SM1", book.settled.ProviderID, "which belongs to this call from now on")
				require.Equal(t, "sandbox shows message SM1, which is of no other call", book.settled.Evidence)
			}
			require.NotContains(t, fmt.Sprint(book.note, book.settled.Evidence), own)
		})
	}
}

// A fault in a provider's library is the one call's, and not that of all that the worker
// has under way.
func TestASenderThatPanicsPutsItsOwnCallInDoubt(t *testing.T) {
	virtually(t, func(t *testing.T) {
		book, p := newBatchBook(200), &provider{}
		p.reply = func(call fanfare.Call) fanfare.Reply {
			if call.Recipients[0].Number == 7 {
				panic("no such template for " + call.Recipients[0].Address)
			}
			return accepted
		}
		d := singleDesk(t, book, p)
		door := &doors{}
		d.Breaker = door
		result, err := d.send(activities.SendInput{})
		require.NoError(t, err)
		require.Equal(t, fanfare.Totals{Intended: 200, Sent: 199, InDoubt: 1}, result.Tally.Totals)
		require.Len(t, door.taken, door.given, "every permit was told what became of it")
		require.Contains(t, d.logs.String(), "level=ERROR")
		require.Contains(t, d.logs.String(), "single_test.go", "where it was")
	})
}

func TestALookUpThatPanicsHasFailed(t *testing.T) {
	t.Parallel()
	book := &doubtBook{due: []fanfare.Doubt{{Call: "own", Provider: "sandbox", EndedAt: callEnded}}}
	_, err := reconcile(t, book, map[string]activities.LookUp{"sandbox": panicking{}})
	require.NoError(t, err)
	require.Equal(t, "the look-up failed", book.note)
}

type panicking struct{}

func (panicking) LookUp(context.Context, fanfare.Question) (fanfare.Sighting, error) {
	panic("no such list")
}

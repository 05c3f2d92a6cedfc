package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/sandbox"
)

// size is what a chaos run is about. Everything else follows from its seed.
type size struct {
	seed   uint64
	length time.Duration // of the weather; the rest takes as long as it takes
	topics int
	most   int           // readers of the largest topic: all there are
	every  time.Duration // between two publications, about
	pace   float64       // messages a second that each sandbox answers
	batch  int           // recipients
	hits   int           // in one storm, about; one to a lane
}

// workers and policy differ from seed to seed.
func (s size) workers() int { return 2 + int(s.seed/2%2) }

func (s size) policy() string {
	if s.seed%2 == 0 {
		return "resend"
	}
	return "hold"
}

// step is one thing that happens. Steps of one lane follow one another; lanes run
// at the same time. What do returns is printed when it is over.
type step struct {
	at   time.Duration
	lane string
	text string
	do   func(ctx context.Context, c *chaos) string
}

func (s step) String() string { return fmt.Sprintf("%6.1fs %-12s %s", s.at.Seconds(), s.lane, s.text) }

// plan is all that will be done, in order. The same size makes the same plan.
func (s size) plan() []step {
	var steps []step
	for stream, draw := range []func(size, dice) []step{planPublications, planReaders, planStorms, planOperator} {
		// A stream of its own for each, so that a change of one leaves the others alone.
		steps = append(steps, draw(s, dice{rand.New(rand.NewPCG(s.seed, uint64(stream)))})...)
	}
	slices.SortStableFunc(steps, func(a, b step) int { return int(a.at - b.at) })
	return steps
}

// dice draws.
type dice struct{ *rand.Rand }

func (d dice) between(least, most time.Duration) time.Duration {
	return (least + time.Duration(d.Int64N(int64(most-least)+1))).Round(100 * time.Millisecond)
}

// about is a time around d.
func (d dice) about(t time.Duration) time.Duration { return d.between(t/2, 3*t/2) }

func (d dice) chance(share float64) bool { return d.Float64() < share }

func pick[T any](d dice, from []T) T { return from[d.IntN(len(from))] }

// topicSizes are how many readers each topic begins with: the first few of one order
// of all readers, so that audiences overlap.
func (s size) topicSizes() []int {
	sizes := []int{}
	for i := range s.topics {
		sizes = append(sizes, s.most/(i+1))
	}
	return sizes
}

func topicName(i int) string { return fmt.Sprintf("writer-%d", i+1) }

// planPublications publishes all the time. Most publications run to their end; some
// are cancelled, paused for a while, scheduled, or give up early.
func planPublications(s size, d dice) []step {
	var steps []step
	for at, n := time.Second, 1; at < s.length; at, n = at+d.about(s.every), n+1 {
		key, topic := fmt.Sprintf("article-%d", n), topicName(d.IntN(s.topics))
		var starts, expires time.Duration
		soon := d.between(200*time.Millisecond, 6*time.Second)
		fate := d.Float64()
		switch {
		case fate < 0.15:
			starts = d.between(2*time.Second, 10*time.Second)
		case fate < 0.20:
			expires = d.between(5*time.Second, 15*time.Second)
		}
		channels := pick(d, [][]fanfare.Channel{
			fourChannels, fourChannels, fourChannels, {fanfare.Email, fanfare.Push}, {fanfare.SMS, fanfare.InApp}, {fanfare.Email}, {fanfare.SMS}, {fanfare.Push, fanfare.InApp},
		})
		text := fmt.Sprintf("publish to %s by %v", topic, channels)
		if starts > 0 {
			text += fmt.Sprintf(", to begin in %s", starts)
		}
		if expires > 0 {
			text += fmt.Sprintf(", given up on after %s", expires)
		}
		steps = append(steps, step{at, key, text, func(ctx context.Context, c *chaos) string {
			return c.publish(ctx, key, &article{topic: topic, channels: channels}, starts, expires)
		}})
		acts := []string{}
		switch {
		case fate >= 0.20 && fate < 0.40:
			acts = []string{"cancel"}
		case fate >= 0.40 && fate < 0.55:
			acts = []string{"pause", "resume"}
		case fate >= 0.55 && fate < 0.60:
			acts = []string{"pause", "cancel"}
		}
		for then, act := at+soon, 0; act < len(acts); act, then = act+1, then+d.between(time.Second, 6*time.Second) {
			what := acts[act]
			steps = append(steps, step{then, key, what, func(ctx context.Context, c *chaos) string { return c.act(ctx, key, what) }})
		}
	}
	return steps
}

// planReaders has readers leave, opt out, answer STOP and be suppressed, and some take it
// back.
func planReaders(s size, d dice) []step {
	var steps []step
	for at := 2 * time.Second; at < s.length; at += d.about(1500 * time.Millisecond) {
		all := drawWishes(s, d)
		who := fmt.Sprintf("%s to %s", all[0].reader, all[len(all)-1].reader)
		steps = append(steps, step{at, "readers", who + ": " + all[0].no, func(ctx context.Context, c *chaos) string { return c.wishes(ctx, all, true) }})
		if d.chance(0.3) {
			steps = append(steps, step{at + d.between(time.Second, 5*time.Second), "readers", who + ": " + all[0].yes, func(ctx context.Context, c *chaos) string { return c.wishes(ctx, all, false) }})
		}
	}
	return steps
}

// planOperator has somebody look after what went wrong, also while it goes wrong.
func planOperator(s size, d dice) []step {
	var steps []step
	for at := 6 * time.Second; at < s.length; at += d.about(8 * time.Second) {
		one := step{at: at, lane: "operator"}
		switch d.IntN(5) {
		case 0:
			channel := pick(d, fourChannels[:3])
			one.text, one.do = "replay all dead letters of "+string(channel), func(ctx context.Context, c *chaos) string { return c.replay(ctx, map[string]any{"channel": channel}) }
		case 1:
			nth := d.Int()
			one.text, one.do = "replay one publication's dead letters", func(ctx context.Context, c *chaos) string { return c.replayOne(ctx, nth) }
		case 2, 3:
			point, nth := pick(d, []string{"FirstWorkflowTask", "LastWorkflowTask"}), d.Int()
			one.text, one.do = "temporal workflow reset of a failed batch to its "+point, func(ctx context.Context, c *chaos) string { return c.reset(ctx, point, nth) }
		case 4:
			name, rest, pin := pick(d, accounts), d.between(2*time.Second, 6*time.Second), d.chance(0.5)
			one.text = fmt.Sprintf("open %s by hand for %s, pin %t", name, rest, pin)
			one.do = func(ctx context.Context, c *chaos) string { return c.openForAWhile(ctx, name, rest, pin) }
		}
		steps = append(steps, one)
	}
	return steps
}

// planStorms takes turns between a storm, in which several things are hurt, each for
// a while, and calm, in which everything is well and work gets done.
func planStorms(s size, d dice) []step {
	var steps []step
	for at := 3 * time.Second; at < s.length-3*time.Second; {
		ends := min(at+d.between(10*time.Second, 18*time.Second), s.length)
		hurt := map[string]bool{}
		for range s.hits + d.IntN(6) {
			begins := at + d.between(0, (ends-at)/2)
			one := drawHit(s, d, d.between((ends-begins)/3, ends-begins), ends-at)
			one.at = begins
			if slices.Contains(accounts, one.lane) {
				one.at = at
			}
			if !hurt[one.lane] {
				steps = append(steps, one)
			}
			hurt[one.lane] = true
		}
		at = ends + d.between(4*time.Second, 8*time.Second)
	}
	return steps
}

// drawHit is one thing that is hurt, and healed after lasts. A provider misbehaves for
// the whole storm, so that evidence can stay away for longer than a doubt waits for it.
func drawHit(s size, d dice, lasts, storm time.Duration) step {
	worker := d.IntN(s.workers())
	name := fmt.Sprintf("worker-%d", worker+1)
	switch chosen := d.IntN(42); {
	case chosen < 5:
		return step{lane: name, text: "kill -9", do: func(_ context.Context, c *chaos) string { return c.kill(c.workers[worker]) }}
	case chosen < 8:
		// The lease of a call is 15 s, and others wait 2 s longer.
		frozen := pick(d, []time.Duration{time.Second, 3 * time.Second, 20 * time.Second})
		return step{lane: name, text: fmt.Sprintf("SIGSTOP for %s", frozen), do: func(ctx context.Context, c *chaos) string { return c.freeze(ctx, c.workers[worker], frozen) }}
	case chosen < 10:
		return step{lane: "server", text: "kill -9", do: func(_ context.Context, c *chaos) string { return c.kill(c.server) }}
	case chosen < 12:
		lasts /= 2
		return step{lane: "temporal", text: fmt.Sprintf("kill -9, away for %s", lasts), do: func(ctx context.Context, c *chaos) string { return c.temporalAway(ctx, lasts, false) }}
	case chosen < 13:
		return step{lane: "temporal", text: "kill -9 and lose its database", do: func(ctx context.Context, c *chaos) string { return c.temporalAway(ctx, 0, true) }}
	case chosen < 15:
		lasts /= 2
		return step{lane: "postgres", text: fmt.Sprintf("kill -9, away for %s", lasts), do: func(ctx context.Context, c *chaos) string { return c.postgresAway(ctx, lasts) }}
	case chosen < 21:
		return drawCut(s, d, lasts)
	default: // the first ones twice as often as the second
		return drawFaults(d, pick(d, append(slices.Clone(accounts), "sendgrid", "twilio", "fcm")), storm)
	}
}

// drawCut hurts the wires of one process, or of all, to one other.
func drawCut(s size, d dice, lasts time.Duration) step {
	to := pick(d, append(slices.Clone(accounts), "postgres", "postgres", "temporal", "temporal", "webhooks"))
	from := pick(d, []string{"", "server", "worker-1", "worker-2", fmt.Sprintf("worker-%d", s.workers())})
	provider := slices.Contains(accounts, to)
	if to == "webhooks" || from == "server" && provider {
		from = ""
	}
	one := step{lane: "net " + to, text: fmt.Sprintf("from %s: ", from)}
	if from == "" {
		one.text = "from everywhere: "
	}
	kind, number := d.IntN(5), d.IntN(1000)
	if kind == 0 {
		one.text += fmt.Sprintf("cut for %s", lasts)
		one.do = func(ctx context.Context, c *chaos) string { return c.cut(ctx, from, to, lasts) }
		return one
	}
	poison := toxic{Stream: "downstream"}
	switch kind {
	case 1: // silence: nothing comes back, and nobody says so
		poison.Type, poison.Attributes = "timeout", map[string]any{"timeout": 0}
	case 2:
		poison.Type, poison.Attributes = "latency", map[string]any{"latency": 50 + number/2, "jitter": 50 + number/5}
		// Not towards a provider: a call that it gets late began in time all the same.
		if !provider && d.chance(0.5) {
			poison.Stream = "upstream"
		}
	case 3:
		poison.Type, poison.Attributes = "limit_data", map[string]any{"bytes": 20 + number} // in the middle of an answer
	case 4:
		poison.Type, poison.Attributes = "reset_peer", map[string]any{"timeout": number}
	}
	one.text += fmt.Sprintf("%s %v %s for %s", poison.Type, poison.Attributes, poison.Stream, lasts)
	one.do = func(ctx context.Context, c *chaos) string { return c.poison(ctx, from, to, poison, lasts) }
	return one
}

// drawFaults has a provider misbehave in one to three ways.
func drawFaults(d dice, provider string, lasts time.Duration) step {
	f := sandbox.Faults{Seed: d.Uint64()}
	kind := strings.TrimSuffix(provider, "-2")
	account := false
	for range 1 + d.IntN(2) {
		switch d.IntN(12) {
		case 0:
			f.Rules = append(f.Rules, sandbox.Fault{Rate: 0.3, Action: sandbox.ActionStatus, Status: http.StatusInternalServerError})
		case 1:
			f.Down = map[string]string{kind: pick(d, []string{sandbox.DownUnavailable, sandbox.DownClose})}
		case 2:
			f.Rules = append(f.Rules, sandbox.Fault{Rate: 0.5, Action: sandbox.ActionStatus, Status: http.StatusServiceUnavailable})
		case 3:
			account = true
			f.Rules = append(f.Rules, sandbox.Fault{Rate: 0.5, Action: sandbox.ActionStatus, Status: http.StatusUnauthorized})
		case 4:
			f.Rules = append(f.Rules, sandbox.Fault{Rate: 0.3, Action: sandbox.ActionStatus, Status: http.StatusTooManyRequests, RetryAfter: 1 + d.IntN(3)})
		case 5: // so much of it that the ladder has an end
			f.Rules = append(f.Rules, sandbox.Fault{Every: 1, Action: sandbox.ActionStatus, Status: http.StatusTooManyRequests})
		case 6:
			f.Rules = append(f.Rules, sandbox.Fault{Rate: 0.3, Action: sandbox.ActionLatency, Delay: sandbox.Duration(d.between(500*time.Millisecond, 20*time.Second))})
		case 7:
			f.Rules = append(f.Rules, sandbox.Fault{Rate: 0.2, Action: pick(d, []sandbox.Action{sandbox.ActionHang, sandbox.ActionClose})})
		case 8:
			who := []string{fmt.Sprintf("reader-%d", 10+d.IntN(90))}
			if kind == "sendgrid" {
				f.Reject = who
			} else { // a proxy in front of it is at fault
				f.Rules = append(f.Rules, sandbox.Fault{Rate: 0.5, Action: sandbox.ActionStatus, Status: http.StatusServiceUnavailable, HTML: true})
			}
		default:
			f.Rules = append(f.Rules, sandbox.Fault{Rate: 0.4, Action: pick(d, []sandbox.Action{sandbox.ActionAcceptThenHang, sandbox.ActionAcceptThenClose, sandbox.ActionTruncate})})
		}
	}
	if kind == "fcm" { // which has no look-up and no webhooks, and else asks for a minute
		for i := range f.Rules {
			if f.Rules[i].Action == sandbox.ActionStatus {
				f.Rules[i].RetryAfter = max(1, f.Rules[i].RetryAfter)
			}
		}
	} else {
		hurtEvidence(d, &f)
	}
	return step{lane: provider, text: describe(f) + fmt.Sprintf(" for %s", lasts), do: func(ctx context.Context, c *chaos) string {
		return c.misbehave(ctx, provider, f, account, lasts)
	}}
}

// hurtEvidence has the look-up and the webhooks misbehave.
func hurtEvidence(d dice, f *sandbox.Faults) {
	switch d.IntN(5) {
	case 0:
		f.Logs.Lag = sandbox.Duration(d.between(time.Second, 6*time.Second))
	case 1:
		f.Logs.Mode = sandbox.LogsOff
	case 2:
		f.Logs.Mode = sandbox.LogsFailing
	}
	switch d.IntN(5) {
	case 0, 1:
		f.Webhooks.Hold = true
	case 2:
		f.Webhooks = sandbox.WebhookFaults{
			Delay: sandbox.Duration(d.between(0, 6*time.Second)), Early: 0.3, Duplicate: 0.2, NewIDs: true, Forged: 0.2, Stale: 0.2,
		}
	}
}

// describe is what misbehaves, in a line.
func describe(f sandbox.Faults) string {
	var say []string
	for _, r := range f.Rules {
		one := string(r.Action)
		if r.Status != 0 {
			one = fmt.Sprintf("%d", r.Status)
		}
		if r.Every == 1 {
			r.Rate = 1
		}
		if r.HTML {
			one += " in HTML"
		}
		one += fmt.Sprintf(" %.0f%%", 100*r.Rate)
		if r.RetryAfter > 0 {
			one += fmt.Sprintf(" retry-after %ds", r.RetryAfter)
		}
		if r.Delay > 0 {
			one += " " + time.Duration(r.Delay).String()
		}
		say = append(say, one)
	}
	for _, how := range f.Down {
		say = append(say, "down: "+how)
	}
	for _, who := range f.Reject {
		say = append(say, "refuse "+who+"*")
	}
	if f.Logs.Mode != "" {
		say = append(say, "look-up "+f.Logs.Mode)
	}
	if f.Logs.Lag > 0 {
		say = append(say, "look-up lags "+time.Duration(f.Logs.Lag).String())
	}
	if f.Webhooks.Hold {
		say = append(say, "webhooks held")
	}
	if f.Webhooks.NewIDs {
		say = append(say, fmt.Sprintf("webhooks early, twice, forged, stale and up to %s late", time.Duration(f.Webhooks.Delay)))
	}
	return strings.Join(say, ", ")
}

// TestASeedIsAPlan compares the plans of one seed and of two.
func TestASeedIsAPlan(t *testing.T) {
	t.Parallel()
	plan := func(seed uint64) (lines []string) {
		for _, s := range longChaos(seed, time.Hour).plan() {
			lines = append(lines, s.String())
		}
		return lines
	}
	first, again := plan(7), plan(7)
	require.Equal(t, first, again)
	require.NotEqual(t, first, plan(8))
	all := strings.Join(first, "\n")
	for _, what := range []string{
		"SIGSTOP", "kill -9 and lose its database", "postgres     kill -9", "server       kill -9", "temporal workflow reset", "replay all dead letters of push", "by hand",
		"cut", "timeout", "latency", "limit_data", "reset_peer", "from everywhere", "cancel", "pause", "resume", "to begin in", "given up on", "leaves", "comes back",
		"by [email sms push inapp]", "wants no sms", "wants inapp again", "of writer-", "answers STOP to twilio", "answers START to twilio-2", "push address suppressed", "used again",
		"twilio       ", "twilio-2     ", "fcm          ", "net twilio", "net fcm",
		"500 30%", "503 in HTML 50%", "503 50%", "401 50%", "429 30% retry-after", "429 100%", "latency 30%", "hang 20%", "close 20%", "accept_then_hang", "accept_then_close", "truncate",
		"down: unavailable", "down: close", "refuse", "look-up off", "look-up failing", "look-up lags", "webhooks held", "webhooks early",
	} {
		require.Contains(t, all, what, "an hour of chaos never does it")
	}
}

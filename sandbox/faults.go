package sandbox

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Action is what a fault does to a call.
type Action string

// The actions. Those that begin with "accept", and latency and truncate, leave
// alone a call that the provider refuses anyway.
const (
	// ActionStatus answers Status and records nothing.
	ActionStatus Action = "status"
	// ActionLatency waits for Delay, then accepts, unless the client has left.
	ActionLatency Action = "latency"
	// ActionHang takes the request, records nothing and never answers.
	ActionHang Action = "hang"
	// ActionClose takes the request, records nothing and closes the connection.
	ActionClose Action = "close"
	// ActionAcceptThenHang records the messages and never answers.
	ActionAcceptThenHang Action = "accept_then_hang"
	// ActionAcceptThenClose records the messages and closes the connection.
	ActionAcceptThenClose Action = "accept_then_close"
	// ActionTruncate records the messages and cuts the connection within a 2xx.
	ActionTruncate Action = "truncate"
)

func actions() []Action {
	return []Action{
		ActionStatus, ActionLatency, ActionHang, ActionClose,
		ActionAcceptThenHang, ActionAcceptThenClose, ActionTruncate,
	}
}

// The ways in which a whole provider is down, and those in which its message
// logs fail.
const (
	// DownUnavailable answers 503 to everything.
	DownUnavailable = "unavailable"
	// DownClose closes every connection before reading the body.
	DownClose = "close"
	// LogsOff answers as to an account without the feature.
	LogsOff = "off"
	// LogsFailing answers 500, or another status, as to an account that has it.
	LogsFailing = "failing"
)

// Duration reads and writes as "1m30s" in JSON.
type Duration time.Duration

// MarshalText writes d as time.Duration does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads what time.ParseDuration reads.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	*d = Duration(parsed)
	return err
}

// Fault is one rule. It applies to the calls that Provider and Channel match,
// empty matching all, and to those of them that Rate, Every or Next picks;
// exactly one of the three is set (Every 1 picks all).
type Fault struct {
	Provider string `json:"provider,omitempty"`
	Channel  string `json:"channel,omitempty"`
	// Rate is the share of calls, above 0 up to 1, drawn from Faults.Seed.
	Rate float64 `json:"rate,omitempty"`
	// Every picks each n-th call.
	Every int `json:"every,omitempty"`
	// Next picks the next n calls, then never again.
	Next   int    `json:"next,omitempty"`
	Action Action `json:"action"`
	// Status goes with ActionStatus, 200 to 599; so do the next three: HTML is a
	// body as from a proxy instead of the provider's JSON.
	Status int  `json:"status,omitempty"`
	HTML   bool `json:"html,omitempty"`
	// RetryAfter is the header of that name; X-RateLimit-Reset is set to
	// RateLimitReset from now. Both in seconds, 0 for no such header.
	RetryAfter     int `json:"retry_after,omitempty"`
	RateLimitReset int `json:"rate_limit_reset,omitempty"`
	// Delay goes with ActionLatency.
	Delay Duration `json:"delay,omitempty"`
	// Applied counts the calls it hit. It is only ever told, never taken.
	Applied int64 `json:"applied"`
}

// Faults is everything that misbehaves. The zero value is a healthy provider.
type Faults struct {
	// Seed makes Rate repeatable: the same seed picks the same n-th calls.
	Seed uint64 `json:"seed"`
	// Rules are tried in order; the first that picks a call is applied to it.
	Rules []Fault `json:"rules"`
	// Down maps a provider to DownUnavailable or DownClose.
	Down map[string]string `json:"down,omitempty"`
	// Pace replaces Config.Pace where it is not 0. Messages per second.
	Pace float64 `json:"pace,omitempty"`
	// Reject lists addresses to refuse: "@domain", or how the part before the @
	// begins. Those that begin with "bad-address" are always refused.
	Reject []string `json:"reject,omitempty"`
	// Logs is how the look-up of sent messages fails.
	Logs LogFaults `json:"logs"`
	// Webhooks is how events misbehave.
	Webhooks WebhookFaults `json:"webhooks"`
}

// LogFaults is how the look-up of sent messages fails.
type LogFaults struct {
	// Provider is whose look-up it is; empty is everybody's.
	Provider string `json:"provider,omitempty"`
	// Mode is empty, LogsOff or LogsFailing.
	Mode string `json:"mode,omitempty"`
	// Status is what LogsOff answers, 403, the default, or 404; or LogsFailing, 500,
	// the default, or any from 400 to 599, with the header Retry-After, in seconds,
	// where RetryAfter is not 0.
	Status     int `json:"status,omitempty"`
	RetryAfter int `json:"retry_after,omitempty"`
	// Lag hides a message from the look-up for so long.
	Lag Duration `json:"lag,omitempty"`
}

// faults is the state behind Faults.
type faults struct {
	basePace float64

	mu    sync.Mutex
	now   Faults
	rules []ruleState
	// free is when the provider, at its pace, has answered all it was given.
	free time.Time
	// random decides about webhooks; each rule has its own.
	random *rand.Rand
}

type ruleState struct {
	random  *rand.Rand
	seen    int
	applied int64
}

func newFaults(basePace float64) *faults {
	return &faults{basePace: basePace, random: webhookRandom(0)}
}

// webhookRandom is a sequence that no rule has.
func webhookRandom(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 1<<63)) }

func (f *faults) set(next Faults) error {
	if bad := next.problems(); len(bad) > 0 {
		return fmt.Errorf("set faults: %s", strings.Join(bad, "; "))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now, f.free = next, time.Time{}
	f.random = webhookRandom(next.Seed)
	f.now.Rules = slices.Clone(next.Rules)
	f.now.Down = maps.Clone(next.Down)
	f.now.Reject = slices.Clone(next.Reject)
	f.rules = make([]ruleState, len(next.Rules))
	for i := range f.rules {
		f.rules[i].random = rand.New(rand.NewPCG(next.Seed, uint64(i)))
	}
	return nil
}

func (f *faults) get() Faults {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := f.now
	out.Rules = append([]Fault{}, f.now.Rules...)
	for i := range out.Rules {
		out.Rules[i].Applied = f.rules[i].applied
	}
	out.Down, out.Reject = maps.Clone(f.now.Down), slices.Clone(f.now.Reject)
	return out
}

// pick counts a call at every rule it passes and gives the one to apply.
func (f *faults) pick(provider, channel string, refused bool) Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.rules {
		rule, state := &f.now.Rules[i], &f.rules[i]
		if rule.Provider != "" && rule.Provider != provider || rule.Channel != "" && rule.Channel != channel {
			continue
		}
		if refused && rule.accepts() || !state.picks(rule) {
			continue
		}
		state.applied++
		return *rule
	}
	return Fault{}
}

func (st *ruleState) picks(rule *Fault) bool {
	st.seen++
	switch {
	case rule.Rate > 0:
		return st.random.Float64() < rule.Rate
	case rule.Every > 0:
		return st.seen%rule.Every == 0
	default:
		return st.applied < int64(rule.Next)
	}
}

func (f *Fault) accepts() bool {
	return f.Action != ActionStatus && f.Action != ActionHang && f.Action != ActionClose
}

func (f *faults) down(provider string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now.Down[provider]
}

func (f *faults) logs(provider string) LogFaults {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p := f.now.Logs.Provider; p != "" && p != provider {
		return LogFaults{}
	}
	return f.now.Logs
}

// logsFail says whether a look-up fails, with which status, and sets the header that
// goes with it.
func (f *faults) logsFail(w http.ResponseWriter, provider string) (status int, failing bool) {
	logs := f.logs(provider)
	switch logs.Mode {
	case LogsFailing:
		if logs.RetryAfter > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(logs.RetryAfter))
		}
		return cmp.Or(logs.Status, http.StatusInternalServerError), true
	case LogsOff:
		return cmp.Or(logs.Status, http.StatusForbidden), true
	default:
		return 0, false
	}
}

// logsUntil is the time up to which messages have reached a provider's logs.
func (f *faults) logsUntil(provider string) time.Time {
	return time.Now().Add(-time.Duration(f.logs(provider).Lag))
}

// rejectList is never changed in place, so it can be read without the lock.
func (f *faults) rejectList() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now.Reject
}

// turn gives n messages their turn in the pace and says how long that is away.
func (f *faults) turn(n int, now time.Time) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	pace := f.basePace
	if f.now.Pace > 0 {
		pace = f.now.Pace
	}
	if pace <= 0 {
		return 0
	}
	if f.free.Before(now) {
		f.free = now
	}
	f.free = f.free.Add(time.Duration(float64(n) / pace * float64(time.Second)))
	return f.free.Sub(now)
}

// problems names every field that makes no sense.
func (f *Faults) problems() []string {
	var bad []string
	for i := range f.Rules {
		for _, problem := range f.Rules[i].problems() {
			bad = append(bad, fmt.Sprintf("rules.%d.%s", i, problem))
		}
	}
	for _, provider := range slices.Sorted(maps.Keys(f.Down)) {
		if mode := f.Down[provider]; mode != DownUnavailable && mode != DownClose {
			bad = append(bad, fmt.Sprintf("down.%s: want %q or %q", provider, DownUnavailable, DownClose))
		}
	}
	if f.Pace < 0 {
		bad = append(bad, "pace: want messages per second, 0 for the configured pace")
	}
	if slices.Contains(f.Reject, "") {
		bad = append(bad, "reject: an empty pattern would refuse everyone")
	}
	return append(append(bad, f.Logs.problems()...), f.Webhooks.problems()...)
}

func (f *LogFaults) problems() []string {
	var bad []string
	if f.Mode != "" && f.Mode != LogsOff && f.Mode != LogsFailing {
		bad = append(bad, fmt.Sprintf("logs.mode: want %q or %q", LogsOff, LogsFailing))
	}
	failing := f.Mode == LogsFailing && f.Status >= 400 && f.Status <= 599
	if s := f.Status; s != 0 && s != http.StatusForbidden && s != http.StatusNotFound && !failing {
		bad = append(bad, fmt.Sprintf("logs.status: want 403 or 404, or with the mode %q 400 to 599", LogsFailing))
	}
	if f.RetryAfter < 0 {
		bad = append(bad, "logs.retry_after: want seconds, 0 for no such header")
	}
	if f.Lag < 0 {
		bad = append(bad, "logs.lag: want a duration, 0 for none")
	}
	return bad
}

func (f *Fault) problems() []string {
	var bad []string
	if !slices.Contains(actions(), f.Action) {
		bad = append(bad, fmt.Sprintf("action: want one of %v", actions()))
	}
	picks := 0
	for _, set := range []bool{f.Rate != 0, f.Every != 0, f.Next != 0} {
		if set {
			picks++
		}
	}
	if picks != 1 || f.Rate < 0 || f.Rate > 1 || f.Every < 0 || f.Next < 0 {
		bad = append(bad, "rate, every, next: want exactly one of them; rate above 0 up to 1, the others 1 or more")
	}
	if (f.Action == ActionStatus) != (f.Status >= 200 && f.Status <= 599) {
		bad = append(bad, "status: goes with the action \"status\", 200 to 599")
	}
	if (f.Action == ActionLatency) != (f.Delay > 0) {
		bad = append(bad, "delay: goes with the action \"latency\", above 0")
	}
	if f.RetryAfter < 0 || f.RateLimitReset < 0 {
		bad = append(bad, "retry_after, rate_limit_reset: want seconds, 0 for no such header")
	}
	return bad
}

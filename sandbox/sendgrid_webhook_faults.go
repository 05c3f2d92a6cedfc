package sandbox

import (
	"context"
	"fmt"
	"time"
)

// staleBy is how old the timestamp of a stale post is: no tolerance is a day.
const staleBy = 24 * time.Hour

// WebhookFaults is how webhooks misbehave. Rates are shares from 0 to 1, drawn from
// Faults.Seed. What is true still comes: a fault adds, delays and reorders.
type WebhookFaults struct {
	// Hold keeps all events back until it is set to false again.
	Hold bool `json:"hold,omitempty"`
	// Delay keeps each event back for a random time up to this one, so that events
	// come in any order: those of one message, and those of different calls.
	Delay Duration `json:"delay,omitempty"`
	// Early is the share of calls whose messages' first events are posted, and have
	// been answered, before the call is.
	Early float64 `json:"early,omitempty"`
	// Duplicate is the share of events that come twice, the second time up to a
	// second later than the first was due.
	Duplicate float64 `json:"duplicate,omitempty"`
	// NewIDs gives an event another sg_event_id each time that it is posted.
	NewIDs bool `json:"new_ids,omitempty"`
	// Forged is the share of posts before which another comes whose signature is
	// wrong, in one of four ways; Stale before which one comes that is signed well, a
	// day ago. Both tell of the same messages what did not happen to them: a bounce,
	// or a delivery where it was a bounce that happened.
	Forged float64 `json:"forged,omitempty"`
	Stale  float64 `json:"stale,omitempty"`
}

func (f *WebhookFaults) problems() []string {
	var bad []string
	for _, rate := range []struct {
		name  string
		value float64
	}{{"early", f.Early}, {"duplicate", f.Duplicate}, {"forged", f.Forged}, {"stale", f.Stale}} {
		if !(rate.value >= 0 && rate.value <= 1) {
			bad = append(bad, fmt.Sprintf("webhooks.%s: want a share from 0 to 1", rate.name))
		}
	}
	if f.Delay < 0 {
		bad = append(bad, "webhooks.delay: want a duration, 0 for none")
	}
	return bad
}

func (f *faults) webhooks() WebhookFaults {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now.Webhooks
}

// chance says yes to a share of those who ask.
func (f *faults) chance(rate float64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.draws(rate)
}

func (f *faults) draws(rate float64) bool { return rate > 0 && f.random.Float64() < rate }

// events are those of all messages of b, with the copies that the faults add; made
// is how many there are without them.
func (f *faults) events(b *batch, w WebhookFaults) (events []event, made int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	later := func(most time.Duration) int64 {
		if most <= 0 {
			return 0
		}
		return f.random.Int64N(int64(most))
	}
	events = make([]event, 0, 2*b.size())
	for i := range b.size() {
		address, _ := b.who(i)
		steps := course(address)
		for n := range steps {
			e := event{b: b, i: int32(i), step: &steps[n], due: b.at.Add(steps[n].after).UnixNano() + later(time.Duration(w.Delay))}
			events = append(events, e)
			made++
			if f.draws(w.Duplicate) {
				e.again, e.due = true, e.due+later(time.Second)
				events = append(events, e)
			}
		}
	}
	return events, made
}

// mislead makes the posts that a target must not believe.
func (w *webhook) mislead(ctx context.Context, events []event, count *WebhookStats) {
	faults := w.faults.webhooks()
	n := int64(len(events))
	if w.faults.chance(faults.Forged) {
		believed := w.forge(ctx, events)
		w.tally(func() {
			count.Forged += n
			if believed {
				count.ForgedAccepted += n
			}
		})
	}
	if w.faults.chance(faults.Stale) {
		body := render(falsified(events), false)
		stamp := unixSeconds(time.Now().Add(-staleBy))
		believed := w.post(ctx, body, stamp, w.sign(stamp, body)) == nil
		w.tally(func() {
			count.Stale += n
			if believed {
				count.StaleAccepted += n
			}
		})
	}
}

// forge posts what nobody with the key has signed and says whether it was believed.
func (w *webhook) forge(ctx context.Context, events []event) bool {
	body := render(falsified(events), false)
	stamp := unixSeconds(time.Now())
	var kind int
	w.tally(func() {
		kind = w.forgery % 4
		w.forgery++
	})
	var signature string // none
	switch kind {
	case 0: // that of the true events
		signature = w.sign(stamp, render(events, false))
	case 1: // with another key
		signature = sign(NewWebhookKey(), stamp, body)
	case 2:
		signature = "bm90IGEgc2lnbmF0dXJl"
	}
	return w.post(ctx, body, stamp, signature) == nil
}

func (w *webhook) tally(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

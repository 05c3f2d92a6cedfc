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
	// Provider is whose webhooks misbehave; empty is everybody's.
	Provider string `json:"provider,omitempty"`
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
	// NewIDs gives an event of SendGrid's another sg_event_id each time that it is
	// posted.
	NewIDs bool `json:"new_ids,omitempty"`
	// Forged is the share of posts before which another comes whose signature is
	// wrong, in one of four ways; Stale before which one comes that is signed well, a
	// day ago (SendGrid only: Twilio signs no time). Both tell of the same messages
	// what did not happen to them: that they failed, or where they did, that they
	// were delivered.
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

func (f *faults) webhooks(provider string) WebhookFaults {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p := f.now.Webhooks.Provider; p != "" && p != provider {
		return WebhookFaults{}
	}
	return f.now.Webhooks
}

// chance says yes to a share of those who ask.
func (f *faults) chance(rate float64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.draws(rate)
}

func (f *faults) draws(rate float64) bool { return rate > 0 && f.random.Float64() < rate }

// events are those of messages from one up to another, with the copies that the
// faults add; made is how many there are without them.
func (f *faults) events(of messages, from, to int, w WebhookFaults) (events []event, made int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	later := func(most time.Duration) int64 {
		if most <= 0 {
			return 0
		}
		return f.random.Int64N(int64(most))
	}
	events = make([]event, 0, 2*(to-from))
	for i := from; i < to; i++ {
		steps, at := of.course(i), of.when(i)
		for n := range steps {
			e := event{of: of, i: int32(i), step: &steps[n], due: at.Add(steps[n].after).UnixNano() + later(time.Duration(w.Delay))}
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

// guise is how true a post is, and how it is signed.
type guise int

const (
	honest guise = iota
	// stale is signed well, a day ago.
	stale
	// What nobody with the key has signed: with the signature of the truth, with
	// another key, with something that is no signature, with none.
	signedForAnother
	signedByAnother
	signedBadly
	unsigned
)

const forgeries = 4 // of the above

// mislead makes the posts that a target must not believe.
func (w *webhook) mislead(ctx context.Context, events []event, count *WebhookStats) {
	faults := w.faults.webhooks(w.provider)
	n := int64(len(events))
	if w.faults.chance(faults.Forged) {
		var kind guise
		w.tally(func() {
			kind = signedForAnother + guise(w.forgery%forgeries)
			w.forgery++
		})
		believed := w.post(ctx, events, kind) == nil
		w.tally(func() {
			count.Forged += n
			if believed {
				count.ForgedAccepted += n
			}
		})
	}
	if w.provider == sendgrid && w.faults.chance(faults.Stale) { // Twilio signs no time
		believed := w.post(ctx, events, stale) == nil
		w.tally(func() {
			count.Stale += n
			if believed {
				count.StaleAccepted += n
			}
		})
	}
}

func (w *webhook) tally(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

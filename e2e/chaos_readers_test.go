package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	fanfare "github.com/fanfare-dev/fanfare"
)

// personal is what no log and no history may hold: all addresses of readers are such.
var personal = regexp.MustCompile(`@` + mailDomain + `|device-of-reader|(\+|%2B)34[67]\d{8}`)

const mailDomain = "mail.example"

// reader is somebody who reads; most can be reached on every channel.
type reader int

func (r reader) String() string { return fmt.Sprintf("reader-%d", int(r)) }

// Of 200 readers one each has such an email, phone or device; see package sandbox for what
// becomes of them. "" is none at all, and what has two parts two devices.
var (
	mailFates   = []string{"bounce", "block", "drop", "defer", "open", "click", "complain"}
	phoneFates  = []string{"1610", "1408", "1211", "0005", "0003", "0008", "0000", ""}
	deviceFates = []string{"dead+", "invalid+", "mismatch+", "apns+", "dead+ tablet+", "watch+ tablet+", ""}
)

// fated reports which of the fates that begin at a place is the reader's.
func (r reader) fated(fates []string, from int) (fate string, odd bool) {
	if at := int(r)%200 - from; at >= 0 && at < len(fates) {
		return fates[at], true
	}
	return "", false
}

// addresses are those by which a channel reaches the reader, and odd says that things
// happen to them that do not to others'.
func (r reader) addresses(channel fanfare.Channel) (list []string, odd bool) {
	switch channel {
	case fanfare.Email:
		address := fmt.Sprintf("%s@%s", r, mailDomain)
		fate, odd := r.fated(mailFates, 0)
		if r%1009 == 500 {
			fate, odd = "bad-address", true
		}
		if odd {
			address = fate + "+" + address
		}
		return []string{address}, odd
	case fanfare.SMS:
		fate, odd := r.fated(phoneFates, 20)
		switch {
		case odd && fate == "":
			return nil, true
		case odd:
			return []string{magic(int(r)/200, fate)}, true
		}
		return []string{fmt.Sprintf("+346%08d", int(r))}, false
	case fanfare.Push:
		fate, odd := r.fated(deviceFates, 40)
		if !odd {
			return []string{fmt.Sprintf("device-of-%s", r)}, false
		}
		for one := range strings.FieldsSeq(fate) {
			list = append(list, fmt.Sprintf("%sdevice-of-%s", one, r))
		}
		return list, true
	}
	return nil, false
}

// line is how the reader is imported.
func (r reader) line() string {
	emails, _ := r.addresses(fanfare.Email)
	phones, _ := r.addresses(fanfare.SMS)
	tokens, _ := r.addresses(fanfare.Push)
	line := map[string]any{"id": r.String(), "email": emails[0]}
	if len(phones) > 0 {
		line["phone"] = phones[0]
	}
	devices := []map[string]string{}
	for _, token := range tokens {
		devices = append(devices, map[string]string{"token": token, "platform": "android"})
	}
	line["devices"] = devices
	text, _ := json.Marshal(line) // texts always marshal
	return string(text)
}

// refusal is what a reader does not want. It counts from when the answer came until
// something else is asked for.
type refusal struct {
	reader  reader
	how     string
	channel fanfare.Channel // empty: all
	topic   string          // empty: all
	address string          // of those of the channel; empty: all
	reason  string          // why the ledger skips them
	from    time.Time       // zero: it was never answered
	until   time.Time       // zero: to the end
}

func (r *refusal) covers(channel fanfare.Channel, topic string) bool {
	return (r.channel == "" || r.channel == channel) && (r.topic == "" || r.topic == topic)
}

// wish is a refusal that is asked for, and perhaps taken back later.
type wish struct {
	refusal

	no, yes string // in words
	ask     func(ctx context.Context, c *chaos, no bool) string
}

// drawWishes are what the same is asked for some readers who come one after the other.
func drawWishes(s size, d dice) []wish {
	topic := d.IntN(s.topics)
	const together = 5
	first, kind := d.IntN(s.topicSizes()[topic]-together), d.IntN(5)
	channel, everywhere := pick(d, fourChannels), d.chance(0.5)
	account := pick(d, []string{"twilio", "twilio-2"})
	var list []wish
	for i := range together {
		r := reader(first + i)
		switch kind {
		case 0, 1:
			list = append(list, r.leaves(topicName(topic)))
		case 2:
			list = append(list, r.optsOut(channel, topicName(topic), everywhere))
		case 3:
			list = append(list, r.stops(account))
		case 4:
			list = append(list, r.isSuppressed(channel))
		}
	}
	return list
}

func (r reader) leaves(topic string) wish {
	return wish{
		refusal{reader: r, how: "leave", topic: topic, reason: fanfare.ReasonUnsubscribed},
		"leaves " + topic, "comes back to " + topic,
		func(ctx context.Context, c *chaos, no bool) string {
			method := http.MethodPut
			if no {
				method = http.MethodDelete
			}
			return c.asks(ctx, method, fmt.Sprintf("/v1/topics/%s/subscribers/%s", topic, r), nil, nil)
		},
	}
}

func (r reader) optsOut(channel fanfare.Channel, topic string, everywhere bool) wish {
	of := ", of " + topic
	if everywhere {
		of, topic = "", ""
	}
	return wish{
		refusal{reader: r, how: "preference", channel: channel, topic: topic, reason: fanfare.ReasonOptedOut},
		fmt.Sprintf("wants no %s%s", channel, of), fmt.Sprintf("wants %s again%s", channel, of),
		func(ctx context.Context, c *chaos, no bool) string {
			var made struct{ Token string }
			if refused := c.asks(ctx, http.MethodPost, "/v1/subscribers/"+r.String()+"/tokens", map[string]any{}, &made); refused != "" {
				return refused
			}
			choice := map[fanfare.Channel]bool{channel: !no}
			wants := map[string]any{"channels": choice}
			if topic != "" {
				wants = map[string]any{"topics": map[string]any{topic: choice}}
			}
			return c.asksAs(ctx, made.Token, http.MethodPut, "/v1/me/preferences", wants, nil)
		},
	}
}

// stops answers STOP to an account's number. It counts when Twilio's post was taken;
// until then the reader says it again.
func (r reader) stops(account string) wish {
	numbers, _ := r.addresses(fanfare.SMS)
	return wish{
		refusal{reader: r, how: "stop", channel: fanfare.SMS, reason: fanfare.ReasonSuppressed},
		"answers STOP to " + account, "answers START to " + account,
		func(ctx context.Context, c *chaos, no bool) string {
			if len(numbers) == 0 {
				return "has no phone"
			}
			word := "START"
			if no {
				word = "STOP"
			}
			for {
				taken, err := c.inbound(ctx, account, numbers[0], word)
				if err != nil || taken {
					return problem(err)
				}
				if !wait(ctx, 200*time.Millisecond) {
					return "nobody hears it"
				}
			}
		},
	}
}

// isSuppressed has an operator say that an address must not be used.
func (r reader) isSuppressed(channel fanfare.Channel) wish {
	if channel == fanfare.InApp { // which has no addresses
		channel = fanfare.SMS
	}
	addresses, _ := r.addresses(channel)
	address := append(addresses, "")[0]
	return wish{
		refusal{reader: r, how: "suppress", channel: channel, address: address, reason: fanfare.ReasonSuppressed},
		fmt.Sprintf("has the %s address suppressed", channel), fmt.Sprintf("has the %s address used again", channel),
		func(ctx context.Context, c *chaos, no bool) string {
			path := "/v1/suppressions/lift"
			if no {
				path = "/v1/suppressions"
			}
			if address == "" {
				return "has none"
			}
			return c.asks(ctx, http.MethodPost, path, map[string]string{"channel": string(channel), "address": address}, nil)
		},
	}
}

// wishes asks for the same for each, or takes it back, one after the other.
func (c *chaos) wishes(ctx context.Context, all []wish, no bool) string {
	said := map[string]int64{}
	for _, w := range all {
		if no {
			said[c.refuse(w.refusal, func() string { return w.ask(ctx, c, true) })]++
		} else {
			said[c.allow(w.refusal, func() string { return w.ask(ctx, c, false) })]++
		}
	}
	if len(said) == 1 && said[""] == int64(len(all)) {
		return ""
	}
	return counts(said)
}

// refuse notes what somebody does not want, and from when on that holds.
func (c *chaos) refuse(r refusal, ask func() string) string {
	c.mu.Lock()
	c.refusals[r.reader] = append(c.refusals[r.reader], &r)
	c.mu.Unlock()
	said := ask()
	c.mu.Lock()
	defer c.mu.Unlock()
	if said == "" {
		r.from = time.Now()
	}
	return said
}

// allow notes that it may no longer hold. What an operator lifts no STOP outlives.
func (c *chaos) allow(r refusal, ask func() string) string {
	c.mu.Lock()
	for _, other := range c.refusals[r.reader] {
		same := other.how == r.how && other.channel == r.channel && other.topic == r.topic
		lifted := r.how == "suppress" && other.how == "stop" && r.channel == other.channel
		if (same || lifted) && other.until.IsZero() {
			other.until = time.Now()
		}
	}
	c.mu.Unlock()
	return ask()
}

// problem is an error in words, none for none.
func problem(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

package sandbox

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"maps"
	"strconv"
	"strings"
	"time"
)

// The courses that a message can take. Statuses, reasons and classifications are
// worded as SendGrid's own; they quote the address, as receivers do.
var (
	processedStep = step{event: processed}
	deliveredStep = step{event: "delivered", after: soon, details: delivered}
	openedStep    = step{event: "open", after: 2 * soon, details: opened}

	plainCourse    = []step{processedStep, deliveredStep}
	bounceCourse   = []step{processedStep, {event: "bounce", after: soon, details: bounced}}
	blockCourse    = []step{processedStep, {event: "bounce", after: soon, details: blocked}}
	dropCourse     = []step{{event: "dropped", details: dropped}}
	deferCourse    = []step{processedStep, {event: "deferred", after: soon, details: deferred}, {event: "delivered", after: time.Second, details: delivered}}
	openCourse     = []step{processedStep, deliveredStep, openedStep}
	clickCourse    = []step{processedStep, deliveredStep, openedStep, {event: "click", after: 3 * soon, details: clicked}}
	complainCourse = []step{processedStep, deliveredStep, openedStep, {event: "spamreport", after: 3 * soon}}

	// forgedSteps are what forged and stale posts say. Accepting one shows, for it is
	// not what happened: the first of those to whom it did not, the second to the rest.
	forgedSteps = [2]step{
		{event: "bounce", after: soon, details: bounced},
		{event: "delivered", after: soon, details: delivered},
	}
)

// mailCourse is what happens to an email; its address may ask for something.
func mailCourse(address string) []step {
	word, _, _ := strings.Cut(address, "+")
	switch strings.ToLower(word) {
	case "bounce":
		return bounceCourse
	case "block":
		return blockCourse
	case "drop":
		return dropCourse
	case "defer":
		return deferCourse
	case "open":
		return openCourse
	case "click":
		return clickCourse
	case "complain":
		return complainCourse
	default:
		return plainCourse
	}
}

func delivered(string) map[string]any {
	return map[string]any{"response": "250 2.0.0 OK", "ip": "192.0.2.25", "tls": 1}
}

func bounced(address string) map[string]any {
	return map[string]any{
		"type": "bounce", "status": "5.1.1", "reason": "550 5.1.1 <" + address + ">: Recipient address rejected: User unknown",
		"bounce_classification": "Invalid Address", "ip": "192.0.2.25", "tls": 1,
	}
}

func blocked(address string) map[string]any {
	return map[string]any{
		"type": "blocked", "status": "5.2.2", "reason": "552 5.2.2 <" + address + ">: Mailbox full",
		"bounce_classification": "Mailbox Unavailable", "ip": "192.0.2.25", "tls": 1,
	}
}

func dropped(string) map[string]any {
	return map[string]any{"reason": "Bounced Address", "status": "5.0.0"}
}

func deferred(address string) map[string]any {
	return map[string]any{"response": "450 4.2.1 <" + address + ">: Mailbox busy, try again later", "attempt": "1", "ip": "192.0.2.25", "tls": 1}
}

func opened(string) map[string]any {
	return map[string]any{"useragent": "Mozilla/5.0", "ip": "198.51.100.7", "sg_machine_open": false, "sg_content_type": "html"}
}

func clicked(string) map[string]any {
	return map[string]any{
		"useragent": "Mozilla/5.0", "ip": "198.51.100.7", "url": "https://blog.example/",
		"url_offset": map[string]any{"index": 0, "type": "html"},
	}
}

// mail is the batch of an event of SendGrid's.
func (e *event) mail() *batch { return e.of.(*batch) }

// eventID is stable from post to post; renewed, it is another for each of them.
func (e *event) eventID(renewed bool) string {
	id := e.step.event + "-" + e.mail().id(int(e.i))
	if renewed && (e.tries > 0 || e.again) {
		id += "-" + strconv.Itoa(int(e.tries))
		if e.again {
			id += "b"
		}
	}
	return base64.RawURLEncoding.EncodeToString([]byte(id))
}

// fields are the event as SendGrid posts it: custom arguments stand beside its own
// fields, which win where the names are the same.
func (e *event) fields(renewed bool) map[string]any {
	r := e.mail().recipient(int(e.i))
	out := make(map[string]any, 20)
	for _, args := range []map[string]string{e.mail().shared.CustomArgs, r.customArgs} {
		for name, value := range args {
			out[name] = value
		}
	}
	if e.step.details != nil {
		maps.Copy(out, e.step.details(r.email))
	}
	if len(e.mail().shared.Categories) > 0 {
		out["category"] = e.mail().shared.Categories
	}
	out["event"] = e.step.event
	out["email"] = r.email
	out["timestamp"] = e.mail().at.Add(e.step.after).Unix()
	out["sg_event_id"] = e.eventID(renewed)
	out["sg_message_id"] = e.mail().id(int(e.i))
	out["smtp-id"] = e.mail().smtpID()
	return out
}

// render is the body of a post, which ends as SendGrid's do.
func render(events []event, renewed bool) []byte {
	list := make([]map[string]any, len(events))
	for i := range events {
		list[i] = events[i].fields(renewed)
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(list) // texts, numbers and lists of them always marshal
	return append(bytes.TrimRight(out.Bytes(), "\n"), "\r\n"...)
}

// falsified are events about the same messages that say what did not happen.
func falsified(events []event) []event {
	out := make([]event, len(events))
	for i, e := range events {
		address, _ := e.mail().who(int(e.i))
		e.step = &forgedSteps[0]
		if steps := mailCourse(address); steps[len(steps)-1].event == "bounce" {
			e.step = &forgedSteps[1]
		}
		out[i] = e
	}
	return out
}

package sandbox

import (
	"encoding/binary"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// serverPart stands where SendGrid names the machine that took the request.
const serverPart = "recvd-sandbox"

// batch is one accepted call: what all its recipients have in common once, and
// the recipients packed into one string, so that a million of them are a
// thousand objects to the garbage collector.
type batch struct {
	n         uint64
	at        time.Time
	messageID string
	callID    string
	shared    sgMail // without personalizations
	people    string
	ends      []uint32 // where each recipient ends in people
}

// recipient is one address with what its personalization says.
type recipient struct {
	email, delivery, name  string
	callID, subject        string
	headers, substitutions map[string]string
	customArgs             map[string]string
}

func newBatch(messageID string, m *sgMail) *batch {
	b := &batch{messageID: messageID, callID: m.callID(), shared: *m}
	b.shared.Personalizations = nil
	p := packer{buf: make([]byte, 0, 400*len(m.Personalizations))}
	for i := range m.Personalizations {
		each := &m.Personalizations[i]
		r := recipient{
			delivery: m.arg(each, "delivery"), callID: m.arg(each, "call"), subject: each.Subject,
			headers: each.Headers, substitutions: each.Substitutions, customArgs: each.CustomArgs,
		}
		if r.callID == b.callID {
			r.callID = ""
		}
		for _, list := range [][]sgAddress{each.To, each.CC, each.BCC} {
			for _, to := range list {
				r.email, r.name = to.Email, to.Name
				p.recipient(&r)
			}
		}
	}
	b.people, b.ends = string(p.buf), p.ends
	return b
}

func (b *batch) size() int { return len(b.ends) }

func (b *batch) unpack(i int) unpacker {
	start := uint32(0)
	if i > 0 {
		start = b.ends[i-1]
	}
	return unpacker{rest: b.people[start:b.ends[i]]}
}

// who gives what recipient i is searched and counted by.
func (b *batch) who(i int) (email, delivery string) {
	u := b.unpack(i)
	return u.text(), u.text()
}

// id is the provider's id of message i: <X-Message-Id>.<server part>.<n>.
func (b *batch) id(i int) string {
	return b.messageID + "." + serverPart + "." + strconv.Itoa(i)
}

// smtpID is the message id that SendGrid shows of all messages of a call.
func (b *batch) smtpID() string { return "<" + b.messageID + "@sandbox>" }

func (b *batch) number() uint64 { return b.n }

func (b *batch) channel(int) string { return email }

func (b *batch) when(int) time.Time { return b.at }

func (b *batch) course(i int) []step {
	address, _ := b.who(i)
	return mailCourse(address)
}

// splitID takes a provider message id apart; ok is false if it is none of ours.
func splitID(id string) (messageID string, i int, ok bool) {
	messageID, rest, _ := strings.Cut(id, ".")
	number, ours := strings.CutPrefix(rest, serverPart+".")
	i, err := strconv.Atoi(number)
	return messageID, i, ours && err == nil && i >= 0
}

func (b *batch) sighting(i int) Sighting {
	r := b.recipient(i)
	return Sighting{Call: r.callID, MessageID: b.id(i), At: b.at}
}

func (b *batch) recipient(i int) recipient {
	u := b.unpack(i)
	r := recipient{email: u.text(), delivery: u.text(), name: u.text(), callID: u.text(), subject: u.text()}
	r.headers, r.substitutions, r.customArgs = u.pairs(), u.pairs(), u.pairs()
	if r.callID == "" {
		r.callID = b.callID
	}
	return r
}

func (b *batch) message(i int) Message {
	r := b.recipient(i)
	apply := substitute(r.substitutions)
	m := Message{
		Channel: email, ID: b.id(i), SendGridID: b.id(i), Call: r.callID, Delivery: r.delivery, At: b.at,
		From: b.shared.From.Email, FromName: b.shared.From.Name, To: r.email, ToName: r.name,
		Subject: b.subject(&r), TemplateID: b.shared.TemplateID, Substitutions: r.substitutions,
		Headers: merged(b.shared.Headers, r.headers), CustomArgs: merged(b.shared.CustomArgs, r.customArgs),
		Categories: append([]string{}, b.shared.Categories...),
	}
	if b.shared.ReplyTo != nil {
		m.ReplyTo = apply.Replace(b.shared.ReplyTo.Email)
	}
	for _, c := range b.shared.Content {
		switch c.Type {
		case "text/plain":
			m.Text = apply.Replace(c.Value)
		case "text/html":
			m.HTML = apply.Replace(c.Value)
		}
	}
	return m
}

func (b *batch) subject(r *recipient) string {
	subject := b.shared.Subject
	if r.subject != "" {
		subject = r.subject
	}
	return substitute(r.substitutions).Replace(subject)
}

// substitute replaces each tag by its value as it stands: SendGrid escapes
// nothing. Of tags that begin alike, the longer wins.
func substitute(values map[string]string) *strings.Replacer {
	tags := slices.Sorted(maps.Keys(values))
	slices.Reverse(tags)
	pairs := make([]string, 0, 2*len(tags))
	for _, tag := range tags {
		if tag != "" {
			pairs = append(pairs, tag, values[tag])
		}
	}
	return strings.NewReplacer(pairs...)
}

func merged(all, own map[string]string) map[string]string {
	out := make(map[string]string, len(all)+len(own))
	maps.Copy(out, all)
	maps.Copy(out, own)
	return out
}

// packer writes recipients one after another, each text after its length.
type packer struct {
	buf  []byte
	ends []uint32
}

func (p *packer) recipient(r *recipient) {
	for _, s := range []string{r.email, r.delivery, r.name, r.callID, r.subject} {
		p.text(s)
	}
	for _, m := range []map[string]string{r.headers, r.substitutions, r.customArgs} {
		p.pairs(m)
	}
	p.ends = append(p.ends, uint32(len(p.buf)))
}

func (p *packer) text(s string) {
	p.buf = binary.AppendUvarint(p.buf, uint64(len(s)))
	p.buf = append(p.buf, s...)
}

func (p *packer) pairs(m map[string]string) {
	p.buf = binary.AppendUvarint(p.buf, uint64(len(m)))
	for k, v := range m {
		p.text(k)
		p.text(v)
	}
}

// unpacker reads what packer wrote; what it returns are parts of the batch.
type unpacker struct{ rest string }

func (u *unpacker) number() int {
	n := 0
	for i := 0; ; i++ {
		n |= int(u.rest[i]&0x7f) << (7 * i)
		if u.rest[i] < 0x80 {
			u.rest = u.rest[i+1:]
			return n
		}
	}
}

func (u *unpacker) text() string {
	n := u.number()
	s := u.rest[:n]
	u.rest = u.rest[n:]
	return s
}

func (u *unpacker) pairs() map[string]string {
	m := map[string]string{}
	for range u.number() {
		name := u.text()
		m[name] = u.text()
	}
	return m
}

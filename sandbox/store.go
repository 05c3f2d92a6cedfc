package sandbox

import (
	"hash/maphash"
	"maps"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"
)

const (
	// Bounds of what is listed, not of what is counted: about 100 MB and 200 MB.
	maxCalls      = 500_000
	maxDuplicates = 100_000
	maxSightings  = 16
	// refBits holds an index within one group of messages: no provider takes more
	// than 1,000 recipients in one call.
	refBits = 10
)

// Call is one request to a provider.
type Call struct {
	// N numbers calls by arrival, from 1, and goes on after a reset.
	N        uint64 `json:"n"`
	Provider string `json:"provider"`
	Channel  string `json:"channel"`
	// ID is what the request calls itself; empty when it does not, or could not be
	// read. See the package's comment for where it stands.
	ID string `json:"call"`
	// ArrivedAt is when the header had come, ReadAt when the body had, and
	// AnsweredAt when the answer was written or the connection closed. They are
	// zero, and left out of JSON, until then.
	ArrivedAt  time.Time `json:"arrived_at"`
	ReadAt     time.Time `json:"read_at,omitzero"`
	AnsweredAt time.Time `json:"answered_at,omitzero"`
	// Status is the status answered; 0 before and without an answer.
	Status int `json:"status"`
	// Messages is how many recipients the request named, accepted or not.
	Messages int  `json:"messages"`
	Accepted bool `json:"accepted"`
	// Fault is the action applied to it, Error why it was refused.
	Fault string `json:"fault,omitempty"`
	Error string `json:"error,omitempty"`
}

// Duplicate is a delivery accepted more than once.
type Duplicate struct {
	Delivery string `json:"delivery"`
	Channel  string `json:"channel"`
	// To is the device's token; empty on the other channels, where a delivery has
	// one address.
	To    string `json:"to,omitempty"`
	Count int    `json:"count"`
	// Sightings are the first 16 messages; the very first is missing when its
	// contents had been dropped before the second came.
	Sightings []Sighting `json:"sightings"`
}

// Sighting is one message of a duplicated delivery.
type Sighting struct {
	Call string `json:"call"`
	// MessageID is the provider's id of the message, whichever provider it is.
	MessageID string    `json:"sg_message_id"`
	At        time.Time `json:"at"`
}

// Counts is what came, over all channels or on one.
type Counts struct {
	// Calls are requests to send, whatever became of them; RejectedCalls those
	// that the provider's own rules refused, FaultsApplied those hit by a fault.
	Calls         int64 `json:"calls"`
	RejectedCalls int64 `json:"rejected_calls"`
	FaultsApplied int64 `json:"faults_applied"`
	// Messages is accepted recipients. Distinct is distinct delivery ids, plus
	// WithoutDelivery, the messages that carry none. Duplicates is the rest. Of
	// pushes, the pair of delivery id and token counts: a delivery may go to
	// several devices.
	Messages        int64 `json:"messages"`
	Distinct        int64 `json:"distinct"`
	Duplicates      int64 `json:"duplicates"`
	WithoutDelivery int64 `json:"without_delivery"`
	// Replaced is those Duplicates that replace the first one on the device, for
	// they have its collapse key, tag or topic, and its contents were still kept.
	Replaced int64 `json:"replaced"`
	// ByStatus counts finished calls by status, "none" being those cut without one.
	ByStatus map[string]int64 `json:"by_status"`
	// Webhooks is about the events made of the messages; zero where there are none.
	Webhooks WebhookStats `json:"webhooks"`
}

func (c *Counts) add(other *Counts) {
	c.Calls += other.Calls
	c.RejectedCalls += other.RejectedCalls
	c.FaultsApplied += other.FaultsApplied
	c.Messages += other.Messages
	c.Distinct += other.Distinct
	c.Duplicates += other.Duplicates
	c.WithoutDelivery += other.WithoutDelivery
	c.Replaced += other.Replaced
	for status, n := range other.ByStatus {
		c.ByStatus[status] += n
	}
	c.Webhooks.add(&other.Webhooks)
}

// Stats counts what was received since the start or the last reset.
type Stats struct {
	// Counts is over all channels.
	Counts
	// ByChannel is of each channel that was called: email, sms, push.
	ByChannel map[string]*Counts `json:"by_channel"`
	// FirstAt is when the first call arrived, LastAt when the last message was
	// accepted; absent before.
	FirstAt time.Time `json:"first_at,omitzero"`
	LastAt  time.Time `json:"last_at,omitzero"`
	// ContentsKept is how many messages can still be shown, ContentsDropped how
	// many cannot because MaxMessages newer ones came.
	ContentsKept    int64 `json:"contents_kept"`
	ContentsDropped int64 `json:"contents_dropped"`
	MaxMessages     int   `json:"max_messages"`
}

// channel gives the counts of one, which are made where there are none.
func (s *Stats) channel(name string) *Counts {
	c := s.ByChannel[name]
	if c == nil {
		c = &Counts{ByStatus: map[string]int64{}}
		s.ByChannel[name] = c
	}
	return c
}

// messages are some that were accepted, at most 1<<refBits of them: those of one
// call (batch), or those of calls with one message each, as they came (series).
// What is in them does not change.
type messages interface {
	number() uint64
	size() int
	channel(i int) string
	// who gives what message i is searched by.
	who(i int) (address, delivery string)
	when(i int) time.Time
	sighting(i int) Sighting
	message(i int) Message
	// raw is the request as far as it is about message i, for a person.
	raw(i int) string
	// course is what happens to message i, as its provider's webhook tells it.
	course(i int) []step
}

// identity is what must not be accepted twice.
type identity struct{ channel, delivery, address string }

func identify(m messages, i int) identity {
	address, delivery := m.who(i)
	id := identity{channel: m.channel(i), delivery: delivery}
	if id.channel == push {
		id.address = address
	}
	return id
}

// store keeps calls and messages. What it keeps is never changed in place, so
// readers take a slice under the lock and look at it without.
type store struct {
	maxMessages int
	seed        maphash.Seed
	salt        uint64 // begins the ids that the sandbox gives single messages

	mu         sync.Mutex
	count      Stats  // Counts of its own are zero until it is told
	calls      []Call // numbered firstCall, firstCall+1, ...
	firstCall  uint64
	kept       []messages // numbered firstKept, firstKept+1, ...
	firstKept  uint64
	open       *series // the last of kept, where more can be added to it; else nil
	byMessage  map[string]*batch
	byCategory map[string][]*batch
	// first says where an identity was first seen: hash to number<<refBits|index.
	// The hash keeps an entry free of pointers; a collision is found out by
	// comparing the identities themselves.
	first        map[uint64]uint64
	duplicates   []Duplicate
	duplicateNum map[identity]int // place in duplicates
}

func newStore(maxMessages int) *store {
	st := &store{maxMessages: maxMessages, seed: maphash.MakeSeed(), salt: rand.Uint64(), firstCall: 1}
	st.reset()
	return st
}

func (st *store) reset() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.count = Stats{ByChannel: map[string]*Counts{}, MaxMessages: st.maxMessages}
	// Numbers go on, so that a call under way cannot be mistaken for a new one.
	st.firstCall += uint64(len(st.calls))
	st.firstKept += uint64(len(st.kept))
	st.calls, st.kept, st.open, st.duplicates = nil, nil, nil, nil
	st.byMessage, st.byCategory = map[string]*batch{}, map[string][]*batch{}
	st.first, st.duplicateNum = map[uint64]uint64{}, map[identity]int{}
}

// begin writes a call down at its arrival and returns its number.
func (st *store) begin(provider, channel string, arrived time.Time) uint64 {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.count.FirstAt.IsZero() || arrived.Before(st.count.FirstAt) {
		st.count.FirstAt = arrived
	}
	st.count.channel(channel).Calls++
	n := st.firstCall + uint64(len(st.calls))
	st.calls = append(st.calls, Call{N: n, Provider: provider, Channel: channel, ArrivedAt: arrived})
	if len(st.calls) > maxCalls {
		st.calls = st.calls[1:]
		st.firstCall++
	}
	return n
}

// update changes what is known of a call, unless it is no longer listed.
func (st *store) update(n uint64, change func(*Call)) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if n >= st.firstCall {
		change(&st.calls[n-st.firstCall])
	}
}

// finish notes how a call ended. Status 0 is no answer.
func (st *store) finish(n uint64, channel string, status int, refused bool) {
	st.update(n, func(c *Call) { c.Status, c.AnsweredAt = status, time.Now().UTC() })
	st.mu.Lock()
	defer st.mu.Unlock()
	count := st.count.channel(channel)
	if refused {
		count.RejectedCalls++
	}
	key := "none"
	if status != 0 {
		key = strconv.Itoa(status)
	}
	count.ByStatus[key]++
}

func (st *store) faulted(n uint64, channel, action string) {
	st.update(n, func(c *Call) { c.Fault = action })
	st.mu.Lock()
	defer st.mu.Unlock()
	st.count.channel(channel).FaultsApplied++
}

// accept counts and keeps one call's messages; b must not change afterwards.
func (st *store) accept(n uint64, b *batch) {
	hashes := make([]uint64, b.size())
	for i := range hashes {
		hashes[i] = maphash.Comparable(st.seed, identify(b, i))
	}
	st.update(n, func(c *Call) { c.Accepted = true })
	st.mu.Lock()
	defer st.mu.Unlock()
	st.close() // what comes later stands after b
	b.n, b.at = st.next(), time.Now().UTC()
	st.kept = append(st.kept, b)
	st.byMessage[b.messageID] = b
	for _, c := range b.shared.Categories {
		st.byCategory[c] = append(st.byCategory[c], b)
	}
	for i, hash := range hashes {
		st.see(b, i, hash)
	}
	st.accepted(b.size(), b.at)
}

// acceptSingle counts and keeps the message of a call that has only one, and says
// where it is.
func (st *store) acceptSingle(n uint64, e *single) (*series, int) {
	hash := maphash.Comparable(st.seed, e.identity())
	st.update(n, func(c *Call) { c.Accepted = true })
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.open == nil {
		st.open = newSeries(st.next(), st.salt)
		st.kept = append(st.kept, st.open)
	}
	s := st.open
	e.at = time.Now().UTC()
	i := s.add(e)
	st.see(s, i, hash)
	// So few that dropping the oldest leaves most of the others.
	if i+1 >= min(seriesSize, max(st.maxMessages/4, 1)) {
		st.close()
	}
	st.accepted(1, e.at)
	return s, i
}

func (st *store) next() uint64 { return st.firstKept + uint64(len(st.kept)) }

func (st *store) close() {
	if st.open != nil {
		st.open.close()
		st.open = nil
	}
}

// accepted notes that contents came, and makes room for them.
func (st *store) accepted(n int, at time.Time) {
	st.count.LastAt = at
	st.count.ContentsKept += int64(n)
	for st.count.ContentsKept > int64(st.maxMessages) {
		st.dropOldest()
	}
}

// see counts message i of m as a new delivery or as a duplicate.
func (st *store) see(m messages, i int, hash uint64) {
	id := identify(m, i)
	count := st.count.channel(id.channel)
	count.Messages++
	if id.delivery == "" {
		count.WithoutDelivery++
		count.Distinct++
		return
	}
	ref, seen := st.first[hash]
	if !seen {
		st.first[hash] = m.number()<<refBits | uint64(i)
		count.Distinct++
		return
	}
	earlier, at := st.referred(ref)
	if earlier != nil && identify(earlier, at) != id {
		count.Distinct++ // two ids with one hash
		return
	}
	count.Duplicates++
	if earlier != nil && replaces(m, i, earlier, at) {
		count.Replaced++
	}
	st.list(id, m.sighting(i), func() []Sighting {
		if earlier == nil {
			return nil
		}
		return []Sighting{earlier.sighting(at)}
	})
}

// list adds a sighting to a duplicate; first gives the one before the first that
// was noticed, where it is still known.
func (st *store) list(id identity, now Sighting, first func() []Sighting) {
	num, listed := st.duplicateNum[id]
	if !listed {
		if len(st.duplicates) == maxDuplicates {
			return
		}
		num = len(st.duplicates)
		st.duplicateNum[id] = num
		st.duplicates = append(st.duplicates, Duplicate{
			Delivery: id.delivery, Channel: id.channel, To: id.address, Count: 1, Sightings: first(),
		})
	}
	d := &st.duplicates[num]
	d.Count++
	if len(d.Sightings) < maxSightings {
		d.Sightings = append(d.Sightings, now)
	}
}

// referred gives the message that a reference of ours is to; nil where it is no
// longer kept.
func (st *store) referred(ref uint64) (messages, int) {
	n, i := ref>>refBits, int(ref&(1<<refBits-1))
	if n < st.firstKept || n-st.firstKept >= uint64(len(st.kept)) {
		return nil, 0
	}
	m := st.kept[n-st.firstKept]
	if i >= m.size() {
		return nil, 0
	}
	return m, i
}

func (st *store) dropOldest() {
	m := st.kept[0]
	if len(st.kept) == 1 {
		st.close()
	}
	st.kept = st.kept[1:]
	st.firstKept++
	st.count.ContentsKept -= int64(m.size())
	st.count.ContentsDropped += int64(m.size())
	b, mail := m.(*batch)
	if !mail {
		return
	}
	delete(st.byMessage, b.messageID)
	for _, c := range b.shared.Categories {
		if st.byCategory[c] = st.byCategory[c][1:]; len(st.byCategory[c]) == 0 {
			delete(st.byCategory, c)
		}
	}
}

// stats is all counts; those of webhooks are added by who knows them.
func (st *store) stats(webhooks map[string]WebhookStats) Stats {
	st.mu.Lock()
	defer st.mu.Unlock()
	out := st.count
	out.ByStatus, out.ByChannel = map[string]int64{}, make(map[string]*Counts, len(st.count.ByChannel))
	for channel, count := range st.count.ByChannel {
		one := *count
		one.ByStatus, one.Webhooks = maps.Clone(count.ByStatus), webhooks[channel]
		out.ByChannel[channel] = &one
		out.Counts.add(&one)
	}
	return out
}

func (st *store) listCalls(after uint64, limit int) []Call {
	st.mu.Lock()
	defer st.mu.Unlock()
	from := 0
	if after >= st.firstCall {
		from = int(min(after-st.firstCall+1, uint64(len(st.calls))))
	}
	to := min(from+limit, len(st.calls))
	return append([]Call{}, st.calls[from:to]...)
}

// listDuplicates gives up to limit duplicates from place from on, and the place
// to go on from, 0 at the end.
func (st *store) listDuplicates(from, limit int) (items []Duplicate, next int) {
	st.mu.Lock()
	defer st.mu.Unlock()
	from = min(from, len(st.duplicates))
	to := min(from+limit, len(st.duplicates))
	items = make([]Duplicate, 0, to-from)
	for _, d := range st.duplicates[from:to] {
		d.Sightings = append([]Sighting(nil), d.Sightings...)
		items = append(items, d)
	}
	if to < len(st.duplicates) {
		next = to
	}
	return items, next
}

// all gives everything kept, in the order in which it was accepted.
func (st *store) all() []messages {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.kept
}

// mails gives the batches in order of acceptance: those of one provider message
// id, of any of the categories, or all.
func (st *store) mails(messageID string, categories []string) []*batch {
	st.mu.Lock()
	defer st.mu.Unlock()
	switch {
	case messageID != "":
		if b := st.byMessage[messageID]; b != nil {
			return []*batch{b}
		}
		return nil
	case len(categories) == 1:
		return st.byCategory[categories[0]]
	}
	out := make([]*batch, 0, len(st.byMessage))
	for _, m := range st.kept {
		if b, mail := m.(*batch); mail {
			out = append(out, b)
		}
	}
	return out
}

package sandbox

import (
	"hash/maphash"
	"maps"
	"strconv"
	"sync"
	"time"
)

const (
	// Bounds of what is listed, not of what is counted: about 100 MB and 200 MB.
	maxCalls      = 500_000
	maxDuplicates = 100_000
	maxSightings  = 16
	// refBits holds an index within one call: no provider takes more than 1,000
	// recipients in one.
	refBits = 10
)

// Call is one request to a provider.
type Call struct {
	// N numbers calls by arrival, from 1, and goes on after a reset.
	N        uint64 `json:"n"`
	Provider string `json:"provider"`
	Channel  string `json:"channel"`
	// ID is the custom argument "call"; empty when the request had none or
	// could not be read.
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
	Count    int    `json:"count"`
	// Sightings are the first 16 messages; the very first is missing when its
	// contents had been dropped before the second came.
	Sightings []Sighting `json:"sightings"`
}

// Sighting is one message of a duplicated delivery.
type Sighting struct {
	Call      string    `json:"call"`
	MessageID string    `json:"sg_message_id"`
	At        time.Time `json:"at"`
}

// Stats counts what was received since the start or the last reset.
type Stats struct {
	// Calls are requests to send, whatever became of them; RejectedCalls those
	// that the provider's own rules refused, FaultsApplied those hit by a fault.
	Calls         int64 `json:"calls"`
	RejectedCalls int64 `json:"rejected_calls"`
	FaultsApplied int64 `json:"faults_applied"`
	// Messages is accepted recipients. Distinct is distinct delivery ids, plus
	// WithoutDelivery, the messages that carry none. Duplicates is the rest.
	Messages        int64 `json:"messages"`
	Distinct        int64 `json:"distinct"`
	Duplicates      int64 `json:"duplicates"`
	WithoutDelivery int64 `json:"without_delivery"`
	// ByStatus counts finished calls by status, "none" being those cut without one.
	ByStatus map[string]int64 `json:"by_status"`
	// FirstAt is when the first call arrived, LastAt when the last message was
	// accepted; absent before.
	FirstAt time.Time `json:"first_at,omitzero"`
	LastAt  time.Time `json:"last_at,omitzero"`
	// ContentsKept is how many messages can still be shown, ContentsDropped how
	// many cannot because MaxMessages newer ones came.
	ContentsKept    int64 `json:"contents_kept"`
	ContentsDropped int64 `json:"contents_dropped"`
	MaxMessages     int   `json:"max_messages"`
	// Webhooks is about the events made of the messages; zero where they are off.
	Webhooks WebhookStats `json:"webhooks"`
}

// store keeps calls and mail. Batches are immutable once in it, so readers take
// a slice under the lock and look at it without.
type store struct {
	maxMessages int
	seed        maphash.Seed

	mu         sync.Mutex
	count      Stats
	calls      []Call // numbered firstCall, firstCall+1, ...
	firstCall  uint64
	mail       []*batch // numbered firstMail, firstMail+1, ...
	firstMail  uint64
	byMessage  map[string]*batch
	byCategory map[string][]*batch
	// first says where a delivery id was first seen: hash to batch<<refBits|index.
	// The hash keeps an entry free of pointers; a collision is found out by
	// comparing the ids themselves.
	first        map[uint64]uint64
	duplicates   []Duplicate
	duplicateNum map[string]int // delivery to its place in duplicates
}

func newStore(maxMessages int) *store {
	st := &store{maxMessages: maxMessages, seed: maphash.MakeSeed(), firstCall: 1}
	st.reset()
	return st
}

func (st *store) reset() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.count = Stats{ByStatus: map[string]int64{}, MaxMessages: st.maxMessages}
	// Numbers go on, so that a call under way cannot be mistaken for a new one.
	st.firstCall += uint64(len(st.calls))
	st.firstMail += uint64(len(st.mail))
	st.calls, st.mail, st.duplicates = nil, nil, nil
	st.byMessage, st.byCategory = map[string]*batch{}, map[string][]*batch{}
	st.first, st.duplicateNum = map[uint64]uint64{}, map[string]int{}
}

// begin writes a call down at its arrival and returns its number.
func (st *store) begin(provider, channel string, arrived time.Time) uint64 {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.count.Calls == 0 || arrived.Before(st.count.FirstAt) {
		st.count.FirstAt = arrived
	}
	st.count.Calls++
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
func (st *store) finish(n uint64, status int, refused bool) {
	st.update(n, func(c *Call) { c.Status, c.AnsweredAt = status, time.Now().UTC() })
	st.mu.Lock()
	defer st.mu.Unlock()
	if refused {
		st.count.RejectedCalls++
	}
	key := "none"
	if status != 0 {
		key = strconv.Itoa(status)
	}
	st.count.ByStatus[key]++
}

func (st *store) faulted(n uint64, action string) {
	st.update(n, func(c *Call) { c.Fault = action })
	st.mu.Lock()
	defer st.mu.Unlock()
	st.count.FaultsApplied++
}

// accept counts and keeps one call's messages; b must not change afterwards.
func (st *store) accept(n uint64, b *batch) {
	hashes := make([]uint64, b.size())
	for i := range hashes {
		_, delivery := b.who(i)
		hashes[i] = maphash.String(st.seed, delivery)
	}
	st.update(n, func(c *Call) { c.Accepted = true })
	st.mu.Lock()
	defer st.mu.Unlock()
	b.n, b.at = st.firstMail+uint64(len(st.mail)), time.Now().UTC()
	st.count.LastAt = b.at
	st.count.Messages += int64(b.size())
	st.count.ContentsKept += int64(b.size())
	st.mail = append(st.mail, b)
	st.byMessage[b.messageID] = b
	for _, c := range b.shared.Categories {
		st.byCategory[c] = append(st.byCategory[c], b)
	}
	for i, hash := range hashes {
		st.see(b, i, hash)
	}
	for st.count.ContentsKept > int64(st.maxMessages) {
		st.dropOldest()
	}
}

// see counts message i of b as a new delivery or as a duplicate.
func (st *store) see(b *batch, i int, hash uint64) {
	_, delivery := b.who(i)
	if delivery == "" {
		st.count.WithoutDelivery++
		st.count.Distinct++
		return
	}
	ref, seen := st.first[hash]
	if !seen {
		st.first[hash] = b.n<<refBits | uint64(i)
		st.count.Distinct++
		return
	}
	known := 0
	earlier, at := st.batchNumbered(ref>>refBits), int(ref&(1<<refBits-1))
	if earlier != nil {
		known = 1
		if _, other := earlier.who(at); other != delivery {
			st.count.Distinct++ // two ids with one hash
			return
		}
	}
	st.count.Duplicates++
	num, listed := st.duplicateNum[delivery]
	if !listed {
		if len(st.duplicates) == maxDuplicates {
			return
		}
		num = len(st.duplicates)
		st.duplicateNum[delivery] = num
		st.duplicates = append(st.duplicates, Duplicate{Delivery: delivery, Count: 1})
		if known == 1 {
			st.duplicates[num].Sightings = []Sighting{earlier.sighting(at)}
		}
	}
	d := &st.duplicates[num]
	d.Count++
	if len(d.Sightings) < maxSightings {
		d.Sightings = append(d.Sightings, b.sighting(i))
	}
}

func (st *store) batchNumbered(n uint64) *batch {
	if n < st.firstMail || n-st.firstMail >= uint64(len(st.mail)) {
		return nil
	}
	return st.mail[n-st.firstMail]
}

func (st *store) dropOldest() {
	b := st.mail[0]
	st.mail = st.mail[1:]
	st.firstMail++
	st.count.ContentsKept -= int64(b.size())
	st.count.ContentsDropped += int64(b.size())
	delete(st.byMessage, b.messageID)
	for _, c := range b.shared.Categories {
		if st.byCategory[c] = st.byCategory[c][1:]; len(st.byCategory[c]) == 0 {
			delete(st.byCategory, c)
		}
	}
}

func (st *store) stats() Stats {
	st.mu.Lock()
	defer st.mu.Unlock()
	out := st.count
	out.ByStatus = maps.Clone(st.count.ByStatus)
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

// snapshot gives the batches in order of acceptance: those of one provider
// message id, of any of the categories, or all.
func (st *store) snapshot(messageID string, categories []string) []*batch {
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
	default:
		return st.mail
	}
}

package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/google/go-cmp/cmp"

	fanfare "github.com/fanfare-dev/fanfare"
)

// fakeLedger keeps everything in memory. It promises what the ledger promises
// to the server, and fails or waits on demand.
type fakeLedger struct {
	mu            sync.Mutex
	topics        map[fanfare.Topic]string
	people        map[fanfare.SubscriberID]fanfare.Subscriber
	subscriptions map[string]bool
	publications  []fanfare.Publication // oldest first
	drafts        map[fanfare.Key]fanfare.Draft
	keys          map[string]fanfare.Draft
	deliveries    []fanfare.Delivery
	ended         map[fanfare.UnsubscribeLink]int
	chunks        []int
	outageBooks
	templateBooks
	refusals refusals
	wishes
	mailroom

	fail   error                                // what every call returns
	inside func(ctx context.Context, op string) // called in every call
}

func newFakeLedger() *fakeLedger {
	return &fakeLedger{
		topics:        map[fanfare.Topic]string{"writer-1": "Ada Lovelace"},
		people:        map[fanfare.SubscriberID]fanfare.Subscriber{},
		subscriptions: map[string]bool{},
		drafts:        map[fanfare.Key]fanfare.Draft{},
		keys:          map[string]fanfare.Draft{},
		ended:         map[fanfare.UnsubscribeLink]int{},
		wishes:        newWishes(),
	}
}

// enter gives what leaves again. Until then nobody else is inside, also where it failed.
func (f *fakeLedger) enter(ctx context.Context, op string) (func(), error) {
	f.mu.Lock()
	inside, fail := f.inside, f.fail
	f.mu.Unlock()
	if inside != nil {
		inside(ctx, op)
	}
	f.mu.Lock()
	for _, err := range []error{ctx.Err(), fail} {
		if err != nil {
			return f.mu.Unlock, fmt.Errorf("%s: %w", op, err)
		}
	}
	return f.mu.Unlock, nil
}

func (f *fakeLedger) set(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
}

func (f *fakeLedger) Accept(ctx context.Context, draft fanfare.Draft, idempotencyKey string) (fanfare.Publication, error) {
	leave, err := f.enter(ctx, "accept "+string(draft.Key))
	defer leave()
	if err != nil {
		return fanfare.Publication{}, err
	}
	if before, used := f.keys[idempotencyKey]; used && idempotencyKey != "" && !cmp.Equal(before, draft) {
		return fanfare.Publication{}, fmt.Errorf("accept %s: %w", draft.Key, fanfare.ErrKeyReused)
	}
	if before, taken := f.drafts[draft.Key]; taken {
		i := slices.IndexFunc(f.publications, func(p fanfare.Publication) bool { return p.Key == draft.Key })
		if !cmp.Equal(before.Content, draft.Content) {
			return fanfare.Publication{}, &fanfare.ConflictError{Key: draft.Key, ID: f.publications[i].ID, Fields: []string{"content.title"}}
		}
		return f.publications[i], nil
	}
	p := f.newPublication(draft)
	f.drafts[draft.Key], f.keys[idempotencyKey] = draft, draft
	f.publications = append(f.publications, p)
	return p, nil
}

func (f *fakeLedger) newPublication(draft fanfare.Draft) fanfare.Publication {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	return fanfare.Publication{
		ID:  fanfare.PublicationID(fmt.Sprintf("0199c7a0-0000-7000-8000-%012d", len(f.publications)+1)),
		Key: draft.Key, Topic: draft.Topic, Class: fanfare.Bulk, Channels: []fanfare.Channel{fanfare.Email},
		State: fanfare.Accepted, AcceptedAt: at, ExpiresAt: at.Add(24 * time.Hour), ScheduledAt: draft.ScheduledAt,
		Totals: fanfare.Totals{Intended: 3, Pending: 3},
	}
}

func (f *fakeLedger) FindPublication(ctx context.Context, idOrKey string) (fanfare.Publication, error) {
	return f.find(ctx, func(p fanfare.Publication) bool { return string(p.Key) == idOrKey || string(p.ID) == idOrKey })
}

func (f *fakeLedger) Publication(ctx context.Context, id fanfare.PublicationID) (fanfare.Publication, error) {
	return f.find(ctx, func(p fanfare.Publication) bool { return p.ID == id })
}

func (f *fakeLedger) find(ctx context.Context, is func(fanfare.Publication) bool) (fanfare.Publication, error) {
	leave, err := f.enter(ctx, "read publication")
	defer leave()
	if err != nil {
		return fanfare.Publication{}, err
	}
	if i := slices.IndexFunc(f.publications, is); i >= 0 {
		return f.publications[i], nil
	}
	return fanfare.Publication{}, fmt.Errorf("read publication: %w", fanfare.ErrNotFound)
}

func (f *fakeLedger) TopicExists(ctx context.Context, topic fanfare.Topic) (bool, error) {
	leave, err := f.enter(ctx, "find topic")
	defer leave()
	_, exists := f.topics[topic]
	return exists, err
}

func (f *fakeLedger) Publications(ctx context.Context, q fanfare.PublicationQuery) ([]fanfare.Publication, error) {
	leave, err := f.enter(ctx, "list publications")
	defer leave()
	var list []fanfare.Publication
	for _, p := range slices.Backward(f.publications) {
		if (q.Topic == "" || q.Topic == p.Topic) && (q.State == "" || q.State == p.State) && (q.Before == "" || p.ID < q.Before) && len(list) < q.Limit {
			list = append(list, p)
		}
	}
	return list, err
}

func (f *fakeLedger) Cancel(ctx context.Context, id fanfare.PublicationID) (fanfare.Publication, error) {
	return f.turn(ctx, "cancel", id, fanfare.Cancelled, fanfare.Accepted, fanfare.Paused, fanfare.Cancelled)
}

func (f *fakeLedger) Pause(ctx context.Context, id fanfare.PublicationID) (fanfare.Publication, error) {
	return f.turn(ctx, "pause", id, fanfare.Paused, fanfare.Accepted, fanfare.Paused)
}

func (f *fakeLedger) Resume(ctx context.Context, id fanfare.PublicationID) (fanfare.Publication, error) {
	return f.turn(ctx, "resume", id, fanfare.Running, fanfare.Paused, fanfare.Running)
}

func (f *fakeLedger) turn(ctx context.Context, op string, id fanfare.PublicationID, to fanfare.PublicationState, from ...fanfare.PublicationState) (fanfare.Publication, error) {
	leave, err := f.enter(ctx, op)
	defer leave()
	if err != nil {
		return fanfare.Publication{}, err
	}
	i := slices.IndexFunc(f.publications, func(p fanfare.Publication) bool { return p.ID == id })
	if i < 0 {
		return fanfare.Publication{}, fmt.Errorf("%s %s: %w", op, id, fanfare.ErrNotFound)
	}
	if state := f.publications[i].State; !slices.Contains(from, state) {
		return fanfare.Publication{}, fmt.Errorf("%s %s: it is %s: %w", op, id, state, fanfare.ErrWrongState)
	}
	f.publications[i].State = to
	return f.publications[i], nil
}

func (f *fakeLedger) Deliveries(ctx context.Context, q fanfare.DeliveryQuery) ([]fanfare.Delivery, error) {
	if _, err := f.Publication(ctx, q.Publication); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []fanfare.Delivery
	for _, d := range f.deliveries {
		after := q.After == nil || d.ID > q.After.String()
		if d.Publication == q.Publication && (q.Channel == "" || q.Channel == d.Channel) && (q.State == "" || q.State == d.State) && after && len(list) < q.Limit {
			list = append(list, d)
		}
	}
	return list, nil
}

func (f *fakeLedger) Delivery(ctx context.Context, id fanfare.DeliveryID) (fanfare.Delivery, error) {
	leave, err := f.enter(ctx, "read delivery")
	defer leave()
	if err != nil {
		return fanfare.Delivery{}, err
	}
	for _, d := range f.deliveries {
		if d.ID == id.String() {
			return d, nil
		}
	}
	return fanfare.Delivery{}, fmt.Errorf("read delivery %s: %w", id, fanfare.ErrNotFound)
}

func (f *fakeLedger) PutTopic(ctx context.Context, topic fanfare.Topic, name string, defaults map[fanfare.Channel]bool) (map[fanfare.Channel]bool, bool, error) {
	leave, err := f.enter(ctx, "put topic")
	defer leave()
	if err != nil {
		return nil, false, err
	}
	_, there := f.topics[topic]
	f.topics[topic] = name
	return f.setDefaults(topic, defaults), !there, nil
}

func (f *fakeLedger) PutSubscriber(ctx context.Context, s fanfare.Subscriber) (bool, error) {
	leave, err := f.enter(ctx, "put subscriber")
	defer leave()
	if err != nil {
		return false, err
	}
	_, there := f.people[s.ID]
	f.people[s.ID] = s
	return !there, nil
}

func (f *fakeLedger) Subscriber(ctx context.Context, id fanfare.SubscriberID) (fanfare.Subscriber, error) {
	leave, err := f.enter(ctx, "read subscriber")
	defer leave()
	s, there := f.people[id]
	if err == nil && !there {
		err = fmt.Errorf("read subscriber %s: %w", id, fanfare.ErrNotFound)
	}
	return s, err
}

func (f *fakeLedger) EraseSubscriber(ctx context.Context, id fanfare.SubscriberID) error {
	if _, err := f.Subscriber(ctx, id); err != nil {
		return err
	}
	f.set(func() { delete(f.people, id) })
	return nil
}

func (f *fakeLedger) Subscribe(ctx context.Context, topic fanfare.Topic, id fanfare.SubscriberID) (bool, error) {
	leave, err := f.enter(ctx, "subscribe")
	defer leave()
	if err != nil {
		return false, err
	}
	if _, there := f.topics[topic]; !there {
		return false, fmt.Errorf("subscribe: %w", fanfare.ErrUnknownTopic)
	}
	if _, there := f.people[id]; !there {
		return false, fmt.Errorf("subscribe: %w", fanfare.ErrNotFound)
	}
	name := string(topic) + " " + string(id)
	open := f.subscriptions[name]
	f.subscriptions[name] = true
	return !open, nil
}

func (f *fakeLedger) Unsubscribe(ctx context.Context, topic fanfare.Topic, id fanfare.SubscriberID) error {
	if _, err := f.Subscribe(ctx, topic, id); err != nil {
		return err
	}
	f.set(func() { f.subscriptions[string(topic)+" "+string(id)] = false })
	return nil
}

func (f *fakeLedger) Import(ctx context.Context, topic fanfare.Topic, next func(context.Context) ([]fanfare.ImportLine, error)) (fanfare.ImportReport, error) {
	var report fanfare.ImportReport
	if exists, err := f.TopicExists(ctx, topic); err != nil || !exists {
		return report, errors.Join(err, fmt.Errorf("import: %w", fanfare.ErrUnknownTopic))
	}
	seen := map[fanfare.SubscriberID]bool{}
	for {
		lines, err := next(ctx)
		if errors.Is(err, io.EOF) {
			return report, nil
		}
		if err != nil {
			return report, fmt.Errorf("import into %s: %w", topic, err)
		}
		if err := f.importChunk(ctx, lines, seen, &report); err != nil {
			return report, err
		}
	}
}

func (f *fakeLedger) importChunk(ctx context.Context, lines []fanfare.ImportLine, seen map[fanfare.SubscriberID]bool, report *fanfare.ImportReport) error {
	leave, err := f.enter(ctx, "import chunk")
	defer leave()
	if err != nil {
		return err
	}
	f.chunks = append(f.chunks, len(lines))
	for _, line := range lines {
		s := line.Subscriber
		before, there := f.people[s.ID]
		switch {
		case seen[s.ID]:
			report.Reject(line.Line, "the id stands on an earlier line already")
			continue
		case !there:
			report.Created++
		case !cmp.Equal(before, s):
			report.Updated++
		default:
			report.Unchanged++
		}
		seen[s.ID] = true
		f.people[s.ID] = s
	}
	return nil
}

func (f *fakeLedger) LinkTopic(ctx context.Context, link fanfare.UnsubscribeLink) (string, error) {
	leave, err := f.enter(ctx, "read topic")
	defer leave()
	if err == nil && link.Topic != 1 {
		err = fmt.Errorf("read topic: %w", fanfare.ErrNotFound)
	}
	return f.topics["writer-1"], err
}

func (f *fakeLedger) EndSubscription(ctx context.Context, link fanfare.UnsubscribeLink) error {
	leave, err := f.enter(ctx, "end subscription")
	defer leave()
	if err == nil {
		f.ended[link]++
	}
	return err
}

func (f *fakeLedger) Ping(ctx context.Context) error {
	leave, err := f.enter(ctx, "ping")
	defer leave()
	return err
}

package server

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/google/go-cmp/cmp"

	fanfare "github.com/fanfare-dev/fanfare"
)

// outageBooks is the part of fakeLedger that replays, breakers and events are in.
type outageBooks struct {
	preview    fanfare.ReplayPreview
	replays    []fanfare.Replay // oldest first
	replayKeys map[string]fanfare.Replay
	providers  []fanfare.Provider
	events     []fanfare.ProviderEvent
	inserts    int
}

func (f *fakeLedger) findFiltered(op string, filter fanfare.ReplayFilter) error {
	known := func(p fanfare.Publication) bool {
		return string(p.ID) == filter.Publication || string(p.Key) == filter.Publication
	}
	if filter.Publication != "" && !slices.ContainsFunc(f.publications, known) {
		return fmt.Errorf("%s: %w", op, fanfare.ErrNotFound)
	}
	return nil
}

func (f *fakeLedger) PreviewReplay(ctx context.Context, filter fanfare.ReplayFilter) (fanfare.ReplayPreview, error) {
	leave, err := f.enter(ctx, "preview replay")
	defer leave()
	if err == nil {
		err = f.findFiltered("preview replay", filter)
	}
	return f.preview, err
}

func (f *fakeLedger) AcceptReplay(ctx context.Context, filter fanfare.ReplayFilter, key string) (fanfare.Replay, error) {
	leave, err := f.enter(ctx, "accept replay")
	defer leave()
	if err == nil {
		err = f.findFiltered("accept replay", filter)
	}
	if err != nil {
		return fanfare.Replay{}, err
	}
	if before, used := f.replayKeys[key]; used && key != "" {
		if !cmp.Equal(before.Filter, filter) {
			return fanfare.Replay{}, fmt.Errorf("accept replay: %w", fanfare.ErrKeyReused)
		}
		return before, nil
	}
	replay := fanfare.Replay{
		ID:     fanfare.ReplayID(fmt.Sprintf("0199c7b0-0000-7000-8000-%012d", len(f.replays)+1)),
		Filter: filter, State: fanfare.ReplayRunning, CreatedAt: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		Count: f.preview.Count, Waiting: f.preview.Count,
	}
	f.replays = append(f.replays, replay)
	if f.replayKeys == nil {
		f.replayKeys = map[string]fanfare.Replay{}
	}
	f.replayKeys[key] = replay
	return replay, nil
}

func (f *fakeLedger) Replay(ctx context.Context, id fanfare.ReplayID) (fanfare.Replay, error) {
	leave, err := f.enter(ctx, "read replay")
	defer leave()
	if err != nil {
		return fanfare.Replay{}, err
	}
	i := slices.IndexFunc(f.replays, func(r fanfare.Replay) bool { return r.ID == id })
	if i < 0 {
		return fanfare.Replay{}, fmt.Errorf("read replay %s: %w", id, fanfare.ErrNotFound)
	}
	return f.replays[i], nil
}

func (f *fakeLedger) CancelReplay(ctx context.Context, id fanfare.ReplayID) (fanfare.Replay, error) {
	before, err := f.Replay(ctx, id)
	if err != nil {
		return before, err
	}
	if before.State == fanfare.ReplayCompleted {
		return before, fmt.Errorf("cancel replay %s: it is %s: %w", id, before.State, fanfare.ErrWrongState)
	}
	before.State = fanfare.ReplayCancelled
	before.Passed, before.Waiting = before.Waiting, 0
	f.set(func() {
		i := slices.IndexFunc(f.replays, func(r fanfare.Replay) bool { return r.ID == id })
		f.replays[i] = before
	})
	return before, nil
}

func (f *fakeLedger) Replays(ctx context.Context, before fanfare.ReplayID, limit int) ([]fanfare.Replay, error) {
	leave, err := f.enter(ctx, "list replays")
	defer leave()
	var list []fanfare.Replay
	for _, r := range slices.Backward(f.replays) {
		if (before == "" || r.ID < before) && len(list) < limit {
			list = append(list, r)
		}
	}
	return list, err
}

func (f *fakeLedger) Providers(ctx context.Context) ([]fanfare.Provider, error) {
	leave, err := f.enter(ctx, "list providers")
	defer leave()
	return slices.Clone(f.providers), err
}

func (f *fakeLedger) OpenProvider(ctx context.Context, name string, pin bool) error {
	return f.turnProvider(ctx, name, pin, fanfare.BreakerOpen)
}

func (f *fakeLedger) CloseProvider(ctx context.Context, name string, pin bool) error {
	return f.turnProvider(ctx, name, pin, fanfare.BreakerClosed)
}

func (f *fakeLedger) turnProvider(ctx context.Context, name string, pin bool, to fanfare.BreakerState) error {
	leave, err := f.enter(ctx, "turn provider")
	defer leave()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(f.providers, func(p fanfare.Provider) bool { return p.Name == name })
	if i < 0 {
		return fmt.Errorf("turn provider %s: %w", name, fanfare.ErrNotFound)
	}
	f.providers[i].State, f.providers[i].Pinned = to, pin
	return nil
}

func (f *fakeLedger) TakeEvents(ctx context.Context, events []fanfare.ProviderEvent) error {
	leave, err := f.enter(ctx, "take events")
	defer leave()
	if err != nil {
		return err
	}
	f.inserts++
	f.events = append(f.events, events...)
	return nil
}

// calledWebhook notes where it was called, as the provider wrote it.
type calledWebhook struct{ at chan string }

func (w calledWebhook) Events(uri string, _ http.Header, _ []byte, _ time.Time) ([]fanfare.ProviderEvent, error) {
	w.at <- uri
	return nil, nil
}

// fakeWebhook takes a body whose header names its signature, and reads an event
// from each of its bytes.
type fakeWebhook struct{}

func (fakeWebhook) Events(_ string, header http.Header, body []byte, now time.Time) ([]fanfare.ProviderEvent, error) {
	switch header.Get("Signature") {
	case "good":
	case "stale":
		return nil, fmt.Errorf("check signature: %w", fanfare.ErrStaleSignature)
	case "unreadable":
		return nil, &fanfare.InvalidError{Violations: []fanfare.Violation{{Field: "body", Detail: "is no list of events"}}}
	default:
		return nil, fmt.Errorf("check signature: %w", fanfare.ErrBadSignature)
	}
	var events []fanfare.ProviderEvent
	for _, b := range body {
		events = append(events, fanfare.ProviderEvent{Provider: "sendgrid", Type: fanfare.EventDelivered, At: now, Address: string(b) + "@mail.example"})
	}
	return events, nil
}

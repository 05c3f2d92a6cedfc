package server

import (
	"context"
	"fmt"
	"maps"
	"slices"

	fanfare "github.com/fanfare-dev/fanfare"
)

var allChannels = []fanfare.Channel{fanfare.Email, fanfare.SMS, fanfare.Push, fanfare.InApp}

// wishes is the part of fakeLedger that preferences are in. Its only subscriber has the
// number 42, the id reader-1 and a subscription to writer-1.
type wishes struct {
	defaults map[fanfare.Topic]map[fanfare.Channel]bool
	said     fanfare.Preferences
	given    []fanfare.Preferences // what was put, in order
	changes  []fanfare.PreferenceChange
	left     bool // the subscription has ended
}

func newWishes() wishes {
	return wishes{
		defaults: map[fanfare.Topic]map[fanfare.Channel]bool{},
		said:     fanfare.Preferences{Channels: map[fanfare.Channel]bool{}, Topics: map[fanfare.Topic]map[fanfare.Channel]bool{}},
	}
}

func (w *wishes) setDefaults(topic fanfare.Topic, defaults map[fanfare.Channel]bool) map[fanfare.Channel]bool {
	if w.defaults[topic] == nil {
		w.defaults[topic] = map[fanfare.Channel]bool{fanfare.Email: true, fanfare.SMS: true, fanfare.Push: true, fanfare.InApp: true}
	}
	maps.Copy(w.defaults[topic], defaults)
	return w.defaults[topic]
}

// wants is the rule; whole leaves the channel's own setting out.
func (w *wishes) wants(channel fanfare.Channel, whole bool) bool {
	if on, said := w.said.Channels[channel]; said && !on && whole {
		return false
	}
	if on, said := w.said.Topics["writer-1"][channel]; said {
		return on
	}
	return w.setDefaults("writer-1", nil)[channel]
}

func (f *fakeLedger) SubscriberNumber(ctx context.Context, id fanfare.SubscriberID) (fanfare.SubscriberNumber, error) {
	leave, err := f.enter(ctx, "find subscriber")
	defer leave()
	if err == nil && id != "reader-1" {
		err = fmt.Errorf("find subscriber %s: %w", id, fanfare.ErrNotFound)
	}
	return 42, err
}

func (f *fakeLedger) Preferences(ctx context.Context, number fanfare.SubscriberNumber) (fanfare.StandingPreferences, error) {
	leave, err := f.enter(ctx, "read preferences")
	defer leave()
	if err == nil && number != 42 {
		err = fmt.Errorf("read preferences: %w", fanfare.ErrNotFound)
	}
	return f.standing(), err
}

func (f *fakeLedger) standing() fanfare.StandingPreferences {
	effective := map[fanfare.Channel]bool{}
	for _, channel := range allChannels {
		effective[channel] = f.wants(channel, true)
	}
	return fanfare.StandingPreferences{Preferences: f.said, Effective: map[fanfare.Topic]map[fanfare.Channel]bool{"writer-1": effective}}
}

func (f *fakeLedger) PutPreferences(ctx context.Context, number fanfare.SubscriberNumber, given fanfare.Preferences) (fanfare.StandingPreferences, error) {
	leave, err := f.enter(ctx, "put preferences")
	defer leave()
	if err != nil {
		return fanfare.StandingPreferences{}, err
	}
	var violations []fanfare.Violation
	for _, topic := range slices.Sorted(maps.Keys(given.Topics)) {
		if _, there := f.topics[topic]; !there {
			violations = append(violations, fanfare.Violation{Field: "topics." + string(topic), Detail: "does not exist"})
		}
	}
	if violations != nil {
		return fanfare.StandingPreferences{}, &fanfare.InvalidError{Violations: violations}
	}
	f.given = append(f.given, given)
	maps.Copy(f.said.Channels, given.Channels)
	for topic, wanted := range given.Topics {
		if f.said.Topics[topic] == nil {
			f.said.Topics[topic] = map[fanfare.Channel]bool{}
		}
		maps.Copy(f.said.Topics[topic], wanted)
	}
	return f.standing(), nil
}

func (f *fakeLedger) PreferenceChanges(ctx context.Context, _ fanfare.SubscriberNumber, before int64, limit int) ([]fanfare.PreferenceChange, error) {
	leave, err := f.enter(ctx, "list changes")
	defer leave()
	var list []fanfare.PreferenceChange
	for _, change := range slices.Backward(f.changes) {
		if (before == 0 || change.ID < before) && len(list) < limit {
			list = append(list, change)
		}
	}
	return list, err
}

func (f *fakeLedger) LinkedPreferences(ctx context.Context, link fanfare.PreferencesLink) (fanfare.LinkedPreferences, error) {
	leave, err := f.enter(ctx, "read linked preferences")
	defer leave()
	if err == nil && link.Number != 42 {
		err = fmt.Errorf("read preferences: %w", fanfare.ErrNotFound)
	}
	if err != nil {
		return fanfare.LinkedPreferences{}, err
	}
	linked := fanfare.LinkedPreferences{Channels: map[fanfare.Channel]bool{}, OfTopic: map[fanfare.Channel]bool{}}
	if link.Topic == 1 {
		linked.TopicName = f.topics["writer-1"]
		if !f.left {
			linked.Topic = "writer-1"
		}
	}
	for _, channel := range allChannels {
		on, said := f.said.Channels[channel]
		linked.Channels[channel] = on || !said
		linked.OfTopic[channel] = f.wants(channel, false)
	}
	return linked, nil
}

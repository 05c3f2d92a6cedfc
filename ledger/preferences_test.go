package ledger_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/ledger"
)

type (
	byChannel = map[fanfare.Channel]bool
	byTopic   = map[fanfare.Topic]map[fanfare.Channel]bool
)

func allOn() byChannel {
	return byChannel{fanfare.Email: true, fanfare.SMS: true, fanfare.Push: true, fanfare.InApp: true}
}

func (w *world) prefer(number fanfare.SubscriberNumber, given fanfare.Preferences) fanfare.StandingPreferences {
	w.t.Helper()
	standing, err := w.PutPreferences(w.t.Context(), number, given)
	require.NoError(w.t, err)
	return standing
}

// changes reads the audit, oldest first: topic, channel, what was and what became.
func (w *world) changes(number fanfare.SubscriberNumber) []string {
	w.t.Helper()
	list, err := w.PreferenceChanges(w.t.Context(), number, 0, 1000)
	require.NoError(w.t, err)
	words := make([]string, 0, len(list))
	for _, c := range slices.Backward(list) {
		was := "-"
		if c.Was != nil {
			was = fmt.Sprint(*c.Was)
		}
		words = append(words, fmt.Sprintf("%s %s %s %t", c.Topic, c.Channel, was, c.Became))
	}
	return words
}

func TestPreferencesAreAsBeforeWhereNothingIsGiven(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(2)
	w.topic("writer-2")
	standing, err := w.Preferences(t.Context(), 1)
	require.NoError(t, err)
	require.Equal(t, fanfare.StandingPreferences{
		Preferences: fanfare.Preferences{Channels: byChannel{}, Topics: byTopic{}}, Effective: byTopic{"writer-1": allOn()},
	}, standing, "who said nothing")

	w.prefer(1, fanfare.Preferences{Channels: byChannel{fanfare.Email: true, fanfare.SMS: false}, Topics: byTopic{"writer-1": {fanfare.Email: false}}})
	got := w.prefer(1, fanfare.Preferences{Channels: byChannel{fanfare.Push: false}, Topics: byTopic{"writer-2": {fanfare.InApp: true}, "writer-1": {}}})
	want := fanfare.StandingPreferences{
		Preferences: fanfare.Preferences{
			Channels: byChannel{fanfare.Email: true, fanfare.SMS: false, fanfare.Push: false},
			Topics:   byTopic{"writer-1": {fanfare.Email: false}, "writer-2": {fanfare.InApp: true}},
		},
		Effective: byTopic{"writer-1": {fanfare.Email: false, fanfare.SMS: false, fanfare.Push: false, fanfare.InApp: true}},
	}
	require.Empty(t, cmp.Diff(want, got))
	require.Empty(t, cmp.Diff(want, w.prefer(1, fanfare.Preferences{})))
	other, err := w.Preferences(t.Context(), 2)
	require.NoError(t, err)
	require.Empty(t, other.Channels, "another person")

	w.unsubscribe(1)
	standing, err = w.Preferences(t.Context(), 1)
	require.NoError(t, err)
	require.Empty(t, standing.Effective, "nothing is subscribed to")
	require.Equal(t, want.Topics, standing.Topics, "what was said stays said")
}

// TestOnlyRealChangesAreWrittenDown: the audit has each change once, and saying the same
// again is none.
func TestOnlyRealChangesAreWrittenDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(1)
	for range 2 {
		w.prefer(1, fanfare.Preferences{Channels: byChannel{fanfare.SMS: false, fanfare.Email: true}, Topics: byTopic{"writer-1": {fanfare.Push: false}}})
	}
	w.prefer(1, fanfare.Preferences{Channels: byChannel{fanfare.SMS: true, fanfare.Email: true}, Topics: byTopic{"writer-1": {fanfare.Push: true, fanfare.Email: false}}})
	want := []string{" email - true", " sms - false", "writer-1 push - false", " sms false true", "writer-1 email - false", "writer-1 push false true"}
	require.Equal(t, want, w.changes(1))

	var paged []fanfare.PreferenceChange
	for before := int64(0); ; before = paged[len(paged)-1].ID {
		list, err := w.PreferenceChanges(t.Context(), 1, before, 2)
		require.NoError(t, err)
		if len(list) == 0 {
			break
		}
		paged = append(paged, list...)
	}
	whole, err := w.PreferenceChanges(t.Context(), 1, 0, 100)
	require.NoError(t, err)
	require.Equal(t, whole, paged)
}

func TestPreferencesNameEveryUnknownTopic(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(1)
	_, err := w.PutPreferences(t.Context(), 1, fanfare.Preferences{
		Channels: byChannel{fanfare.Email: false}, Topics: byTopic{"writer-9": {}, "writer-1": {fanfare.SMS: false}, "writer-8": {fanfare.Email: true}},
	})
	var invalid *fanfare.InvalidError
	require.ErrorAs(t, err, &invalid)
	require.Equal(t, []string{"topics.writer-8", "topics.writer-9"}, []string{invalid.Violations[0].Field, invalid.Violations[1].Field})
	require.Empty(t, w.changes(1), "nothing of it was taken")

	for _, number := range []fanfare.SubscriberNumber{0, 2} {
		_, err = w.PutPreferences(t.Context(), number, fanfare.Preferences{})
		require.ErrorIs(t, err, fanfare.ErrNotFound)
		_, err = w.Preferences(t.Context(), number)
		require.ErrorIs(t, err, fanfare.ErrNotFound)
		_, err = w.LinkedPreferences(t.Context(), fanfare.PreferencesLink{Topic: 1, Number: number})
		require.ErrorIs(t, err, fanfare.ErrNotFound)
	}
	_, err = w.SubscriberNumber(t.Context(), "nobody")
	require.ErrorIs(t, err, fanfare.ErrNotFound)
	number, err := w.SubscriberNumber(t.Context(), "reader-1")
	require.NoError(t, err)
	require.EqualValues(t, 1, number)
}

func TestPreferencesOfTooManyTopics(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(1)
	w.exec(`INSERT INTO topics (topic, name) SELECT 'topic-' || n, 'A name' FROM generate_series(1, $1) n`, fanfare.MaxPreferredTopics)
	w.exec(`INSERT INTO topic_preferences SELECT 1, topic_id, 'email', true FROM topics WHERE topic LIKE 'topic-%'`)
	w.exec(`INSERT INTO subscriptions (topic_id, subscriber_number, began_cut) SELECT topic_id, 1, nextval('cuts') FROM topics WHERE topic LIKE 'topic-%'`)
	_, err := w.PutPreferences(t.Context(), 1, fanfare.Preferences{Topics: byTopic{"writer-1": {fanfare.Email: false}}})
	var invalid *fanfare.InvalidError
	require.ErrorAs(t, err, &invalid)
	require.Equal(t, "topics", invalid.Violations[0].Field)
	standing := w.prefer(1, fanfare.Preferences{Topics: byTopic{"topic-7": {fanfare.Email: false}}})
	require.Len(t, standing.Topics, fanfare.MaxPreferredTopics)
	require.Len(t, standing.Effective, fanfare.MaxPreferredTopics, "of 1,001")
	require.NotContains(t, standing.Effective, fanfare.Topic("writer-1"), "the last by name")
}

// TestWritersOfOnePersonsPreferencesFollowEachOther: many write at once, and the audit
// is one unbroken story for each setting, that ends where the setting stands.
func TestWritersOfOnePersonsPreferencesFollowEachOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(1)
	atOnce(t, 40, func(i int) error {
		on := i%2 == 0
		_, err := w.PutPreferences(t.Context(), 1, fanfare.Preferences{
			Channels: byChannel{fanfare.Email: on, fanfare.SMS: !on}, Topics: byTopic{"writer-1": {fanfare.Email: on}},
		})
		return err
	})
	list, err := w.PreferenceChanges(t.Context(), 1, 0, 1000)
	require.NoError(t, err)
	stands := map[string]bool{}
	for _, c := range slices.Backward(list) {
		setting := string(c.Topic) + " " + string(c.Channel)
		before, said := stands[setting]
		require.Equal(t, said, c.Was != nil, setting)
		if said {
			require.Equal(t, before, *c.Was, setting)
			require.NotEqual(t, before, c.Became, "%s: no change at all", setting)
		}
		stands[setting] = c.Became
	}
	standing, err := w.Preferences(t.Context(), 1)
	require.NoError(t, err)
	require.Equal(t, map[string]bool{
		" email": standing.Channels[fanfare.Email], " sms": standing.Channels[fanfare.SMS], "writer-1 email": standing.Topics["writer-1"][fanfare.Email],
	}, stands)
}

func TestTopicDefaults(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	put := func(defaults byChannel) byChannel {
		standing, _, err := w.PutTopic(t.Context(), "writer-1", "Writer One", defaults)
		require.NoError(t, err)
		return standing
	}
	require.Equal(t, byChannel{fanfare.Email: true, fanfare.SMS: false, fanfare.Push: true, fanfare.InApp: true}, put(byChannel{fanfare.SMS: false, fanfare.Email: true}))
	require.Equal(t, byChannel{fanfare.Email: true, fanfare.SMS: false, fanfare.Push: true, fanfare.InApp: true}, put(nil), "left out: as before")
	require.Equal(t, byChannel{fanfare.Email: true, fanfare.SMS: false, fanfare.Push: false, fanfare.InApp: true}, put(byChannel{fanfare.Push: false}))
	require.Equal(t, allOn(), put(byChannel{fanfare.SMS: true, fanfare.Push: true}))
	w.topic("writer-2")
	require.Equal(t, 2, one[int](w, `SELECT count(*) FROM topics WHERE off_by_default = '{}'`))
}

// TestThePreferenceRule claims for one subscriber of each combination of what can be said
// of the channel and of the topic, over each channel, with the topic on and off by
// default, as bulk and as transactional. The claim, what the subscriber is shown as
// effective, and what the page shows must all be the rule's answer.
func TestThePreferenceRule(t *testing.T) {
	t.Parallel()
	yes, no := true, false
	said := []*bool{nil, &yes, &no}
	for _, channel := range []fanfare.Channel{fanfare.Email, fanfare.SMS, fanfare.Push, fanfare.InApp} {
		for _, onByDefault := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, default %t", channel, onByDefault), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, func(c *ledger.Config) { c.Channels = []fanfare.Channel{channel} })
				_, _, err := w.PutTopic(t.Context(), "writer-1", "Writer One", byChannel{channel: onByDefault})
				require.NoError(t, err)
				wants := w.sayEverything(channel, said, onByDefault)
				wanted := slices.DeleteFunc(slices.Sorted(maps.Keys(wants)), func(number int) bool { return !wants[number] })
				require.NotEmpty(t, wanted)
				for class, want := range map[fanfare.Class][]int{fanfare.Bulk: wanted, fanfare.Transactional: slices.Sorted(maps.Keys(wants))} {
					ref := w.runningAs(class, channel)
					got := numbers(w.claimNew(ref, 100))
					require.Equal(t, want, got, "%s", class)
					for number := range wants {
						if !slices.Contains(want, number) {
							require.Equal(t, "skipped opted_out", w.state(ref, number))
						}
					}
				}
				w.balanced()
			})
		}
	}
}

// sayEverything subscribes one person for each pair of things said of the channel and of
// the topic, and gives what the rule makes of it, by number.
func (w *world) sayEverything(channel fanfare.Channel, said []*bool, onByDefault bool) map[int]bool {
	w.t.Helper()
	wants := map[int]bool{}
	number := 0
	for _, ofChannel := range said {
		for _, ofTopic := range said {
			number++
			w.put(fanfare.Subscriber{
				ID: reader(number), Email: fmt.Sprintf("reader-%d@mail.example", number), Phone: fmt.Sprintf("+3460000%04d", number),
				Devices: []fanfare.Device{{Token: fmt.Sprintf("token-%d", number)}},
			})
			w.subscribe(number)
			given := fanfare.Preferences{Channels: byChannel{}, Topics: byTopic{"writer-1": {}}}
			wants[number] = onByDefault
			if ofTopic != nil {
				given.Topics["writer-1"][channel] = *ofTopic
				wants[number] = *ofTopic
			}
			shown := wants[number]
			if ofChannel != nil {
				given.Channels[channel] = *ofChannel
				wants[number] = wants[number] && *ofChannel
			}
			standing := w.prefer(fanfare.SubscriberNumber(number), given)
			require.Equal(w.t, wants[number], standing.Effective["writer-1"][channel], "channel %v, topic %v", ofChannel, ofTopic)
			linked, err := w.LinkedPreferences(w.t.Context(), fanfare.PreferencesLink{Topic: 1, Number: fanfare.SubscriberNumber(number)})
			require.NoError(w.t, err)
			require.Equal(w.t, shown, linked.OfTopic[channel])
			require.Equal(w.t, ofChannel == nil || *ofChannel, linked.Channels[channel])
		}
	}
	return wants
}

// runningAs starts a publication of a class on one channel, all in one batch.
func (w *world) runningAs(class fanfare.Class, channel fanfare.Channel) fanfare.BatchRef {
	w.t.Helper()
	d := draft(string(class) + "-" + string(channel))
	d.Class, d.Channels = class, []fanfare.Channel{channel}
	p, err := w.Accept(w.t.Context(), d, "")
	require.NoError(w.t, err)
	require.NoError(w.t, w.Start(w.t.Context(), p.ID))
	require.Equal(w.t, 1, w.planned(p.ID, 1000))
	return fanfare.BatchRef{Publication: p.ID, Channel: channel, N: 1}
}

// TestAnOptOutHoldsFromTheNextClaimOn says no in the middle of a fan-out, and in the
// middle of a wait for another attempt.
func TestAnOptOutHoldsFromTheNextClaimOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(6)
	ref := w.running("article-1", 6)
	first := w.claimNew(ref, 3)
	for number := range fanfare.SubscriberNumber(4) {
		w.prefer(number+1, fanfare.Preferences{Topics: byTopic{"writer-1": {fanfare.Email: false}}})
	}
	w.prefer(5, fanfare.Preferences{Channels: byChannel{fanfare.Email: false}})
	require.Equal(t, []int{6}, numbers(w.claimNew(ref, 10)), "4 and 5 said no before they were claimed")
	require.Equal(t, "skipped opted_out", w.state(ref, 4))
	require.Equal(t, "skipped opted_out", w.state(ref, 5))

	w.prefer(2, fanfare.Preferences{Topics: byTopic{"writer-1": {fanfare.Email: true}}})
	w.settle(ref, first.Call, fanfare.OutcomeThrottled)
	require.Equal(t, []int{2}, numbers(w.claimDue(ref, 10)), "1 and 3 said no before they were claimed again")
	require.Equal(t, "skipped opted_out", w.state(ref, 1))
	w.balanced()
}

func TestWhatAPreferencesLinkOpens(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(1)
	open := func(topic fanfare.TopicID) fanfare.LinkedPreferences {
		linked, err := w.LinkedPreferences(t.Context(), fanfare.PreferencesLink{Topic: topic, Number: 1})
		require.NoError(t, err)
		return linked
	}
	require.Equal(t, fanfare.LinkedPreferences{Channels: allOn(), Topic: "writer-1", TopicName: "The name of writer-1", OfTopic: allOn()}, open(1))
	require.Equal(t, fanfare.LinkedPreferences{Channels: allOn(), OfTopic: allOn()}, open(0), "a message without a topic")
	w.unsubscribe(1)
	require.Equal(t, fanfare.LinkedPreferences{Channels: allOn(), TopicName: "The name of writer-1", OfTopic: allOn()}, open(1), "the subscription has ended")
}

// TestOptOutsHoldForWhoeverWaits changes everybody's mind while they wait: to be tried again,
// to be sent to again after a doubt, or taken back from the dead. The claim decides each time.
func TestOptOutsHoldForWhoeverWaits(t *testing.T) {
	t.Parallel()
	const nothing, channelOff, topicOff, left, suppressed, erased, asked, askedAndOff = 1, 2, 3, 4, 5, 6, 7, 8
	for how, kind := range map[string]fanfare.OutcomeKind{
		"not reached": fanfare.OutcomeUnavailable, "throttled": fanfare.OutcomeThrottled, "in doubt": fanfare.OutcomeAmbiguous, "dead": fanfare.OutcomeThrottled,
	} {
		for _, class := range []fanfare.Class{fanfare.Bulk, fanfare.Transactional} {
			t.Run(how+", "+string(class), func(t *testing.T) {
				t.Parallel()
				channels := []fanfare.Channel{fanfare.Email, fanfare.SMS, fanfare.Push}
				w := newWorld(t, every, func(c *ledger.Config) {
					c.DoubtPolicy = map[fanfare.Channel]ledger.Policy{fanfare.Email: ledger.Resend, fanfare.SMS: ledger.Resend, fanfare.Push: ledger.Resend}
					if how == "dead" {
						c.Ladder = nil
					}
				})
				w.subscribed(askedAndOff)
				for i := 1; i <= askedAndOff; i++ {
					s := phoned(i)
					s.Email = person(i).Email
					w.put(s)
				}
				refs := map[fanfare.Channel]fanfare.BatchRef{}
				for _, channel := range channels {
					ref := w.runningOn(channel, "article-"+string(channel), class)
					refs[channel] = ref
					for _, call := range w.singles(ref, 64) {
						w.settle(ref, call.ID, kind)
						if how == "in doubt" {
							require.NoError(t, w.ApplyPolicy(t.Context(), fanfare.Doubt{Ref: ref, Call: call.ID}))
						}
					}
					if how == "dead" {
						reopened, _, err := w.Reopen(t.Context(), ref, "another run")
						require.NoError(t, err)
						require.EqualValues(t, askedAndOff, reopened)
					}
				}

				off, on := byChannel{fanfare.Email: false, fanfare.SMS: false, fanfare.Push: false}, byChannel{fanfare.Email: true, fanfare.SMS: true, fanfare.Push: true}
				w.prefer(channelOff, fanfare.Preferences{Channels: off})
				w.prefer(topicOff, fanfare.Preferences{Topics: byTopic{"writer-1": off}})
				w.prefer(asked, fanfare.Preferences{Topics: byTopic{"writer-1": on}})
				w.prefer(suppressed, fanfare.Preferences{Topics: byTopic{"writer-1": on}})
				w.prefer(askedAndOff, fanfare.Preferences{Channels: off, Topics: byTopic{"writer-1": on}})
				_, _, err := w.PutTopic(t.Context(), "writer-1", "Writer One", off)
				require.NoError(t, err)
				require.NoError(t, w.EndSubscription(t.Context(), fanfare.UnsubscribeLink{Topic: 1, Number: left}))
				for channel, address := range map[fanfare.Channel]string{fanfare.Email: person(suppressed).Email, fanfare.SMS: phoned(suppressed).Phone, fanfare.Push: phoned(suppressed).Devices[0].Token} {
					_, err := w.Suppress(t.Context(), channel, []fanfare.Refused{{Address: address, Reason: fanfare.SuppressedManual}})
					require.NoError(t, err)
				}
				require.NoError(t, w.EraseSubscriber(t.Context(), reader(erased)))

				want := map[int]string{
					nothing: "skipped opted_out", channelOff: "skipped opted_out", topicOff: "skipped opted_out", left: "skipped unsubscribed",
					suppressed: "skipped suppressed", erased: "skipped erased", asked: "sending", askedAndOff: "skipped opted_out",
				}
				for i := 1; i <= askedAndOff; i++ {
					if class == fanfare.Transactional && i != suppressed && i != erased {
						want[i] = "sending"
					}
					if how == "in doubt" && want[i] != "sending" {
						want[i] = "dead doubt_held" // who may have been sent to is not skipped
					}
				}
				for _, channel := range channels {
					_, err := w.ClaimDue(t.Context(), refs[channel], fanfare.Wanted{Provider: "another", Limit: 64, Single: true}, everyone)
					require.NoError(t, err)
					got := map[int]string{}
					for i := 1; i <= askedAndOff; i++ {
						got[i] = w.state(refs[channel], i)
					}
					require.Empty(t, cmp.Diff(want, got), channel)
				}
				w.balanced()
			})
		}
	}
}

package fanfare

import "time"

// Preferences are what a subscriber wants: a channel that is off is off for every
// topic; otherwise what they said of the topic counts, and where they said nothing the
// topic's default. What is left out was never said. They hold for bulk; transactional
// messages are sent whatever is wanted.
type Preferences struct {
	Channels map[Channel]bool           `json:"channels"`
	Topics   map[Topic]map[Channel]bool `json:"topics"`
}

// MaxPreferredTopics is of how many topics a subscriber can say something, and how many
// of their subscriptions StandingPreferences lists: far more than anybody reads, and
// little enough for one answer.
const MaxPreferredTopics = 1000

// StandingPreferences are what a subscriber said, and what it comes to.
type StandingPreferences struct {
	Preferences
	// Effective says, for each topic subscribed to, what is sent over which channel.
	Effective map[Topic]map[Channel]bool `json:"effective"`
}

// PreferenceChange is one change of a preference, for whoever has to prove consent.
type PreferenceChange struct {
	ID      int64     `json:"-"`
	Topic   Topic     `json:"topic,omitempty"` // empty: the whole channel
	Channel Channel   `json:"channel"`
	Was     *bool     `json:"was"` // nil: nothing was said
	Became  bool      `json:"became"`
	At      time.Time `json:"at"`
}

// LinkedPreferences are what a PreferencesLink opens.
type LinkedPreferences struct {
	// Channels says which are on, asked for or not.
	Channels map[Channel]bool
	// Topic is empty when the link is about none, or the subscription has ended.
	Topic     Topic
	TopicName string
	// OfTopic says what is wanted of the topic, asked for or by its default, on
	// channels that are on.
	OfTopic map[Channel]bool
}

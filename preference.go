package fanfare

// Preferences are what a subscriber wants: a channel that is off is off for every
// topic; otherwise what they said of the topic counts, and where they said nothing the
// topic's default. What is left out was never said. They hold for bulk; transactional
// messages are sent whatever is wanted.
type Preferences struct {
	Channels map[Channel]bool           `json:"channels"`
	Topics   map[Topic]map[Channel]bool `json:"topics"`
}

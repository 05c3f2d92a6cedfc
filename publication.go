package fanfare

import "time"

// Channel is a way to reach a subscriber.
type Channel string

// The channels.
const (
	Email Channel = "email"
	SMS   Channel = "sms"
	Push  Channel = "push"
	InApp Channel = "inapp"
)

// Valid reports whether c is one of the channels.
func (c Channel) Valid() bool {
	switch c {
	case Email, SMS, Push, InApp:
		return true
	}
	return false
}

// Class decides lane, caps and whether opt-out applies.
type Class string

// The classes. Bulk is the default of publications.
const (
	Bulk          Class = "bulk"
	Transactional Class = "transactional"
)

// PublicationState is where a publication stands.
type PublicationState string

// The states of a publication. Accepted, scheduled, running and paused are
// open; the others are final, although totals keep moving with late events.
const (
	Accepted              PublicationState = "accepted"
	Scheduled             PublicationState = "scheduled"
	Running               PublicationState = "running"
	Paused                PublicationState = "paused"
	Cancelled             PublicationState = "cancelled"
	Completed             PublicationState = "completed"
	CompletedWithFailures PublicationState = "completed_with_failures"
	Expired               PublicationState = "expired"
)

// Stopped reports whether nothing new is sent in this state and nothing will be.
func (s PublicationState) Stopped() bool {
	switch s {
	case Cancelled, Expired, Completed, CompletedWithFailures:
		return true
	}
	return false
}

// Content is what is announced. Title and URL are required; each channel has
// sensible defaults for the rest.
//
// Or it names a template, and gives the data that the template asks for.
type Content struct {
	Title   string `json:"title,omitempty"`
	URL     string `json:"url,omitempty"`
	Summary string `json:"summary,omitempty"`
	Body    string `json:"body,omitempty"` // plain text; blank lines separate paragraphs

	Template string         `json:"template,omitempty"`
	Data     map[string]any `json:"data,omitempty"`
}

// Totals counts deliveries by state. Intended is the sum of all the others.
type Totals struct {
	Intended  int64 `json:"intended"`
	Pending   int64 `json:"pending"`
	Sending   int64 `json:"sending"`
	InDoubt   int64 `json:"in_doubt"`
	Sent      int64 `json:"sent"`
	Delivered int64 `json:"delivered"`
	Failed    int64 `json:"failed"`
	Skipped   int64 `json:"skipped"`
	Dead      int64 `json:"dead"`
}

// Unfinished is how many deliveries still have to come to an end. "Completed"
// is only said when it is zero.
func (t Totals) Unfinished() int64 { return t.Pending + t.Sending + t.InDoubt }

// Add sums two totals.
func (t Totals) Add(o Totals) Totals {
	t.Intended += o.Intended
	t.Pending += o.Pending
	t.Sending += o.Sending
	t.InDoubt += o.InDoubt
	t.Sent += o.Sent
	t.Delivered += o.Delivered
	t.Failed += o.Failed
	t.Skipped += o.Skipped
	t.Dead += o.Dead
	return t
}

// Publication is one piece of content announced to one topic.
type Publication struct {
	ID              PublicationID      `json:"id"`
	Key             Key                `json:"key"`
	Topic           Topic              `json:"topic"`
	Class           Class              `json:"class"`
	Channels        []Channel          `json:"channels"`
	State           PublicationState   `json:"state"`
	AcceptedAt      time.Time          `json:"accepted_at"`
	ScheduledAt     *time.Time         `json:"scheduled_at"`
	ExpiresAt       time.Time          `json:"expires_at"`
	StartedAt       *time.Time         `json:"started_at"`
	FinishedAt      *time.Time         `json:"finished_at"`
	Totals          Totals             `json:"totals"`
	ByChannel       map[Channel]Totals `json:"by_channel"`
	SkippedByReason map[string]int64   `json:"skipped_by_reason"`
	FailedByCode    map[string]int64   `json:"failed_by_code"`
	RatePerSecond   float64            `json:"rate_per_second"`
	ETA             *time.Time         `json:"eta"`
	WaitingFor      []Waiting          `json:"waiting_for,omitempty"`
	Links           map[string]string  `json:"links"`
}

// Waiting is one reason why a publication is not finished, where it is not simply
// under way.
type Waiting struct {
	Kind     string     `json:"kind"`               // WaitingProvider, ...
	Provider string     `json:"provider,omitempty"` // empty where it is about none
	Since    *time.Time `json:"since,omitempty"`
	Until    *time.Time `json:"until,omitempty"` // the next probe, the next attempt, the deadline
	Count    int64      `json:"count"`           // recipients
	Sentence string     `json:"sentence"`        // the same for people, and what to do
}

// What a publication can wait for.
const (
	WaitingProvider = "provider" // it failed and is not called
	WaitingThrottle = "throttle" // it asked for time
	WaitingDoubt    = "doubt"    // evidence of what became of calls
	WaitingRetry    = "retry"    // the next attempt
)

// Draft is a publication as its publisher asked for it. Zero values mean "not
// given": sameness of a repeated publication is judged on the draft, before
// defaults, so that a changed default never turns a repeat into a conflict.
type Draft struct {
	Key         Key        `json:"key"`
	Topic       Topic      `json:"topic"`
	Channels    []Channel  `json:"channels,omitempty"`
	Content     Content    `json:"content"`
	Class       Class      `json:"class,omitempty"`
	ScheduledAt *time.Time `json:"scheduled_at,omitempty"`
	ExpiresAt   *time.Time `json:"expires_at,omitempty"`
}

// Subscriber is a person who can be reached. After erasure only the number is left.
type Subscriber struct {
	ID         SubscriberID      `json:"id"`
	Email      string            `json:"email,omitempty"`
	Phone      string            `json:"phone,omitempty"` // E.164
	Devices    []Device          `json:"devices,omitempty"`
	Locale     string            `json:"locale,omitempty"`
	TimeZone   string            `json:"time_zone,omitempty"`
	Attributes map[string]string `json:"attributes,omitempty"`
}

// Device is one place push notifications can go.
type Device struct {
	Token    string `json:"token"`
	Platform string `json:"platform,omitempty"`
}

// Announcement is what a publication's messages are made of.
type Announcement struct {
	Publication PublicationID
	TopicID     TopicID
	Topic       Topic
	TopicName   string
	Key         Key
	Class       Class
	Channels    []Channel
	Content     Content
	// Template is what Content.Template was when the publication was accepted; nil without one.
	Template  *Template
	ExpiresAt time.Time
	Audience  int64
}

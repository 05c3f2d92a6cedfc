package fanfare

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Identifiers are distinct types so that one cannot be passed for another.
type (
	// PublicationID is a UUIDv7 made by the database's clock: it orders by
	// acceptance and decides which partition holds the deliveries.
	PublicationID string
	// Key is the publisher's own name for a publication, say an article id.
	// It is unique and makes publishing idempotent.
	Key string
	// Topic names what people subscribe to; for a blog, a writer.
	Topic string
	// TopicID is the topic's internal number.
	TopicID int64
	// SubscriberID is the publisher's own name for a subscriber.
	SubscriberID string
	// SubscriberNumber is the subscriber's dense internal number. It survives
	// erasure, so that the books stay whole when the person is gone.
	SubscriberNumber int64
	// CallID names one request to a provider.
	CallID string
)

// nameText is the alphabet of ids, topics and keys chosen by publishers.
var nameText = regexp.MustCompile(`^[A-Za-z0-9._:@-]{1,200}$`)

// ValidName reports whether s can be an external id, a topic or a key:
// 1 to 200 characters out of letters, digits and "._:@-".
func ValidName(s string) bool { return nameText.MatchString(s) }

// DeliveryID names one recipient of one publication on one channel.
type DeliveryID struct {
	Publication PublicationID
	Channel     Channel
	Number      SubscriberNumber
}

// String gives the public form, <publication>.<channel>.<number>.
func (d DeliveryID) String() string {
	return string(d.Publication) + "." + string(d.Channel) + "." + strconv.FormatInt(int64(d.Number), 10)
}

// ParseDeliveryID reads the form that String writes.
func ParseDeliveryID(s string) (DeliveryID, error) {
	parts := strings.Split(s, ".")
	if len(parts) != 3 || !ValidPublicationID(parts[0]) {
		return DeliveryID{}, fmt.Errorf("parse delivery id: want <publication>.<channel>.<number>: %w", ErrInvalid)
	}
	channel := Channel(parts[1])
	number, err := strconv.ParseInt(parts[2], 10, 64)
	if err != nil || number < 1 || !channel.Valid() {
		return DeliveryID{}, fmt.Errorf("parse delivery id: want <publication>.<channel>.<number>: %w", ErrInvalid)
	}
	return DeliveryID{Publication: PublicationID(parts[0]), Channel: channel, Number: SubscriberNumber(number)}, nil
}

var uuidText = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// ValidPublicationID reports whether s has the form of a publication id (a lower-case UUID).
func ValidPublicationID(s string) bool { return uuidText.MatchString(s) }

// ValidReplayID reports whether s has the form of a replay's id, a lower-case UUID too.
func ValidReplayID(s string) bool { return uuidText.MatchString(s) }

// ValidCallID reports whether s has the form of a call's id, a lower-case UUID too.
func ValidCallID(s string) bool { return uuidText.MatchString(s) }

// WorkflowID is the id of the workflow that publishes: the same publication
// can therefore have only one open run.
func (p PublicationID) WorkflowID() string { return "publish/" + string(p) }

// BatchRef names one slice of a publication's audience on one channel.
type BatchRef struct {
	Publication PublicationID `json:"publication"`
	Channel     Channel       `json:"channel"`
	N           int           `json:"n"` // counts from 1
}

// WorkflowID is the id of the workflow that sends the batch.
func (b BatchRef) WorkflowID() string {
	return b.Publication.WorkflowID() + "/" + string(b.Channel) + "/" + strconv.Itoa(b.N)
}

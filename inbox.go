package fanfare

import "time"

// InboxItemID is an in-app notification's place in its subscriber's inbox. Readers
// take it for opaque.
type InboxItemID int64

// InboxChange numbers the changes of one inbox, from 1. Who has seen one has seen all
// before it.
type InboxChange int64

// InboxItem is one in-app notification.
type InboxItem struct {
	ID          InboxItemID   `json:"id,string"`
	Publication PublicationID `json:"publication"`
	Title       string        `json:"title"`
	Body        string        `json:"body"`
	URL         string        `json:"url"`
	CreatedAt   time.Time     `json:"created_at"`
	ReadAt      *time.Time    `json:"read_at"`
	ArchivedAt  *time.Time    `json:"archived_at"` // what is archived is read
}

// InboxState is which items of an inbox are asked for.
type InboxState string

// The states. Without one all are meant that are not archived.
const (
	InboxUnread   InboxState = "unread"
	InboxArchived InboxState = "archived"
)

// InboxQuery pages through one subscriber's inbox, newest first.
type InboxQuery struct {
	Number SubscriberNumber
	State  InboxState
	Before InboxItemID // the last id of the page before; 0: start
	Limit  int
}

// Inbox is a page of an inbox, and where the inbox stood when it was read.
type Inbox struct {
	Items  []InboxItem
	Unread int64 // in all of the inbox
	Change InboxChange
}

// InboxMark is what a reader does with an item.
type InboxMark string

// The marks. An item that is marked as unread is out of the archive too.
const (
	MarkRead     InboxMark = "read"
	MarkUnread   InboxMark = "unread"
	MarkArchived InboxMark = "archived"
)

// InboxPosition is how far somebody has followed an inbox.
type InboxPosition struct {
	Number SubscriberNumber
	Seen   InboxChange
}

// InboxNews is what happened in an inbox since a position, in the order of the changes.
// Of an item that changed more than once only its last change is there.
type InboxNews struct {
	// Position is the one asked about, by its place among them.
	Position int
	// Seen is where the inbox stood after these changes. There may be more behind it.
	Seen    InboxChange
	Changes []InboxItemChange
	// Unread is how many are unread by now.
	Unread int64
	// Closed is true when its owner was erased: nothing happens in it any more.
	Closed bool
}

// InboxItemChange is an item as a change left it.
type InboxItemChange struct {
	Change InboxChange
	Item   InboxItem
}

package fanfare

import (
	"errors"
	"fmt"
	"strings"
)

// The closed set of things that can go wrong across a package border. Wrap
// them with the operation and the id. server/problem.go turns them into HTTP,
// workflows/errors.go into Temporal; what is not in the set is internal, and
// clients are told nothing about it.
var (
	ErrInvalid        = errors.New("invalid")
	ErrNotFound       = errors.New("not found")
	ErrConflict       = errors.New("conflict")
	ErrWrongState     = errors.New("wrong state")
	ErrKeyReused      = errors.New("idempotency key used with another request")
	ErrUnavailable    = errors.New("temporarily unavailable")
	ErrTooLate        = errors.New("too late to begin the call")
	ErrNoLookUp       = errors.New("the provider offers no look-up")
	ErrChannelOff     = errors.New("channel is off")
	ErrUnknownTopic   = errors.New("unknown topic")
	ErrLinkTampered   = errors.New("link was not signed here")
	ErrTokenExpired   = errors.New("the token has expired")
	ErrBadSignature   = errors.New("the signature is not valid")
	ErrStaleSignature = errors.New("the signature is too old")
	ErrBooksUnequal   = errors.New("the books do not balance")
	ErrNotConfigured  = errors.New("not configured")
)

// Violation is one offending field and what is wrong with it.
type Violation struct {
	Field  string `json:"field"`
	Detail string `json:"detail"`
}

// InvalidError lists every offending field at once. It matches ErrInvalid.
type InvalidError struct{ Violations []Violation }

func (e *InvalidError) Error() string {
	parts := make([]string, len(e.Violations))
	for i, v := range e.Violations {
		parts[i] = v.Field + ": " + v.Detail
	}
	return "invalid: " + strings.Join(parts, "; ")
}

// Is makes errors.Is(err, ErrInvalid) true.
func (e *InvalidError) Is(target error) bool { return target == ErrInvalid }

// ConflictError says that a key is taken by other content, and which fields
// differ. It matches ErrConflict.
type ConflictError struct {
	Key    Key
	ID     PublicationID
	Fields []string
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("key %s is already used by publication %s; differs in: %s", e.Key, e.ID, strings.Join(e.Fields, ", "))
}

// Is makes errors.Is(err, ErrConflict) true.
func (e *ConflictError) Is(target error) bool { return target == ErrConflict }

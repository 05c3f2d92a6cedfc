package server

import (
	"encoding/base64"

	fanfare "github.com/fanfare-dev/fanfare"
)

// defaultPage is how many items a list has when the request does not say.
const defaultPage = 100

func pageSize(limit int) int {
	if limit == 0 {
		return defaultPage
	}
	return limit
}

// page cuts a list that was read one longer than asked for, and makes the
// cursor of the next page; nil when there is none.
func page[T any](list []T, limit int, id func(T) string) ([]T, *string) {
	if len(list) == 0 {
		return []T{}, nil
	}
	if len(list) <= limit {
		return list, nil
	}
	next := base64.RawURLEncoding.EncodeToString([]byte(id(list[limit-1])))
	return list[:limit], &next
}

// readCursor reads what page made. An empty cursor is the zero T.
func readCursor[T any](cursor string, parse func(string) (T, bool)) (T, error) {
	var at T
	if cursor == "" {
		return at, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(cursor)
	if err == nil {
		if at, ok := parse(string(raw)); ok {
			return at, nil
		}
	}
	return at, &fanfare.InvalidError{Violations: []fanfare.Violation{{Field: "cursor", Detail: "was not made by this list; begin without one"}}}
}

package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

const (
	defaultListLimit = 100
	maxListLimit     = 1000
	maxAdminBytes    = 1 << 20
)

// list is how every list is answered. NextCursor is empty at the end.
type list[T any] struct {
	Items      []T    `json:"items"`
	NextCursor string `json:"next_cursor"`
}

// routeAdmin adds the paths that look at the sandbox and set its faults:
//
//	GET    /sandbox/stats
//	GET    /sandbox/calls?cursor=&limit=                     by arrival, oldest first
//	GET    /sandbox/messages?channel=&delivery=&to=&cursor=&limit=    newest first
//	DELETE /sandbox/messages                                 forgets calls, messages and counts
//	GET    /sandbox/duplicates?cursor=&limit=
//	GET    /sandbox/faults   PUT sets, DELETE clears
//	POST   /sandbox/inbound {from, body}                     a person's phone answers an SMS
//
// A cursor of /sandbox/calls also goes on from the end: ask again later with the
// "n" of the last call seen.
func (s *Sandbox) routeAdmin(mux *http.ServeMux) {
	mux.HandleFunc("GET /sandbox/stats", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, s.Stats())
	})
	mux.HandleFunc("GET /sandbox/calls", s.adminCalls)
	mux.HandleFunc("GET /sandbox/messages", s.adminMessages)
	mux.HandleFunc("DELETE /sandbox/messages", func(w http.ResponseWriter, _ *http.Request) {
		s.Reset()
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("GET /sandbox/duplicates", s.adminDuplicates)
	mux.HandleFunc("GET /sandbox/faults", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, s.Faults())
	})
	mux.HandleFunc("POST /sandbox/inbound", s.adminInbound)
	mux.HandleFunc("PUT /sandbox/faults", s.adminSetFaults)
	mux.HandleFunc("DELETE /sandbox/faults", func(w http.ResponseWriter, _ *http.Request) {
		_ = s.SetFaults(Faults{}) // nothing in it can be wrong
		w.WriteHeader(http.StatusNoContent)
	})
}

func (s *Sandbox) adminSetFaults(w http.ResponseWriter, r *http.Request) {
	var f Faults
	err := readJSON(w, r, &f)
	if err == nil {
		err = s.SetFaults(f)
	}
	if err != nil {
		writeJSON(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
		return
	}
	writeJSON(w, http.StatusOK, s.Faults())
}

// readJSON reads what the admin API is told, of which every field must be known.
func readJSON(w http.ResponseWriter, r *http.Request, into any) error {
	body := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxAdminBytes))
	body.DisallowUnknownFields()
	return body.Decode(into)
}

func (s *Sandbox) adminCalls(w http.ResponseWriter, r *http.Request) {
	page, err := readPage(r)
	after, cursorErr := number(page.cursor)
	if err = errors.Join(err, cursorErr); err != nil {
		writeJSON(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
		return
	}
	out := list[Call]{Items: s.Calls(after, page.limit)}
	if len(out.Items) == page.limit {
		out.NextCursor = strconv.FormatUint(out.Items[page.limit-1].N, 10)
	}
	writeJSON(w, http.StatusOK, out)
}

func (s *Sandbox) adminDuplicates(w http.ResponseWriter, r *http.Request) {
	page, err := readPage(r)
	from, cursorErr := number(page.cursor)
	if err = errors.Join(err, cursorErr); err != nil {
		writeJSON(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
		return
	}
	var out list[Duplicate]
	var next int
	out.Items, next = s.store.listDuplicates(int(min(from, maxDuplicates)), page.limit)
	if next > 0 {
		out.NextCursor = strconv.Itoa(next)
	}
	writeJSON(w, http.StatusOK, out)
}

func (s *Sandbox) adminMessages(w http.ResponseWriter, r *http.Request) {
	page, err := readPage(r)
	after, cursorErr := parsePlace(page.cursor)
	if err = errors.Join(err, cursorErr); err != nil {
		writeJSON(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
		return
	}
	var out list[Message]
	query := r.URL.Query()
	match := exactly(query.Get("channel"), query.Get("delivery"), query.Get("to"))
	out.Items, out.NextCursor = s.store.find(match, after, page.limit)
	writeJSON(w, http.StatusOK, out)
}

type page struct {
	cursor string
	limit  int
}

func readPage(r *http.Request) (page, error) {
	p := page{cursor: r.URL.Query().Get("cursor"), limit: defaultListLimit}
	text := r.URL.Query().Get("limit")
	if text == "" {
		return p, nil
	}
	limit, err := strconv.Atoi(text)
	if err != nil || limit < 1 || limit > maxListLimit {
		return p, fmt.Errorf("limit: want 1 to %d", maxListLimit)
	}
	p.limit = limit
	return p, nil
}

func number(cursor string) (uint64, error) {
	if cursor == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(cursor, 10, 64)
	if err != nil {
		return 0, errors.New("cursor: not one that was given out")
	}
	return n, nil
}

// place is a position among the messages: before message i of those numbered n.
type place struct {
	n uint64
	i int
}

// newest is the place before which all messages are.
var newest = place{n: 1<<64 - 1}

func (p place) String() string { return strconv.FormatUint(p.n, 10) + "." + strconv.Itoa(p.i) }

func parsePlace(cursor string) (place, error) {
	if cursor == "" {
		return newest, nil
	}
	batchNumber, index, _ := strings.Cut(cursor, ".")
	n, err := strconv.ParseUint(batchNumber, 10, 64)
	i, indexErr := strconv.Atoi(index)
	if err != nil || indexErr != nil {
		return place{}, errors.New("cursor: not one that was given out")
	}
	return place{n: n, i: i}, nil
}

// matcher says whether a message is looked for.
type matcher func(channel, address, delivery string) bool

// exactly matches a channel, a delivery id and an address, where they are given.
func exactly(channel, delivery, to string) matcher {
	return func(c, address, d string) bool {
		return (channel == "" || c == channel) && (delivery == "" || d == delivery) && (to == "" || strings.EqualFold(address, to))
	}
}

// find gives matching messages before a place, newest first, and a cursor to go
// on from, empty at the end.
func (st *store) find(match matcher, before place, limit int) (items []Message, next string) {
	items = []Message{}
	for _, m := range slices.Backward(st.all()) {
		if m.number() > before.n {
			continue
		}
		last := m.size()
		if m.number() == before.n {
			last = min(last, before.i)
		}
		for i := last - 1; i >= 0; i-- {
			address, delivery := m.who(i)
			if !match(m.channel(i), address, delivery) {
				continue
			}
			if len(items) == limit {
				return items, place{n: m.number(), i: i + 1}.String()
			}
			items = append(items, m.message(i))
		}
	}
	return items, ""
}

package sandbox

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	defaultTextLimit = 50
	maxTextLimit     = 1000
)

// textList is a page of messages as Twilio writes it.
type textList struct {
	End             int             `json:"end"`
	FirstPageURI    string          `json:"first_page_uri"`
	Messages        []twilioMessage `json:"messages"`
	NextPageURI     *string         `json:"next_page_uri"`
	Page            int             `json:"page"`
	PageSize        int             `json:"page_size"`
	PreviousPageURI *string         `json:"previous_page_uri"`
	Start           int             `json:"start"`
	URI             string          `json:"uri"`
}

// textQuery is what is looked for.
type textQuery struct {
	account, to, from string
	// since and until bound the time; zero is no bound.
	since, until time.Time
	before       place
	limit        int
}

// listTexts is the look-up of messages, newest first.
func (s *Sandbox) listTexts(w http.ResponseWriter, r *http.Request) {
	if !s.textsAnswer(w, r) {
		return
	}
	values := r.URL.Query()
	q, err := readTextQuery(values)
	if err != nil {
		answerTwilio(w, twilioNo(http.StatusBadRequest, 20400))
		return
	}
	q.account = r.PathValue("account")
	if known := s.faults.logsUntil(twilio); q.until.IsZero() || known.Before(q.until) {
		q.until = known
	}
	found, next := s.store.texts(&q, time.Now())
	page, _ := strconv.Atoi(values.Get("Page")) // 0 without
	out := textList{
		Messages: found, Page: page, PageSize: q.limit, Start: page * q.limit, End: page*q.limit + max(len(found)-1, 0),
		FirstPageURI: pageURI(r.URL, values, 0, ""), URI: r.URL.RequestURI(),
	}
	if next != "" {
		out.NextPageURI = optional(pageURI(r.URL, values, page+1, next))
	}
	writeJSON(w, http.StatusOK, out)
}

// fetchText is the look-up of one message.
func (s *Sandbox) fetchText(w http.ResponseWriter, r *http.Request) {
	if !s.textsAnswer(w, r) {
		return
	}
	sid, ok := strings.CutSuffix(r.PathValue("sid"), ".json")
	key, ours := strings.CutPrefix(sid, "SM")
	in, i := s.store.single(key)
	if !ok || !ours || in == nil {
		answerTwilio(w, twilioNo(http.StatusNotFound, 20404))
		return
	}
	e := in.whole(i)
	if e.kind != 's' || e.owner != r.PathValue("account") || e.at.After(s.faults.logsUntil(twilio)) {
		answerTwilio(w, twilioNo(http.StatusNotFound, 20404))
		return
	}
	writeJSON(w, http.StatusOK, resource(&e, key, time.Now()))
}

// textsAnswer says whether a look-up may go on; if not, it has been answered.
func (s *Sandbox) textsAnswer(w http.ResponseWriter, r *http.Request) bool {
	switch s.faults.down(twilio) {
	case DownClose:
		panic(http.ErrAbortHandler)
	case DownUnavailable:
		answerTwilio(w, twilioNo(http.StatusServiceUnavailable, 20503))
		return false
	}
	if !s.phones.admit(r) {
		answerTwilio(w, twilioNo(http.StatusUnauthorized, 20003))
		return false
	}
	if status, failing := s.faults.logsFail(w, twilio); failing {
		answerTwilio(w, &answer{status: status, contentType: "application/json", body: twilioFailure(status)})
		return false
	}
	return true
}

func readTextQuery(values url.Values) (q textQuery, err error) {
	q.to, q.from, q.limit = values.Get("To"), values.Get("From"), defaultTextLimit
	if size := values.Get("PageSize"); size != "" {
		if q.limit, err = strconv.Atoi(size); err != nil || q.limit < 1 {
			return q, fmt.Errorf("PageSize: want 1 to %d", maxTextLimit)
		}
		q.limit = min(q.limit, maxTextLimit)
	}
	if q.before, err = parsePlace(values.Get("PageToken")); err != nil {
		return q, err
	}
	for _, bound := range []struct {
		name         string
		since, until bool
	}{{"DateSent", true, true}, {"DateSent>", true, false}, {"DateSent<", false, true}} {
		text := values.Get(bound.name)
		if text == "" {
			continue
		}
		first, last, err := span(text)
		if err != nil {
			return q, err
		}
		if bound.since && first.After(q.since) {
			q.since = first
		}
		if bound.until && (q.until.IsZero() || last.Before(q.until)) {
			q.until = last
		}
	}
	return q, nil
}

// span is the whole second or, of a date alone, the whole day that a text means.
func span(text string) (first, last time.Time, err error) {
	long := time.Second
	if first, err = time.Parse(time.RFC3339, text); err != nil {
		first, err = time.Parse(time.DateOnly, text)
		long = 24 * time.Hour
	}
	first = first.Truncate(time.Second)
	return first, first.Add(long - 1), err
}

// texts gives what is looked for, newest first, and where to go on, empty at the end.
func (st *store) texts(q *textQuery, now time.Time) (found []twilioMessage, next string) {
	found = []twilioMessage{}
	wanted := numberHash(q.to)
	for _, m := range slices.Backward(st.all()) {
		s, singles := m.(*series)
		if !singles || s.n > q.before.n {
			continue
		}
		last := s.size()
		if s.n == q.before.n {
			last = min(last, q.before.i)
		}
		for i := last - 1; i >= 0; i-- {
			if q.to != "" && s.now.Load().numbers[i] != wanted {
				continue
			}
			e, text := s.entry(i)
			if e.at.Before(q.since) {
				return found, "" // all others are older
			}
			if e.kind != 's' || e.at.After(q.until) || q.to != "" && e.address != q.to {
				continue
			}
			e.fill(text)
			r := resource(&e, s.key(i), now)
			if r.AccountSID != q.account || q.from != "" && (r.From == nil || *r.From != q.from) {
				continue
			}
			if len(found) == q.limit {
				return found, place{n: s.n, i: i + 1}.String()
			}
			found = append(found, r)
		}
	}
	return found, ""
}

func pageURI(at *url.URL, values url.Values, page int, token string) string {
	out := url.Values{}
	for name := range values {
		out.Set(name, values.Get(name))
	}
	out.Set("Page", strconv.Itoa(page))
	out.Del("PageToken")
	if token != "" {
		out.Set("PageToken", token)
	}
	return at.Path + "?" + out.Encode()
}

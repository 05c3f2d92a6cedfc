package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
)

const (
	tick   = 50 * time.Millisecond
	second = time.Second
)

func soon() string { return time.Now().Add(2 * time.Second).UTC().Format(time.RFC3339Nano) }

// send makes a request and returns the status and the body. An answer of 503 or
// none at all is tried again, as a client does.
func (st *stack) send(method, path, contentType string, body []byte) (int, []byte) {
	st.t.Helper()
	return st.sendAs("e2e-key", method, path, contentType, body)
}

// sendAs does so with a key or a token.
func (st *stack) sendAs(bearer, method, path, contentType string, body []byte) (int, []byte) {
	st.t.Helper()
	var status int
	var answer []byte
	require.Eventually(st.t, func() bool {
		request, err := http.NewRequestWithContext(st.t.Context(), method, st.api+path, bytes.NewReader(body))
		if err != nil {
			return false
		}
		request.Header.Set("Authorization", "Bearer "+bearer)
		request.Header.Set("Content-Type", contentType)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return false
		}
		defer response.Body.Close()
		status = response.StatusCode
		answer, err = io.ReadAll(response.Body)
		return err == nil && status != http.StatusServiceUnavailable
	}, patience, tick, "%s %s was not answered", method, path)
	return status, answer
}

// call makes a request that must be answered with a status, and reads the answer.
func (st *stack) call(method, path string, body any, want int, answer any) {
	st.t.Helper()
	var sent []byte
	if body != nil {
		var err error
		sent, err = json.Marshal(body)
		require.NoError(st.t, err)
	}
	status, got := st.send(method, path, "application/json", sent)
	require.Equal(st.t, want, status, "%s %s: %s", method, path, got)
	if answer != nil {
		require.NoError(st.t, json.Unmarshal(got, answer))
	}
}

func (st *stack) get(path string, want int) {
	st.t.Helper()
	status, body := st.send(http.MethodGet, path, "text/plain", nil)
	require.Equal(st.t, want, status, "GET %s: %s", path, body)
}

func (st *stack) oneClick(path string) {
	st.t.Helper()
	status, body := st.send(http.MethodPost, path, "application/x-www-form-urlencoded", []byte("List-Unsubscribe=One-Click"))
	require.Equal(st.t, http.StatusOK, status, "%s", body)
}

// subscribe subscribes reader-1 to reader-n to writer-1.
func (st *stack) subscribe(n int) {
	st.t.Helper()
	st.call(http.MethodPut, "/v1/topics/writer-1", map[string]any{"name": "Writer One"}, http.StatusCreated, nil)
	lines := make([]string, n)
	for i := range lines {
		lines[i] = fmt.Sprintf(`{"id":"reader-%d","email":"reader-%d@mail.example"}`, i+1, i+1)
	}
	st.importLines(lines...)
}

func (st *stack) importLines(lines ...string) {
	st.t.Helper()
	status, body := st.send(http.MethodPost, "/v1/topics/writer-1/subscribers/import", "application/x-ndjson", []byte(strings.Join(lines, "\n")))
	require.Equal(st.t, http.StatusOK, status, "%s", body)
	var report fanfare.ImportReport
	require.NoError(st.t, json.Unmarshal(body, &report))
	require.EqualValues(st.t, len(lines), report.Created, "%s", body)
}

func (st *stack) publish(key string) fanfare.PublicationID {
	st.t.Helper()
	return st.publishWith(map[string]any{"key": key, "topic": "writer-1", "content": content(key)})
}

func (st *stack) publishWith(body map[string]any) fanfare.PublicationID {
	st.t.Helper()
	var accepted struct {
		ID fanfare.PublicationID `json:"id"`
	}
	st.call(http.MethodPost, "/v1/publications", body, http.StatusAccepted, &accepted)
	return accepted.ID
}

func (st *stack) publication(id fanfare.PublicationID) fanfare.Publication {
	st.t.Helper()
	var p fanfare.Publication
	st.call(http.MethodGet, "/v1/publications/"+string(id), nil, http.StatusOK, &p)
	t := p.Totals
	require.Equal(st.t, t.Intended, t.Pending+t.Sending+t.InDoubt+t.Sent+t.Delivered+t.Failed+t.Skipped+t.Dead, "the books balance at every moment")
	return p
}

func (st *stack) act(id fanfare.PublicationID, what string) fanfare.Publication {
	st.t.Helper()
	var p fanfare.Publication
	st.call(http.MethodPost, "/v1/publications/"+string(id)+"/"+what, nil, http.StatusOK, &p)
	return p
}

// reaches waits until a publication is as wanted.
func (st *stack) reaches(id fanfare.PublicationID, what string, wanted func(fanfare.Publication) bool) fanfare.Publication {
	st.t.Helper()
	var p fanfare.Publication
	require.Eventually(st.t, func() bool {
		p = st.publication(id)
		return wanted(p)
	}, patience, tick, "%s", what)
	return p
}

// finishes waits until a publication has nothing left to do.
func (st *stack) finishes(id fanfare.PublicationID) fanfare.Publication {
	st.t.Helper()
	return st.reaches(id, "it finishes", func(p fanfare.Publication) bool { return p.FinishedAt != nil })
}

// completes is finishes for one that runs to its end.
func (st *stack) completes(id fanfare.PublicationID) fanfare.Publication {
	st.t.Helper()
	p := st.finishes(id)
	require.Contains(st.t, []fanfare.PublicationState{fanfare.Completed, fanfare.CompletedWithFailures}, p.State)
	require.Zero(st.t, p.Totals.Unfinished())
	return p
}

// deliveries reads all pages of a publication's deliveries.
func (st *stack) deliveries(id fanfare.PublicationID, state string) []fanfare.Delivery {
	st.t.Helper()
	var all []fanfare.Delivery
	for cursor := ""; ; {
		var page struct {
			Items      []fanfare.Delivery `json:"items"`
			NextCursor string             `json:"next_cursor"`
		}
		query := url.Values{"limit": {"300"}}
		if state != "" {
			query.Set("state", state)
		}
		if cursor != "" {
			query.Set("cursor", cursor)
		}
		st.call(http.MethodGet, "/v1/publications/"+string(id)+"/deliveries?"+query.Encode(), nil, http.StatusOK, &page)
		all = append(all, page.Items...)
		if page.NextCursor == "" {
			return all
		}
		cursor = page.NextCursor
	}
}

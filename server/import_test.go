package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/server/api"
)

const importPath = "/v1/topics/writer-1/subscribers/import"

func importBody(t *testing.T, r *running, media, body string) fanfare.ImportReport {
	t.Helper()
	got := r.send(t, http.MethodPost, importPath, body, header("Content-Type", media))
	require.Equal(t, http.StatusOK, got.status, "%s", got.body)
	var report fanfare.ImportReport
	got.into(t, &report)
	return report
}

func TestImportTakesWhatIsGoodAndNamesTheRest(t *testing.T) {
	t.Parallel()
	r := start(t)
	lines := []string{
		/* 1 */ "\ufeff" + `{"id": "r-1", "email": "one@mail.example", "phone": "+34 600 000 001", "locale": "pt_BR", "time_zone": "Europe/Madrid"}`,
		/* 2 */ `{"id": "r-2", "email": "two@mail.example"`,
		/* 3 */ `{"email": "three@mail.example"}`,
		/* 4 */ `{"id": "r-4", "email": "four@nowhere"}`,
		/* 5 */ `   `,
		/* 6 */ `{"id": "r-6", "email": "` + strings.Repeat("x", maxLine) + `@mail.example"}`,
		/* 7 */ `{"id": "r-1", "email": "seven@mail.example"}`,
		/* 8 */ `{"id": "r-8", "emial": "eight@mail.example"}`,
		/* 9 */ `{"id": "r-9", "email": 9}`,
		/* 10 */ `{"id": "r-10"} {"id": "r-11"}`,
		/* 11 */ `["r-11", "eleven@mail.example"]`,
		/* 12 */ `{"id": "r 12", "email": "twelve@nowhere", "phone": "12", "locale": "-", "time_zone": "Mars"}`,
		/* 13 */ "{\"id\": \"r-13\", \"email\": \"\xff@mail.example\"}",
		/* 14 */ `{"id": "r-14", "devices": [{"token": 14}]}`,
		/* 15 */ `{"id": "r-15", "fifteen@mail.example": 1}`,
		/* 16 */ `{"id": "r-16", "attributes": {"note": "a\u0000b"}}`,
		/* 17 */ `{"id": "r-17", "devices": [{"token": "t", "platform": "ios"}], "attributes": {"plan": "gold"}}` + "\r",
		/* 18 */ `hello`,
		/* 19 */ `null`,
		/* 20 */ `{"id": "r-20"}`, // without an end
	}
	report := importBody(t, r, "application/x-ndjson", strings.Join(lines, "\n"))
	require.Equal(t, fanfare.ImportReport{
		Created: 3, RejectedCount: 16, Rejected: []fanfare.RejectedLine{
			{Line: 2, Error: "is not valid JSON"},
			{Line: 3, Error: "id is required"},
			{Line: 4, Error: "email must be a plain address, name@domain"},
			{Line: 6, Error: "is longer than 65536 bytes"},
			{Line: 7, Error: "the id stands on an earlier line already"},
			{Line: 8, Error: "emial is not a field of a subscriber"},
			{Line: 9, Error: "email must be text"},
			{Line: 10, Error: "has something behind the JSON object"},
			{Line: 11, Error: "is not a JSON object"},
			{Line: 12, Error: "id " + nameHint + "; email must be a plain address, name@domain; phone must be an international number that begins with +; " +
				"locale must be a language tag such as es or pt-BR; time_zone must be a time zone such as Europe/Madrid"},
			{Line: 13, Error: "is not UTF-8 text"},
			{Line: 14, Error: "devices must be a list of objects with a token"},
			{Line: 15, Error: "has a field that is none of a subscriber"},
			{Line: 16, Error: "attributes.note must not contain a NUL character"},
			{Line: 18, Error: "is not valid JSON: invalid character 'h' looking for beginning of value"},
			{Line: 19, Error: "id is required"},
		},
	}, report)
	require.Equal(t, fanfare.Subscriber{ID: "r-1", Email: "one@mail.example", Phone: "+34600000001", Locale: "pt-BR", TimeZone: "Europe/Madrid"}, r.ledger.people["r-1"])
	require.Equal(t, "gold", r.ledger.people["r-17"].Attributes["plan"])

	again := importBody(t, r, "application/x-ndjson; charset=utf-8", strings.Join(lines, "\n"))
	require.EqualValues(t, 3, again.Unchanged)
	require.Zero(t, again.Created+again.Updated)
	require.Equal(t, report.Rejected, again.Rejected)
	require.NotContains(t, r.logs.String(), "mail.example")
}

func TestImportCSV(t *testing.T) {
	t.Parallel()
	r := start(t)
	report := importBody(t, r, "text/csv; charset=utf-8", strings.Join([]string{
		/* 1 */ "\ufeffid, email,devices,phone,locale,time_zone,attributes",
		/* 2 */ `r-2,two@mail.example,"tok-a; tok-b;",+34600000002,es,Europe/Madrid,"{""plan"": ""gold""}"`,
		/* 3 */ `r-3,"three@mail.example,,,,,`,
		/* 4 */ `r-4,four@mail.example,,,,,` + "\r",
		/* 5 */ `r-5`,
		/* 6 */ `r-6,a"b,,,,,`,
		/* 7 */ ``,
		/* 8 */ `,eight@mail.example,,,,,`,
		/* 9 */ `r-9,nowhere,,,,,`,
		/* 10 */ `r-10,,,,,,{broken`,
		/* 11 */ `r-11,` + strings.Repeat("x", maxLine) + `,,,,,`,
		/* 12 */ `"r-12"," twelve@mail.example ",,,,,`,
	}, "\n")+"\n")
	require.Equal(t, fanfare.ImportReport{
		Created: 3, RejectedCount: 7, Rejected: []fanfare.RejectedLine{
			{Line: 3, Error: "is not valid CSV: a quote stands in the wrong place or is not closed"},
			{Line: 5, Error: "has 1 columns, the header has 7"},
			{Line: 6, Error: "is not valid CSV: a quote stands in the wrong place or is not closed"},
			{Line: 8, Error: "id is required"},
			{Line: 9, Error: "email must be a plain address, name@domain"},
			{Line: 10, Error: "attributes must be an object of texts"},
			{Line: 11, Error: "is longer than 65536 bytes"},
		},
	}, report)
	require.Equal(t, map[fanfare.SubscriberID]fanfare.Subscriber{
		"r-2": {
			ID: "r-2", Email: "two@mail.example", Phone: "+34600000002", Locale: "es", TimeZone: "Europe/Madrid",
			Devices: []fanfare.Device{{Token: "tok-a"}, {Token: "tok-b"}}, Attributes: map[string]string{"plan": "gold"},
		},
		"r-4":  {ID: "r-4", Email: "four@mail.example"},
		"r-12": {ID: "r-12", Email: "twelve@mail.example"},
	}, r.ledger.people)
}

func TestImportCSVNeedsAHeader(t *testing.T) {
	t.Parallel()
	r := start(t)
	for body, why := range map[string]string{
		"":                                  "must be the first line and name the columns",
		"\n\n":                              "must be the first line and name the columns",
		"email\na@mail.example\n":           "lacks the column id",
		"id,email,id\n":                     "names the column id twice",
		"reader-1,ada@mail.example\n":       "no field of a subscriber in column 1",
		"id,e-mail\nreader-1,a@b.c\n":       "no field of a subscriber in column 2",
		`id,"email` + "\n":                  "must be the first line and name the columns",
		strings.Repeat("x", maxLine) + "xx": "must be the first line and name the columns",
	} {
		got := r.send(t, http.MethodPost, importPath, body, header("Content-Type", "text/csv"))
		require.Equal(t, http.StatusBadRequest, got.status)
		p := got.problem(t)
		require.Equal(t, []string{"header"}, fields(p))
		require.Contains(t, p.Violations[0].Detail, why)
		require.NotContains(t, string(got.body), "ada@")
	}
}

func TestImportRefusals(t *testing.T) {
	t.Parallel()
	r := start(t)
	got := r.send(t, http.MethodPost, "/v1/topics/nobody/subscribers/import", `{"id": "r-1"}`, header("Content-Type", "application/x-ndjson"))
	require.Equal(t, http.StatusNotFound, got.status)
	for _, media := range []string{"", "text/plain", "application/x-www-form-urlencoded", "nonsense;;"} {
		got = r.send(t, http.MethodPost, importPath, `{"id": "r-1"}`, header("Content-Type", media))
		require.Equal(t, http.StatusUnsupportedMediaType, got.status, media)
		require.Contains(t, got.problem(t).Detail, "must be application/x-ndjson or text/csv")
	}
	got = r.send(t, http.MethodPost, importPath, "x", header("Content-Type", "text/csv"), header("Content-Encoding", "gzip"))
	require.Equal(t, http.StatusUnsupportedMediaType, got.status)
	require.Equal(t, []string{"topic"}, fields(r.send(t, http.MethodPost, "/v1/topics/a%20b/subscribers/import", `{"id": "r-1"}`).problem(t)))
	require.Empty(t, r.ledger.people)
	require.Equal(t, fanfare.ImportReport{Rejected: []fanfare.RejectedLine{}}, importBody(t, r, "application/json", "\n\n"))
	require.EqualValues(t, 1, importBody(t, r, "application/json", `{"id": "r-1"}`).Created)
}

func TestImportListsTheFirstThousandRejects(t *testing.T) {
	t.Parallel()
	r := start(t)
	var body strings.Builder
	for i := range 1500 {
		// Odd lines are rejected here, even ones by the ledger, from line 4 on.
		fmt.Fprintf(&body, "{\n{\"id\": \"r-%d\"}\n", min(i, 0))
	}
	report := importBody(t, r, "application/x-ndjson", body.String())
	require.EqualValues(t, 1, report.Created)
	require.EqualValues(t, 2999, report.RejectedCount)
	require.Len(t, report.Rejected, 1000)
	require.Equal(t, 1, report.Rejected[0].Line)
	for i, line := range report.Rejected[1:] {
		require.Equal(t, i+3, line.Line)
	}
}

// TestImportIsCutIntoChunks: the ledger is given bounded chunks of long lines
// and of many lines.
func TestImportIsCutIntoChunks(t *testing.T) {
	t.Parallel()
	r := start(t)
	var body strings.Builder
	for i := range 25_000 {
		fmt.Fprintf(&body, "{\"id\": \"r-%d\"}\n", i)
	}
	for i := range 300 {
		fmt.Fprintf(&body, `{"id": "long-%d", "devices": [%s]}`+"\n", i,
			strings.TrimSuffix(strings.Repeat(fmt.Sprintf(`{"token": %q},`, strings.Repeat("t", 4000)), 15), ","))
	}
	require.EqualValues(t, 25_300, importBody(t, r, "application/x-ndjson", body.String()).Created)
	require.Equal(t, []int{10_000, 10_000}, r.ledger.chunks[:2])
	require.Greater(t, len(r.ledger.chunks), 4)
}

// TestImportMemoryDoesNotGrow reads far more than it may hold.
func TestImportMemoryDoesNotGrow(t *testing.T) { //nolint:paralleltest // the heap belongs to all tests
	line := []byte(`{"id": "reader-1", "email": "reader@mail.example", "locale": "es", "time_zone": "Europe/Madrid"}` + "\n")
	bad := append(bytes.Repeat([]byte("x"), 10*maxLine), '\n')
	body := io.MultiReader(&repeat{of: line, left: 100_000 * len(line)}, &repeat{of: bad, left: 50 * len(bad)}, &repeat{of: bytes.Repeat([]byte{'y'}, maxLine), left: 64 << 20})
	source := &importSource{lines: newLineReader(body), parse: parseJSONLine, check: newSubscriberCheck()}
	var before, now runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	lines, err := 0, error(nil)
	for !errors.Is(err, io.EOF) {
		var chunk []fanfare.ImportLine
		chunk, err = source.next(t.Context())
		lines += len(chunk)
	}
	runtime.GC()
	runtime.ReadMemStats(&now)
	require.Equal(t, 100_000, lines)
	require.EqualValues(t, 51, source.rejected.RejectedCount)
	require.Less(t, int64(now.HeapInuse)-int64(before.HeapInuse), int64(8<<20))
}

type repeat struct {
	of         []byte
	left, from int
}

func (r *repeat) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	n := min(copy(p, r.of[r.from:]), r.left)
	r.left -= n
	r.from = (r.from + n) % len(r.of)
	return n, nil
}

func TestImportKeepsWhatWasCommittedWhenTheDatabaseGoes(t *testing.T) {
	t.Parallel()
	r := start(t)
	var body strings.Builder
	for i := range 25_000 {
		fmt.Fprintf(&body, "{\"id\": \"r-%d\"}\n", i)
	}
	chunks := 0
	r.ledger.inside = func(_ context.Context, op string) {
		if op == "import chunk" {
			if chunks++; chunks == 2 {
				r.ledger.set(func() { r.ledger.fail = fanfare.ErrUnavailable })
			}
		}
	}
	// The failure set inside the second chunk is met by the third.
	got := r.send(t, http.MethodPost, importPath, body.String(), header("Content-Type", "application/x-ndjson"))
	require.Equal(t, http.StatusServiceUnavailable, got.status)
	require.NotEmpty(t, got.header.Get("Retry-After"))
	p := got.problem(t)
	require.True(t, p.Retryable)
	require.Contains(t, p.Detail, "20000 lines were taken before (20000 created, 0 updated, 0 unchanged). Send all lines again")

	r.ledger.set(func() { r.ledger.fail, r.ledger.inside = nil, nil })
	report := importBody(t, r, "application/x-ndjson", body.String())
	require.EqualValues(t, 5000, report.Created)
	require.EqualValues(t, 20_000, report.Unchanged)
}

// TestImportCutInTheMiddle: a line that the cut went through is no line.
func TestImportCutInTheMiddle(t *testing.T) {
	t.Parallel()
	r := start(t)
	conn := dial(t, r)
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/x-ndjson\r\nContent-Length: 1000000\r\n\r\n", importPath, testKey)
	fmt.Fprint(conn, "{\"id\": \"r-1\"}\n{\"id\": \"r-2\"}\n{\"id\": \"r-3\"}")
	require.NoError(t, conn.(*net.TCPConn).CloseWrite())
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusBadRequest, response.StatusCode, "%s", body)
	require.Contains(t, string(body), "The body ended too early. 2 lines were taken before")
	r.ledger.set(func() { require.Len(t, r.ledger.people, 2) })
	require.EqualValues(t, 1, importBody(t, r, "application/x-ndjson", "{\"id\": \"r-1\"}\n{\"id\": \"r-2\"}\n{\"id\": \"r-3\"}").Created)
}

// TestImportMayTakeLongButNotStandStill: pieces that keep coming are waited
// for beyond the time-outs of other requests; silence is not.
func TestImportMayTakeLongButNotStandStill(t *testing.T) {
	t.Parallel()
	r := start(t, func(_ *Config, s *spans, _ *[]Check) {
		s.read, s.write, s.request, s.idle = 500*time.Millisecond, 500*time.Millisecond, 500*time.Millisecond, 2*time.Second
	})
	pieces, write := io.Pipe()
	taken := make(chan struct{}, 1)
	r.ledger.inside = func(_ context.Context, op string) {
		if op == "import chunk" {
			taken <- struct{}{}
		}
	}
	go func() {
		started := time.Now()
		for i := 0; time.Since(started) < time.Second; i++ {
			// A chunk's worth of lines at a time, and then until it is committed.
			for j := range chunkLines {
				fmt.Fprintf(write, "{\"id\": \"r-%d-%d\"}\n", i, j)
			}
			<-taken
		}
		write.Close()
	}()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.base+importPath, pieces)
	require.NoError(t, err)
	request.Header.Set("Authorization", "Bearer "+testKey)
	request.Header.Set("Content-Type", "application/x-ndjson")
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	require.Equal(t, http.StatusOK, response.StatusCode)

	r.ledger.set(func() { r.ledger.inside = nil })
	conn := dial(t, r)
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/x-ndjson\r\nContent-Length: 1000\r\n\r\n{\"id\": \"slow\"}\n", importPath, testKey)
	slow, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	defer slow.Body.Close()
	body, err := io.ReadAll(slow.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusRequestTimeout, slow.StatusCode, "%s", body)
	require.Contains(t, string(body), string(api.ProblemCodeRequestTimeout))
	require.Contains(t, string(body), "1 lines were taken before")
}

func dial(t *testing.T, r *running) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(r.base, "http://"))
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	return conn
}

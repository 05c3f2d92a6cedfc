package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/local/browsertest"
)

// inboxPage is the page of docs/inbox.md, as a reader has it.
func inboxPage(t *testing.T, api, token string) string {
	t.Helper()
	doc, err := os.ReadFile("../docs/inbox.md")
	require.NoError(t, err)
	page := regexp.MustCompile("(?s)```html\n(.*?)```").FindSubmatch(doc)
	require.NotNil(t, page, "docs/inbox.md shows no page")
	script := regexp.MustCompile(`(?s)<script>\n(.*?)</script>`).FindSubmatch(page[1])
	require.NotNil(t, script)
	require.Equal(t, 20, strings.Count(string(script[1]), "\n"), "docs/inbox.md says how many lines there are")
	filled := strings.NewReplacer("http://127.0.0.1:8080", api, "THE-TOKEN", token).Replace(string(page[1]))
	require.Contains(t, filled, token)
	return filled
}

// reading is a reader with the page open. The page is another origin than the API, and
// the wire between browser and server can be cut.
type reading struct {
	*stack
	browser context.Context
	net     *network
	token   string
}

func (st *stack) reading(width, height int) *reading {
	st.t.Helper()
	var made struct {
		Token string `json:"token"`
	}
	st.call(http.MethodPost, "/v1/subscribers/reader-1/tokens", map[string]any{"expires_in": 3600}, http.StatusCreated, &made)
	r := &reading{stack: st, net: newNetwork(st.t), token: made.Token}
	page := inboxPage(st.t, "http://"+r.net.wire("browser/server", st.listen), made.Token)
	pages := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		if request.URL.Path != "/" {
			page = "<h1>An article</h1>"
		}
		fmt.Fprint(w, page)
	}))
	st.t.Cleanup(pages.Close)
	r.browser = browsertest.Open(st.t, width, height)
	require.NoError(st.t, chromedp.Do(r.browser, chromedp.Navigate(pages.URL), chromedp.WaitReady(chromedp.CSS("#items"))))
	r.eval("window.neverReloaded = true")
	return r
}

func (r *reading) eval(script string) {
	r.t.Helper()
	require.NoError(r.t, chromedp.Do(r.browser, chromedp.Evaluate[chromedp.Void](script)))
}

// shows waits until the page shows these items, those that are unread with a star in
// front, and the badge.
func (r *reading) shows(badge string, items ...string) {
	r.t.Helper()
	want := append([]string{badge}, items...)
	var got []string
	require.Eventually(r.t, func() bool {
		var err error
		got, err = chromedp.Run(r.browser, chromedp.Evaluate[[]string](`[document.getElementById("unread").hidden ? "" : document.getElementById("unread").textContent,
			...[...document.querySelectorAll("#items li")].map(li => (li.classList.contains("unread") ? "*" : "") + li.querySelector("a").textContent)]`))
		return err == nil && fmt.Sprint(got) == fmt.Sprint(want)
	}, patience, tick, "want %v", want)
	never, err := chromedp.Run(r.browser, chromedp.Evaluate[bool]("window.neverReloaded === true"))
	require.NoError(r.t, err)
	require.True(r.t, never, "the page was loaded anew")
}

// posts publishes in the app and waits until it is in the inboxes.
func (r *reading) posts(title string) fanfare.PublicationID {
	r.t.Helper()
	id := r.publishWith(map[string]any{
		"key": strings.ReplaceAll(title, " ", "-"), "topic": "writer-1", "channels": []string{"inapp"},
		"content": map[string]any{"title": title, "url": "https://blog.example/a", "summary": "A harbor master, a rounding error and forty years of wet feet."},
	})
	require.Equal(r.t, fanfare.Completed, r.completes(id).State)
	return id
}

// TestInboxInABrowser publishes in the app and watches the page of docs/inbox.md, in a
// narrow and a wide window: what is published appears, what is read elsewhere is read, and
// nothing is missed while the connection is cut or the server is killed.
func TestInboxInABrowser(t *testing.T) {
	t.Parallel()
	st := start(t, setup{workers: 1})
	st.subscribe(3)
	narrow, wide := st.reading(390, 844), st.reading(1280, 800)
	both := func(badge string, items ...string) {
		t.Helper()
		narrow.shows(badge, items...)
		wide.shows(badge, items...)
	}
	both("")
	browsertest.Shoot(t, narrow.browser, "empty")
	narrow.posts("Tides")
	both("1", "*Tides")
	narrow.posts("Winds")
	both("2", "*Winds", "*Tides")

	// One page marks, and the other follows.
	require.NoError(t, chromedp.Do(narrow.browser, chromedp.Click(chromedp.CSS("li:nth-child(2) button"))))
	both("1", "*Winds")
	require.NoError(t, chromedp.Do(wide.browser, chromedp.Click(chromedp.CSS("#read"))))
	both("", "Winds")

	// The wire of one is cut while others publish.
	wide.net.cut("browser/server")
	wide.posts("Currents")
	wide.posts("Moons")
	narrow.shows("2", "*Moons", "*Currents", "Winds")
	wide.shows("", "Winds")
	require.NoError(t, wide.net.mend(t.Context(), "browser/server"))
	both("2", "*Moons", "*Currents", "Winds")

	st.kill(st.server)
	narrow.posts("Why the printed tide tables of the old harbor were eleven minutes late for forty years")
	last := "*Why the printed tide tables of the old harbor were eleven minutes late for forty years"
	both("3", last, "*Moons", "*Currents", "Winds")
	for name, r := range map[string]*reading{"narrow": narrow, "wide": wide} {
		require.True(t, browsertest.FitsItsWindow(t, r.browser))
		browsertest.Shoot(t, r.browser, name)
	}

	// A click on a title leads away, and is not lost on the way.
	wide.eval(`document.querySelector("li a").href = "/article"`)
	require.NoError(t, chromedp.Do(wide.browser, chromedp.Click(chromedp.CSS("li a")), chromedp.WaitVisible(chromedp.CSS("h1"))))
	narrow.shows("2", last[1:], "*Moons", "*Currents", "Winds")
	require.Empty(t, st.sandbox.Calls(0, 10), "nobody was sent mail")
	require.True(t, st.verify().OK)
}

// TestPostsSurviveKilledWorkers kills workers in the middle of their posts: each reader has
// the notification once, and nobody was ever in doubt.
func TestPostsSurviveKilledWorkers(t *testing.T) {
	t.Parallel()
	const readers = 10_000
	st := start(t, setup{workers: 2, batchSize: 1000})
	st.subscribe(readers)
	// Somebody is in the way in the middle of each batch.
	conn, err := pgx.Connect(t.Context(), st.database)
	require.NoError(t, err)
	defer conn.Close(context.WithoutCancel(t.Context()))
	inTheWay, err := conn.Begin(t.Context())
	require.NoError(t, err)
	_, err = inTheWay.Exec(t.Context(), `INSERT INTO inboxes (subscriber_number) SELECT generate_series(500, $1::int, 1000)`, readers)
	require.NoError(t, err)

	id := st.publishWith(map[string]any{"key": "article-1", "topic": "writer-1", "channels": []string{"inapp"}, "content": content("article-1")})
	require.Eventually(t, func() bool {
		return st.count(`SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%inbox_%'`) >= 4
	}, patience, tick, "they are in the middle of their posts")
	for _, worker := range st.workers {
		st.kill(worker)
	}
	require.NoError(t, inTheWay.Rollback(t.Context()))
	p := st.completes(id)
	require.Equal(t, fanfare.Completed, p.State)
	require.Equal(t, fanfare.Totals{Intended: readers, Sent: readers}, p.Totals)
	require.Zero(t, st.ambiguous(id))
	require.EqualValues(t, readers, st.count(`SELECT count(*) FROM inbox_items`))
	require.EqualValues(t, readers, st.count(`SELECT count(*) FROM inboxes WHERE (last_change, unread) = (1, 1)`))
	require.True(t, st.verify().OK)
}

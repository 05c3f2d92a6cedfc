package sandbox_test

import (
	"html"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare/sandbox"
)

func (s *server) page(path string) string {
	s.t.Helper()
	a := s.call(http.MethodGet, path, nil)
	require.Equal(s.t, http.StatusOK, a.status)
	require.Equal(s.t, "text/html; charset=utf-8", a.header.Get("Content-Type"))
	require.Contains(s.t, a.header.Get("Content-Security-Policy"), "default-src 'none'")
	return string(a.body)
}

// links are the addresses of the mail listed on a page, in order.
func links(page string) []string {
	var out []string
	for _, m := range regexp.MustCompile(`href="(/mail/[^"]+)"`).FindAllStringSubmatch(page, -1) {
		out = append(out, m[1])
	}
	return out
}

func TestListPage(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{})
	require.Contains(t, s.page("/"), "No messages yet")
	require.Contains(t, s.page("/"), "Webhooks are off")
	s.send(mail(120))
	first := s.page("/")
	require.Len(t, links(first), 50)
	require.Contains(t, first, "reader-119@readers.example")
	require.Contains(t, first, "<dd>120</dd>")

	var all []string
	for next := "/"; next != ""; {
		page := s.page(next)
		all = append(all, links(page)...)
		older := regexp.MustCompile(`href="([^"]+)">Older`).FindStringSubmatch(page)
		next = ""
		if older != nil {
			next = html.UnescapeString(older[1])
		}
	}
	require.Len(t, all, 120)

	require.Len(t, links(s.page("/?q=Reader-7%40")), 1)
	require.Len(t, links(s.page("/?q=pub.email.11")), 11, "11 and 110 to 119")
	require.Contains(t, s.page("/?q="+url.QueryEscape("<script>")), "&lt;script&gt;")
	require.Equal(t, http.StatusBadRequest, s.call(http.MethodGet, "/?cursor=x", nil).status)
	require.Equal(t, http.StatusNotFound, s.call(http.MethodGet, "/elsewhere", nil).status)
}

func TestListPageTellsOfWebhooks(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{Webhook: sandbox.Webhook{URL: "http://fanfare.example/webhooks/sendgrid"}})
	s.send(mail(2))
	require.Contains(t, s.page("/"), "Webhooks: 4 events, 0 taken, 4 waiting. Those of mail go to http://fanfare.example/webhooks/sendgrid.")
	require.NotContains(t, s.page("/"), "Webhooks are off")
}

func TestPagesOfTheOtherChannels(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{})
	s.send(mail(1))
	s.text(texting("+34712340003").SetStatusCallback("http://127.0.0.1:9/?delivery=pub.sms.1&call=c1"))
	s.push(pushTo("token-1", "pub.push.1"))
	s.push(pushTo("token-1", "pub.push.1"))
	require.Len(t, links(s.page("/")), 4)
	list := html.UnescapeString(s.page("/?channel=sms"))
	require.Len(t, links(list), 1)
	require.Contains(t, list, "+34712340003")
	require.Contains(t, s.page("/"), "1 replaced")
	require.Len(t, links(s.page("/?channel=push&q=TOKEN")), 2)
	require.Empty(t, links(s.page("/?channel=email&q=token")))
	require.Len(t, links(s.page("/?q="+url.QueryEscape("+34712340003"))), 1)

	text := html.UnescapeString(s.page(links(list)[0]))
	require.Contains(t, text, "SMS to +34712340003")
	require.Contains(t, text, "StatusCallback: http://127.0.0.1:9/?delivery=pub.sms.1&call=c1", "the raw view")
	push := html.UnescapeString(s.page(links(s.page("/?channel=push"))[0]))
	require.Contains(t, push, "Read it")
	require.Contains(t, push, `"collapse_key": "pub.push.1"`, "the raw view")

	items, _ := pages[sandbox.Message](s, "/sandbox/messages?channel=push&limit=1")
	require.Len(t, items, 2)
	require.Equal(t, "push", items[0].Channel)
	all, n := pages[sandbox.Message](s, "/sandbox/messages?limit=1")
	require.Equal(t, 4, n)
	require.Equal(t, []string{"push", "push", "sms", "email"}, []string{all[0].Channel, all[1].Channel, all[2].Channel, all[3].Channel})
}

func TestMailPage(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{})
	m := mail(1)
	m["subject"] = "<b>Bold</b>"
	m["content"].([]any)[1] = object{"type": "text/html", "value": `<!doctype html><html><head><title>x</title></head><body><script>alert(1)</script><a href="-unsubscribe-">Leave</a></body></html>`}
	person(m, 0)["headers"] = object{"X-<i>": "<script>alert(2)</script>"}
	s.send(m)
	page := s.page(links(s.page("/"))[0])
	require.Contains(t, page, "&lt;b&gt;Bold&lt;/b&gt;")
	require.NotContains(t, page, "<script>")
	require.NotContains(t, page, "<i>")
	frame := regexp.MustCompile(`<iframe title="[^"]*" sandbox="([^"]*)" srcdoc="([^"]*)">`).FindStringSubmatch(page)
	require.NotNil(t, frame)
	require.NotContains(t, frame[1], "allow-scripts")
	require.NotContains(t, frame[1], "allow-same-origin")
	inside := html.UnescapeString(frame[2])
	require.True(t, strings.HasPrefix(inside, `<!doctype html><html><head><base target="_blank">`))
	require.Contains(t, inside, `<a href="http://fanfare.example/u/0?a=1&b=2">Leave</a>`)
	require.Contains(t, page, "Leave: http://fanfare.example/u/0?a=1&amp;b=2")
	require.Contains(t, html.UnescapeString(page), `"-unsubscribe-": "http://fanfare.example/u/0?a=1&b=2"`, "the raw view")

	gone := s.call(http.MethodGet, "/mail/nothing", nil)
	require.Equal(t, http.StatusNotFound, gone.status)
	require.Contains(t, string(gone.body), "All messages")
}

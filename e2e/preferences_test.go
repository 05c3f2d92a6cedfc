package e2e

import (
	"net/http"
	"regexp"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/local/browsertest"
)

// TestPreferencesFromTheLinkInAMail goes the way of a reader: from the mail's footer to
// the page in a browser, where email from everyone is turned off. The next article finds
// that out; a mail that may not be refused comes all the same; erased, the link is dead.
func TestPreferencesFromTheLinkInAMail(t *testing.T) {
	t.Parallel()
	st := start(t, setup{workers: 1})
	st.subscribe(3)
	st.completes(st.publish("article-1"))
	mail := st.sandbox.Messages("", "reader-2@mail.example", 1)
	require.Len(t, mail, 1)
	link := regexp.MustCompile(`href="(http[^"]+/preferences/[^"]+)"`).FindStringSubmatch(mail[0].HTML)
	require.NotNil(t, link, "the footer has no link")
	require.Contains(t, mail[0].Text, link[1])

	browser := browsertest.Open(t, 390, 844)
	do := func(steps ...chromedp.Action[chromedp.Void]) {
		t.Helper()
		require.NoError(t, chromedp.Do(browser, steps...))
	}
	do(chromedp.Navigate(link[1]), chromedp.WaitVisible(chromedp.CSS("button")))
	browsertest.Shoot(t, browser, "from-the-mail")
	do(chromedp.Click(chromedp.CSS(`input[name="email"]`)), chromedp.Click(chromedp.CSS("button")), chromedp.WaitVisible(chromedp.CSS(`[role="status"]`)))
	browsertest.Shoot(t, browser, "saved")

	second := st.completes(st.publish("article-2"))
	require.Equal(t, fanfare.Totals{Intended: 3, Sent: 2, Skipped: 1}, second.Totals)
	require.Equal(t, map[string]int64{fanfare.ReasonOptedOut: 1}, second.SkippedByReason)
	require.Equal(t, fanfare.ReasonOptedOut, st.deliveryTo(second.ID, "reader-2").Reason)
	urgent := st.publishWith(map[string]any{
		"key": "urgent-1", "topic": "writer-1", "class": "transactional", "content": map[string]string{"title": "Your account", "url": "https://blog.example/account"},
	})
	require.EqualValues(t, 3, st.completes(urgent).Totals.Sent)

	var audited struct {
		Channels map[string]bool
		Changes  []fanfare.PreferenceChange
	}
	st.call(http.MethodGet, "/v1/subscribers/reader-2/preferences", nil, http.StatusOK, &audited)
	require.Equal(t, map[string]bool{"email": false}, audited.Channels)
	require.Len(t, audited.Changes, 1)
	require.Nil(t, audited.Changes[0].Was)

	st.call(http.MethodDelete, "/v1/subscribers/reader-2", nil, http.StatusNoContent, nil)
	do(chromedp.Navigate(link[1]))
	said, err := chromedp.Run(browser, chromedp.Text(chromedp.CSS("h1")))
	require.NoError(t, err)
	require.Equal(t, "This link is not valid", said)
	require.EqualValues(t, 2, st.completes(st.publish("article-3")).Totals.Sent)
	require.True(t, st.verify().OK)
}

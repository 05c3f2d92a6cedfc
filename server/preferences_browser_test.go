package server

import (
	"context"
	"fmt"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/local/browsertest"
)

// TestPreferencesPageInABrowser turns text messages off as a reader does, in a narrow
// and a wide window, and finds it saved when the page is opened again.
func TestPreferencesPageInABrowser(t *testing.T) {
	t.Parallel()
	for _, window := range [][2]int{{390, 844}, {1280, 800}} {
		t.Run(fmt.Sprintf("%d wide", window[0]), func(t *testing.T) {
			t.Parallel()
			r := start(t, func(c *Config, _ *spans, _ *[]Check) { c.Channels = allChannels })
			r.ledger.setDefaults("writer-1", map[fanfare.Channel]bool{fanfare.Push: false})
			browser := browsertest.Open(t, window[0], window[1])
			do := func(steps ...chromedp.Action[chromedp.Void]) {
				t.Helper()
				require.NoError(t, chromedp.Do(browser, steps...))
			}
			do(chromedp.Navigate(r.base+testPage), chromedp.WaitVisible(chromedp.CSS("button")))
			require.True(t, browsertest.FitsItsWindow(t, browser))
			require.Equal(t, map[string]bool{
				"email": true, "sms": true, "push": true, "inapp": true,
				"topic-email": true, "topic-sms": true, "topic-push": false, "topic-inapp": true,
			}, boxesOf(t, browser))
			browsertest.Shoot(t, browser, "opened")

			do(chromedp.Click(chromedp.CSS(`input[name="sms"]`)), chromedp.Click(chromedp.CSS(`input[name="topic-push"]`)))
			require.Empty(t, r.ledger.given, "nothing is saved before the button")
			do(chromedp.Click(chromedp.CSS("button")), chromedp.WaitVisible(chromedp.CSS(`[role="status"]`)))
			require.True(t, browsertest.FitsItsWindow(t, browser))
			browsertest.Shoot(t, browser, "saved")
			notice, err := chromedp.Run(browser, chromedp.Text(chromedp.CSS(`[role="status"]`)))
			require.NoError(t, err)
			require.Contains(t, notice, "Saved.")
			want := map[string]bool{
				"email": true, "sms": false, "push": true, "inapp": true,
				"topic-email": true, "topic-sms": true, "topic-push": true, "topic-inapp": true,
			}
			require.Equal(t, want, boxesOf(t, browser))
			do(chromedp.Navigate(r.base+testPage), chromedp.WaitVisible(chromedp.CSS("button")))
			require.Equal(t, want, boxesOf(t, browser), "opened again")
			require.Equal(t, []fanfare.Preferences{{
				Channels: map[fanfare.Channel]bool{fanfare.SMS: false},
				Topics:   map[fanfare.Topic]map[fanfare.Channel]bool{"writer-1": {fanfare.Push: true}},
			}}, r.ledger.given)

			do(chromedp.Click(chromedp.CSS(`a[href^="/unsubscribe/"]`)), chromedp.WaitVisible(chromedp.CSS(`button[name="List-Unsubscribe"]`)))
			browsertest.Shoot(t, browser, "unsubscribe")
			require.Empty(t, r.ledger.ended, "the link leads to a page that asks")
		})
	}
}

// boxesOf reads which boxes are ticked, by name.
func boxesOf(t *testing.T, browser context.Context) map[string]bool {
	t.Helper()
	ticked, err := chromedp.Run(browser, chromedp.Evaluate[map[string]bool](
		`Object.fromEntries([...document.querySelectorAll('input[type=checkbox]')].map(box => [box.name, box.checked]))`))
	require.NoError(t, err)
	return ticked
}

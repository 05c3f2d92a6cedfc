// Package browsertest gives tests a real browser, headless Chromium, to look at pages
// as people see them. It is for tests only.
package browsertest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// patience is how long a test may be in its browser: on a busy machine, Chromium takes
// many seconds to start, and what is looked at may be killed and started again meanwhile.
const patience = 4 * time.Minute

// names are what Chromium's program is called, Debian's first.
var names = []string{"chromium", "chromium-browser", "google-chrome", "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"}

// Open starts a browser with a window of so many pixels, for chromedp. It ends with
// the test.
func Open(t testing.TB, width, height int) context.Context {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(find(t)), chromedp.WindowSize(width, height),
		chromedp.Flag("disable-background-networking", true))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewExecAllocator(ctx, options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	require.NoError(t, chromedp.Do(ctx, chromedp.EmulateViewport(int64(width), int64(height))))
	return ctx
}

func find(t testing.TB) string {
	t.Helper()
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	require.Fail(t, "Chromium is not installed here. Install it with:\n\n  sudo apt-get install -y chromium")
	return ""
}

// Shoot keeps a picture of the whole page, for people to look at:
// go test -artifacts says where.
func Shoot(t testing.TB, ctx context.Context, name string) {
	t.Helper()
	picture, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(t.ArtifactDir(), name+".png"), picture, 0o600))
}

// FitsItsWindow reports whether nothing of the page has to be scrolled to sideways.
func FitsItsWindow(t testing.TB, ctx context.Context) bool {
	t.Helper()
	fits, err := chromedp.Run(ctx, chromedp.Evaluate[bool](`document.documentElement.scrollWidth <= window.innerWidth`))
	require.NoError(t, err)
	return fits
}

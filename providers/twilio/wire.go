package twilio

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"

	api "github.com/twilio/twilio-go/rest/api/v2010"
)

// maxAnswer bounds what is read of an answer, in bytes. The longest is a page of
// 1,000 messages with 1,600 characters and some 1,500 bytes of other fields each.
const maxAnswer = 8 << 20

// wire carries one request of the SDK, in whose functions the call's context, and
// the lease in it, would be lost. It takes the request to the host that was asked
// for (whatever TWILIO_EDGE and TWILIO_REGION say, which the SDK reads by itself),
// reads the answer whole, closes it, and keeps what the SDK throws away.
type wire struct {
	ctx  context.Context //nolint:containedctx // the SDK takes none, and this is for one request
	base http.RoundTripper
	to   *url.URL

	status int // 0 while there is no answer
	header http.Header
	err    error // why there is no answer, or why it was not read whole
}

// wire makes the way of one request, and the SDK that uses it.
func (s *Sender) wire(ctx context.Context) (*wire, *api.ApiService) {
	w := &wire{ctx: ctx, base: s.base, to: s.to}
	return w, s.api(&http.Client{
		Transport:     w,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	})
}

// RoundTrip implements http.RoundTripper.
func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(w.ctx)
	r.URL.Scheme, r.URL.Host, r.Host = w.to.Scheme, w.to.Host, w.to.Host
	r.URL.Path = w.to.Path + r.URL.Path
	answer, err := w.base.RoundTrip(r)
	if err != nil {
		w.err = err
		return nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	w.status, w.header, w.err = answer.StatusCode, answer.Header, err
	answer.Body = io.NopCloser(bytes.NewReader(body))
	return answer, nil
}

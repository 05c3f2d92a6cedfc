package fcm

import (
	"bytes"
	"context"
	"io"
	"net/http"
)

// maxAnswer bounds what is read of an answer; FCM's are below 2 KB.
const maxAnswer = 64 << 10

// answer is what came of one request, noted where the SDK cannot change it.
type answer struct {
	asked  bool
	err    error // there was no answer
	status int   // there was
	header http.Header
	unread error // why the body could not be read whole
}

type answerKey struct{}

// noting puts got where oneTry finds it.
func noting(ctx context.Context, got *answer) context.Context {
	return context.WithValue(ctx, answerKey{}, got)
}

// oneTry shows the SDK only what it does not retry. The SDK sends again, up to four
// times, what was answered by 503 or not at all, broke off in the answer's body, or
// redirects to nowhere; it has no switch for that. So whatever is neither accepted nor
// refused is shown as a 500 with the same body, and what it really was is noted.
type oneTry struct{ base http.RoundTripper }

// RoundTrip implements http.RoundTripper. It never fails.
func (t oneTry) RoundTrip(r *http.Request) (*http.Response, error) {
	got, noted := r.Context().Value(answerKey{}).(*answer)
	if !noted {
		got = &answer{}
	}
	got.asked = true
	shown := &http.Response{
		StatusCode: http.StatusInternalServerError, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{}, Body: http.NoBody, Request: r,
	}
	came, err := t.base.RoundTrip(r)
	if got.err = err; err != nil {
		return shown, nil //nolint:nilerr // noted: the SDK must not see it
	}
	body, unread := io.ReadAll(io.LimitReader(came.Body, maxAnswer))
	_ = came.Body.Close()
	got.status, got.header, got.unread = came.StatusCode, came.Header, unread
	if came.StatusCode/100 == 2 || came.StatusCode/100 == 4 {
		shown.StatusCode = came.StatusCode
	}
	shown.Body = io.NopCloser(bytes.NewReader(body))
	return shown, nil
}

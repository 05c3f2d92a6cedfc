package fcm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"golang.org/x/oauth2"
	googleauth "golang.org/x/oauth2/google"
	"golang.org/x/sync/singleflight"

	"github.com/fanfare-dev/fanfare"
)

const (
	// scope is all that is asked for: to send messages.
	scope = "https://www.googleapis.com/auth/firebase.messaging"
	// signInTimeout bounds one request for an access token, below the 15 s of a call.
	signInTimeout = 10 * time.Second
)

// signIn gives base the project's access token, or says what is wrong with the
// credentials. A stand-in is not signed in to unless there are some.
func signIn(ctx context.Context, c Config, base http.RoundTripper) (signedIn http.RoundTripper, why string) {
	if c.CredentialsFile == "" {
		if atGoogle(c.BaseURL) {
			return nil, "is missing; set it to the path of a service account's key file (Firebase console, Project settings, Service accounts)"
		}
		return base, ""
	}
	raw, err := os.ReadFile(c.CredentialsFile)
	if err != nil {
		return nil, "names a file that cannot be read"
	}
	var file struct {
		Type googleauth.CredentialsType `json:"type"`
	}
	if json.Unmarshal(raw, &file) != nil {
		return nil, "names a file that is not a service account's key file"
	}
	// Whoever redirects is not given what proves who we are.
	client := &http.Client{
		Transport: base, Timeout: signInTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	// Tokens are asked for whenever one has run out, long after ctx.
	ctx = context.WithValue(context.WithoutCancel(ctx), oauth2.HTTPClient, client)
	// The file is the operator's own, so that it may be of any type.
	found, err := googleauth.CredentialsFromJSONWithType(ctx, raw, file.Type, scope)
	if err != nil {
		// The parser's own words may quote the file.
		return nil, "names a file that is not a service account's key file"
	}
	return &signedTransport{base: base, tokens: found.TokenSource}, ""
}

// signedTransport adds the access token. oauth2.Transport is not used: it asks for a
// token without looking at the request's context, and those who wait for one each ask
// again when it fails, one after the other, long after their calls were to be over.
type signedTransport struct {
	base   http.RoundTripper
	tokens oauth2.TokenSource
	asking singleflight.Group
}

// RoundTrip implements http.RoundTripper. Without a token the error is a signInError, and
// nothing was asked of FCM.
func (t *signedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	token, err := t.token(r.Context())
	if err != nil {
		if r.Body != nil {
			_ = r.Body.Close() // unread; the contract asks for it
		}
		return nil, err
	}
	signed := r.Clone(r.Context())
	token.SetAuthHeader(signed)
	return t.base.RoundTrip(signed)
}

func (t *signedTransport) token(ctx context.Context) (*oauth2.Token, error) {
	asked := t.asking.DoChan("", func() (any, error) { return t.tokens.Token() })
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case answer := <-asked:
		if answer.Err != nil {
			return nil, signInError{answer.Err}
		}
		return answer.Val.(*oauth2.Token), nil
	}
}

// signInError is that Google gave no access token.
type signInError struct{ error }

func (e signInError) Unwrap() error { return e.error }

// outcome tells credentials that are refused from a server that is away. What the
// server said is left out: it may repeat the key.
func (e signInError) outcome() fanfare.Outcome {
	out := fanfare.Outcome{Kind: fanfare.OutcomeUnavailable, Code: "sign_in"}
	var refused *oauth2.RetrieveError
	switch {
	case !errors.As(e.error, &refused):
		out.Detail = "Google's sign-in was not reached, or the key in GOOGLE_APPLICATION_CREDENTIALS cannot be used"
	case refused.Response.StatusCode >= 500, refused.Response.StatusCode == http.StatusTooManyRequests:
		out.Detail = fmt.Sprintf("Google's sign-in answers %d", refused.Response.StatusCode)
	default:
		out.Account = true
		out.Detail = "Google does not take the key in GOOGLE_APPLICATION_CREDENTIALS: make a new one (Firebase console, Project settings, Service accounts)"
	}
	return out
}

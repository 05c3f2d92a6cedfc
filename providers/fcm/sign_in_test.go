package fcm_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/providers/fcm"
)

const accessToken = "ya29.the-access-token"

var privateKey = sync.OnceValues(func() (string, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return "", err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), err
})

// keyFile is a service account's, whose tokens come from a place.
func keyFile(tb testing.TB, tokens string) string {
	tb.Helper()
	key, err := privateKey()
	require.NoError(tb, err)
	file, err := json.Marshal(map[string]string{
		"type": "service_account", "project_id": project, "private_key_id": "1", "private_key": key,
		"client_email": "sender@" + project + ".iam.gserviceaccount.com", "token_uri": tokens,
	})
	require.NoError(tb, err)
	return written(tb, string(file))
}

func written(tb testing.TB, text string) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "key.json")
	require.NoError(tb, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// tokenServer is Google's sign-in.
func tokenServer(tb testing.TB, answer http.HandlerFunc) string {
	tb.Helper()
	server := httptest.NewServer(answer)
	tb.Cleanup(server.Close)
	return server.URL
}

func grant(w http.ResponseWriter, r *http.Request) {
	if r.FormValue("assertion") == "" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, `{"access_token": "`+accessToken+`", "token_type": "Bearer", "expires_in": 3599}`)
}

// signedIn is a sender before an FCM that wants its sign-in, and the count of requests.
func signedIn(t *testing.T, tokens string) (*fcm.Sender, *atomic.Int64) {
	t.Helper()
	requests := &atomic.Int64{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		_, _ = io.Copy(io.Discard, r.Body)
		if r.Header.Get("Authorization") != "Bearer "+accessToken {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = io.WriteString(w, taken("1"))
	}))
	t.Cleanup(server.Close)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	s, err := fcm.New(t.Context(), fcm.Config{ProjectID: project, BaseURL: server.URL, CredentialsFile: keyFile(t, tokens)},
		&http.Client{Transport: fanfare.GatedTransport{Base: transport}})
	require.NoError(t, err)
	return s, requests
}

func TestSignInOnceForAll(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	s, requests := signedIn(t, tokenServer(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		grant(w, r)
	}))
	var calls sync.WaitGroup
	for range 16 {
		calls.Go(func() {
			ctx, _ := leased(t)
			reply := s.Send(ctx, call("android", "ios"))
			if reply.Outcome.Kind != fanfare.OutcomeAccepted {
				t.Error(reply.Outcome.Detail)
			}
		})
	}
	calls.Wait()
	require.EqualValues(t, 1, asked.Load())
	require.EqualValues(t, 32, requests.Load())
}

func TestSignInRefused(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		answer  http.HandlerFunc
		account bool
		says    string
	}{
		"a key that was revoked": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"error": "invalid_grant", "error_description": "Invalid JWT Signature. ya29.secret"}`)
		}, true, "GOOGLE_APPLICATION_CREDENTIALS"},
		"away": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }, false, "503"},
		"moved": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}, true, "GOOGLE_APPLICATION_CREDENTIALS"},
		"busy": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTooManyRequests) }, false, "429"},
		"cut":  {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, false, "not reached"},
		"odd":  {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>ya29.secret") }, false, "not reached"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var asked atomic.Int64
			s, requests := signedIn(t, tokenServer(t, func(w http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				tc.answer(w, r)
			}))
			ctx, lease := leased(t)
			out := s.Send(ctx, call("android")).Outcome
			require.Equal(t, fanfare.OutcomeUnavailable, out.Kind)
			require.Equal(t, tc.account, out.Account)
			require.Equal(t, "sign_in", out.Code)
			require.Contains(t, out.Detail, tc.says)
			require.NotContains(t, out.Detail, "ya29")
			require.Zero(t, requests.Load())
			require.EqualValues(t, 1, asked.Load(), "what proves who we are goes nowhere else")
			require.False(t, lease.Written())
		})
	}
}

// A sign-in that hangs holds no call longer than the call may last.
func TestSignInThatHangs(t *testing.T) {
	t.Parallel()
	leave := make(chan struct{})
	s, requests := signedIn(t, tokenServer(t, func(http.ResponseWriter, *http.Request) { <-leave }))
	t.Cleanup(func() { close(leave) })
	begun := time.Now()
	var calls sync.WaitGroup
	for range 8 {
		calls.Go(func() {
			ctx, _ := leased(t)
			ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
			defer cancel()
			out := s.Send(ctx, call("android")).Outcome
			if out.Kind != fanfare.OutcomeUnavailable {
				t.Error(out.Detail)
			}
		})
	}
	calls.Wait()
	require.Less(t, time.Since(begun), 8*time.Second, "the sign-in itself gives up after ten")
	require.Zero(t, requests.Load())
}

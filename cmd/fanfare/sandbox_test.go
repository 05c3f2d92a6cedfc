package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/sendgrid/sendgrid-go/helpers/eventwebhook"
	"github.com/stretchr/testify/require"
)

// sandboxPosting runs a sandbox that posts to target and returns its address and the
// public key that it prints.
func sandboxPosting(t *testing.T, target string, more ...string) (url, key string) {
	t.Helper()
	r := service(t, nil, append([]string{"sandbox", "--port", "0", "--webhook-url", target}, more...)...)
	url = strings.TrimSuffix(r.says(t, `page=(\S+)`), "/")
	key = regexp.MustCompile(`(?m)^SENDGRID_WEBHOOK_PUBLIC_KEY=(\S+)$`).FindStringSubmatch(r.out.String())[1]
	return url, key
}

func TestSandboxPostsWhatBecomesOfTheMail(t *testing.T) {
	t.Parallel()
	type post struct {
		header http.Header
		body   []byte
	}
	posts := make(chan post, 10)
	target := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		posts <- post{r.Header, body}
	}))
	defer target.Close()
	url, printed := sandboxPosting(t, target.URL)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/v3/mail/send", strings.NewReader(
		`{"personalizations": [{"to": [{"email": "drop+1@mail.example"}]}], "from": {"email": "news@blog.example"}, "subject": "s", "content": [{"type": "text/plain", "value": "v"}]}`))
	require.NoError(t, err)
	request.Header.Set("Authorization", "Bearer any")
	request.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer answer.Body.Close()
	require.Equal(t, http.StatusAccepted, answer.StatusCode)

	got := <-posts
	key, err := eventwebhook.ConvertPublicKeyBase64ToECDSA(printed)
	require.NoError(t, err)
	good, err := eventwebhook.VerifySignature(key, got.body, got.header.Get(eventwebhook.VerificationHTTPHeader), got.header.Get(eventwebhook.TimestampHTTPHeader))
	require.NoError(t, err)
	require.True(t, good)
	require.Contains(t, string(got.body), `"event":"dropped"`)
}

func TestTheKeyOfTheWebhooksIsKept(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "key.pem")
	_, first := sandboxPosting(t, "http://127.0.0.1:9/", "--webhook-key", file)
	_, second := sandboxPosting(t, "http://127.0.0.1:9/", "--webhook-key", file)
	require.Equal(t, first, second)
	_, other := sandboxPosting(t, "http://127.0.0.1:9/")
	require.NotEqual(t, first, other)
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())
}

func TestSandboxKnowsItsAccount(t *testing.T) {
	t.Parallel()
	posts := make(chan string, 10)
	target := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		posts <- r.Header.Get("X-Twilio-Signature") + " " + r.FormValue("Body")
	}))
	defer target.Close()
	r := service(t, map[string]string{"TWILIO_ACCOUNT_SID": "AC1", "TWILIO_AUTH_TOKEN": "token"}, "sandbox", "--port", "0", "--inbound-url", target.URL)
	url := strings.TrimSuffix(r.says(t, `page=(\S+)`), "/")
	for token, status := range map[string]int{"token": http.StatusOK, "other": http.StatusUnauthorized} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/2010-04-01/Accounts/AC1/Messages.json", nil)
		require.NoError(t, err)
		request.SetBasicAuth("AC1", token)
		answer, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		answer.Body.Close()
		require.Equal(t, status, answer.StatusCode, token)
	}
	answer, err := http.Post(url+"/sandbox/inbound", "application/json", strings.NewReader(`{"from": "+34600000001", "body": "STOP"}`))
	require.NoError(t, err)
	answer.Body.Close()
	require.Regexp(t, `^\S{28} STOP$`, <-posts)
}

func TestSandboxRefusesWhatCannotBe(t *testing.T) {
	t.Parallel()
	odd := filepath.Join(t.TempDir(), "odd.pem")
	require.NoError(t, os.WriteFile(odd, []byte("not a key"), 0o600))
	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--webhook-url", "here"}, 2, "--webhook-url: must be a whole http or https address"},
		{[]string{"--inbound-url", "here"}, 2, "--inbound-url: must be a whole http or https address"},
		{[]string{"--webhook-key", odd}, 2, "nothing is signed without --webhook-url"},
		{[]string{"--webhook-url", "http://127.0.0.1:9/", "--webhook-key", odd}, 1, "remove it, and a new one is made"},
		{[]string{"--webhook-url", "http://127.0.0.1:9/", "--webhook-key", filepath.Join(odd, "x")}, 1, "the key of the webhooks"},
	} {
		got := command(t, nil, "", append([]string{"sandbox", "--port", "0"}, tt.args...)...)
		require.Equal(t, tt.code, got.code, tt.want)
		require.Contains(t, got.err, tt.want)
	}
}

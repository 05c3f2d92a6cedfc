package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sendgrid/sendgrid-go/helpers/eventwebhook"
	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare/local/localtest"
)

// post posts a body as SendGrid does, signed with the key.
func post(t *testing.T, url, body string, key *ecdsa.PrivateKey) (status int, answer string) {
	t.Helper()
	stamp := strconv.FormatInt(time.Now().Unix(), 10)
	sum := sha256.Sum256([]byte(stamp + body))
	signature, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	require.NoError(t, err)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	require.NoError(t, err)
	request.Header.Set(eventwebhook.TimestampHTTPHeader, stamp)
	request.Header.Set(eventwebhook.VerificationHTTPHeader, base64.StdEncoding.EncodeToString(signature))
	request.Header.Set("Content-Type", "application/json;charset=utf-8")
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, string(text)
}

func TestServerTakesSignedEvents(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	require.NoError(t, err)
	environ := map[string]string{
		"FANFARE_DATABASE_URL": localtest.Database(t), "FANFARE_TEMPORAL_ADDRESS": "127.0.0.1:1", "FANFARE_LISTEN": "127.0.0.1:0",
		"FANFARE_API_KEYS": "key-1", "FANFARE_SECRET": "a secret of this test", "SENDGRID_WEBHOOK_PUBLIC_KEY": base64.StdEncoding.EncodeToString(public),
	}
	server := service(t, environ, "server", "--migrate")
	address := "http://" + server.says(t, `server answers.*address=(\S+)`)
	server.says(t, "the server is ready")
	events := fmt.Sprintf(`[{"event": "delivered", "email": "ada@mail.example", "timestamp": %d, "sg_message_id": "m.1", "fanfare": "no delivery of ours"}]`+"\r\n", time.Now().Unix())
	for range 2 {
		status, answer := post(t, address+"/webhooks/sendgrid", events, key)
		require.Equal(t, http.StatusNoContent, status, answer)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	status, answer := post(t, address+"/webhooks/sendgrid", events, other)
	require.Equal(t, http.StatusUnauthorized, status)
	require.Contains(t, answer, `"code":"bad_signature"`)
	status, answer = post(t, address+"/webhooks/sendgrid-2", events, key)
	require.Equal(t, http.StatusNotFound, status)
	require.Contains(t, answer, "set SENDGRID_2_WEBHOOK_PUBLIC_KEY")
	require.NotContains(t, server.err.String(), "ada@")
}

// answerSMS posts what Ada answers, as Twilio does, signed with the token.
func answerSMS(t *testing.T, environ map[string]string, body string) (status int) {
	t.Helper()
	at := environ["FANFARE_API_URL"] + "/webhooks/twilio"
	form := url.Values{"MessageSid": {"SM" + rand.Text()}, "From": {"+34612345678"}, "To": {environ["TWILIO_FROM"]}, "Body": {body}}
	mac := hmac.New(sha1.New, []byte(environ["TWILIO_AUTH_TOKEN"]))
	mac.Write([]byte(at + "Body" + body + "From" + form.Get("From") + "MessageSid" + form.Get("MessageSid") + "To" + form.Get("To")))
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, at, strings.NewReader(form.Encode()))
	require.NoError(t, err)
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("X-Twilio-Signature", base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	return response.StatusCode
}

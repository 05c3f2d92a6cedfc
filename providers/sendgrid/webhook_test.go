package sendgrid_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sendgrid/sendgrid-go/helpers/eventwebhook"
	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/providers/conformance"
	"github.com/fanfare-dev/fanfare/providers/sendgrid"
)

// called is the address of a post, which SendGrid does not sign.
const called = "/webhooks/sendgrid"

var posted = time.Date(2026, 11, 20, 10, 30, 0, 0, time.UTC)

// shown is a public key as SendGrid shows one.
func shown(t testing.TB, key crypto.PublicKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	require.NoError(t, err)
	return base64.StdEncoding.EncodeToString(der)
}

// signer is SendGrid's side of a webhook.
type signer struct{ key *ecdsa.PrivateKey }

func newSigner(t testing.TB) signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return signer{key}
}

func (s signer) webhook(t testing.TB) *sendgrid.Webhook {
	t.Helper()
	w, err := sendgrid.NewWebhook("sendgrid", shown(t, &s.key.PublicKey))
	require.NoError(t, err)
	return w
}

func (s signer) sign(t testing.TB, body []byte, stamp string) http.Header {
	t.Helper()
	sum := sha256.Sum256(append([]byte(stamp), body...))
	signature, err := ecdsa.SignASN1(rand.Reader, s.key, sum[:])
	require.NoError(t, err)
	return headers(base64.StdEncoding.EncodeToString(signature), stamp)
}

func headers(signature, stamp string) http.Header {
	h := http.Header{}
	h.Set(eventwebhook.VerificationHTTPHeader, signature)
	h.Set(eventwebhook.TimestampHTTPHeader, stamp)
	return h
}

func seconds(at time.Time) string { return strconv.FormatInt(at.Unix(), 10) }

// read reads a body that is signed and fresh.
func read(t testing.TB, body string) ([]fanfare.ProviderEvent, error) {
	t.Helper()
	s := newSigner(t)
	return s.webhook(t).Events(called, s.sign(t, []byte(body), seconds(posted)), []byte(body), posted)
}

// one is an event of ours; edits add or replace fields, and nil takes one away.
func one(edits map[string]any) string {
	event := map[string]any{
		"email": "ada@mail.example", "timestamp": 1795168801, "event": "delivered", "sg_event_id": "ZGVsaXZlcmVkLTA",
		"sg_message_id": "Xj5LmNkWSOqRbdvOpR34BA.recvd-85abf8d92c-3qfgp-2-7890E356-43C.0",
		"call":          callID, "delivery": string(publication) + ".email.1",
	}
	for name, value := range edits {
		if event[name] = value; value == nil {
			delete(event, name)
		}
	}
	body, err := json.Marshal(event)
	if err != nil {
		panic(err)
	}
	return string(body)
}

func array(entries ...string) string { return "[" + strings.Join(entries, ",\r\n") + "]\r\n" }

// TestEvents reads bodies in the shapes of SendGrid's documentation, and some that
// were seen in bug reports: a bounce without a status, an id behind a space, a
// category without its list.
func TestEvents(t *testing.T) {
	t.Parallel()
	body, err := os.ReadFile(filepath.Join("testdata", "events.json"))
	require.NoError(t, err)
	require.True(t, bytes.HasSuffix(body, []byte("]\r\n")), "SendGrid's bodies end so")
	events, err := read(t, string(body))
	require.NoError(t, err)

	type readable struct {
		fanfare.ProviderEvent

		Delivery string
		Digest   string
	}
	lines := []readable{}
	for _, e := range events {
		line := readable{ProviderEvent: e, Digest: hex.EncodeToString(e.Digest[:])}
		if e.Delivery != (fanfare.DeliveryID{}) {
			line.Delivery = e.Delivery.String()
		}
		lines = append(lines, line)
	}
	got, err := json.MarshalIndent(lines, "", "  ")
	require.NoError(t, err)
	conformance.Golden(t, filepath.Join("testdata", "events.golden.json"), string(got)+"\n")
}

// A signature that SendGrid made itself, from its SDK's tests.
func TestEventsSignedBySendGrid(t *testing.T) {
	t.Parallel()
	const (
		key       = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE83T4O/n84iotIvIW4mdBgQ/7dAfSmpqIM8kF9mN1flpVKS3GRqe62gw+2fNNRaINXvVpiglSI8eNEc6wEA3F+g=="
		signature = "MEUCIGHQVtGj+Y3LkG9fLcxf3qfI10QysgDWmMOVmxG0u6ZUAiEAyBiXDWzM+uOe5W0JuG+luQAbPIqHh89M15TluLtEZtM="
		stamp     = "1600112502"
		body      = `[{"email":"hello@world.com","event":"dropped","reason":"Bounced Address","sg_event_id":"ZHJvcC0xMDk5NDkxOS1MUnpYbF9OSFN0T0doUTRrb2ZTbV9BLTA",` +
			`"sg_message_id":"LRzXl_NHStOGhQ4kofSm_A.filterdrecv-p3mdw1-756b745b58-kmzbl-18-5F5FC76C-9.0","smtp-id":"<LRzXl_NHStOGhQ4kofSm_A@ismtpd0039p1iad1.sendgrid.net>","timestamp":1600112492}]` + "\r\n"
	)
	w, err := sendgrid.NewWebhook("sendgrid", key)
	require.NoError(t, err)
	now := time.Unix(1600112502, 0)
	events, err := w.Events(called, headers(signature, stamp), []byte(body), now)
	require.NoError(t, err)
	require.Len(t, events, 1)
	require.Equal(t, fanfare.EventDropped, events[0].Type)
	require.Equal(t, "bounced_address", events[0].Code)
	require.Equal(t, "LRzXl_NHStOGhQ4kofSm_A", events[0].ProviderID)
	require.Equal(t, time.Date(2020, 9, 14, 19, 41, 32, 0, time.UTC), events[0].At)

	for _, changed := range []string{strings.TrimSpace(body), body + "\n", strings.Replace(body, "hello", "hallo", 1), strings.ReplaceAll(body, ",", ", "), ""} {
		_, err := w.Events(called, headers(signature, stamp), []byte(changed), now)
		require.ErrorIs(t, err, fanfare.ErrBadSignature)
	}
	_, err = w.Events(called, headers(signature, "1600112503"), []byte(body), now)
	require.ErrorIs(t, err, fanfare.ErrBadSignature)
	_, err = w.Events(called, headers(signature, stamp), []byte(body), now.Add(time.Hour))
	require.ErrorIs(t, err, fanfare.ErrStaleSignature)
}

func TestEventsThatAreNotSigned(t *testing.T) {
	t.Parallel()
	s := newSigner(t)
	body := []byte(array(one(nil)))
	good := s.sign(t, body, seconds(posted))
	signature := good.Get(eventwebhook.VerificationHTTPHeader)
	for name, header := range map[string]http.Header{
		"nothing":               {},
		"no signature":          headers("", seconds(posted)),
		"no time":               headers(signature, ""),
		"another time":          headers(signature, seconds(posted.Add(time.Second))),
		"the time, elsewise":    headers(signature, "0"+seconds(posted)),
		"another key":           newSigner(t).sign(t, body, seconds(posted)),
		"another body":          s.sign(t, []byte(array()), seconds(posted)),
		"not base64":            headers("!", seconds(posted)),
		"not ASN.1":             headers("eHh4", seconds(posted)),
		"no numbers":            headers("MAA=", seconds(posted)),
		"zeroes":                headers("MAYCAQACAQA=", seconds(posted)),
		"signed words for time": s.sign(t, body, "now"),
		"signed negative time":  s.sign(t, body, "-1"),
		"signed no time":        s.sign(t, body, ""),
	} {
		events, err := s.webhook(t).Events(called, header, body, posted)
		require.ErrorIs(t, err, fanfare.ErrBadSignature, name)
		require.NotErrorIs(t, err, fanfare.ErrStaleSignature, name)
		require.ErrorContains(t, err, "sendgrid", name)
		require.Empty(t, events, name)
	}
}

// The age counts only where the signature is right: nobody else learns our clock.
func TestEventsOfAnotherTime(t *testing.T) {
	t.Parallel()
	s := newSigner(t)
	w := s.webhook(t)
	body := []byte(array(one(nil)))
	for apart, fresh := range map[time.Duration]bool{
		0: true, time.Minute: true, 5 * time.Minute: true, 5*time.Minute + time.Second: false, 24 * time.Hour: false, 100 * 365 * 24 * time.Hour: false,
	} {
		for _, at := range []time.Time{posted.Add(-apart), posted.Add(apart)} {
			if at.Unix() < 0 {
				continue
			}
			_, err := w.Events(called, s.sign(t, body, seconds(at)), body, posted)
			if fresh {
				require.NoError(t, err, apart)
				continue
			}
			require.ErrorIs(t, err, fanfare.ErrStaleSignature, apart)
			require.NotErrorIs(t, err, fanfare.ErrBadSignature, apart)
			_, err = w.Events(called, newSigner(t).sign(t, body, seconds(at)), body, posted)
			require.ErrorIs(t, err, fanfare.ErrBadSignature, apart)
		}
	}
}

func TestEventsThatAreNoArray(t *testing.T) {
	t.Parallel()
	whole := array(one(nil), one(nil))
	for _, body := range []string{"", " ", "null", "{}", one(nil), `"ada@mail.example"`, "1", whole[:len(whole)/2], whole[:len(whole)-3], whole + whole, "\xff", `{"ada@mail.example"`} {
		events, err := read(t, body)
		require.ErrorIs(t, err, fanfare.ErrInvalid, "%q", body)
		require.NotContains(t, err.Error(), "ada", "%q", body)
		require.Empty(t, events)
	}
	for _, body := range []string{"[]", " [ ]\r\n"} {
		events, err := read(t, body)
		require.NoError(t, err)
		require.Empty(t, events)
	}
}

// Who leaves, or comes back, may do so on a page of SendGrid's that knows no message.
func TestLeavingAndComingBackWithoutADelivery(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]fanfare.EventType{
		"unsubscribe": fanfare.EventUnsubscribed, "group_unsubscribe": fanfare.EventUnsubscribed, "group_resubscribe": fanfare.EventResubscribed,
	} {
		events, err := read(t, array(one(map[string]any{"event": name, "delivery": nil, "call": nil})))
		require.NoError(t, err)
		require.Len(t, events, 1, name)
		require.Equal(t, want, events[0].Type)
		require.Equal(t, fanfare.Email, events[0].Channel)
		require.Zero(t, events[0].Delivery)
		require.NotEmpty(t, events[0].Address)
	}
}

func TestEventsThatMeanNothingTakeNoOtherWithThem(t *testing.T) {
	t.Parallel()
	for _, odd := range []string{
		"null", "1", "true", `"delivered"`, "[]", "[{}]", "{}",
		one(map[string]any{"event": nil}), one(map[string]any{"event": "Delivered"}), one(map[string]any{"event": 1}),
		one(map[string]any{"timestamp": nil}), one(map[string]any{"timestamp": "soon"}), one(map[string]any{"timestamp": 0}), one(map[string]any{"timestamp": -5}),
		one(map[string]any{"timestamp": 1.5}), one(map[string]any{"timestamp": int64(1795168801000)}), one(map[string]any{"timestamp": 1e300}),
	} {
		events, err := read(t, array(one(map[string]any{"event": "processed"}), odd, one(map[string]any{"event": "open"})))
		require.NoError(t, err, odd)
		require.Len(t, events, 2, odd)
		require.Equal(t, fanfare.EventProcessed, events[0].Type)
		require.Equal(t, fanfare.EventOpened, events[1].Type)
	}
}

func TestEventCodes(t *testing.T) {
	t.Parallel()
	for reason, want := range map[string]string{
		"Bounced Address": "bounced_address", "bounced address ": "bounced_address", "Unsubscribed Address": "unsubscribed_address",
		"Spam Reporting Address": "spam_reporting_address", "Invalid": "invalid_email", "Invalid Address": "invalid_email",
		"Spam Content": "spam_content", "Spam Content (if spam checker app enabled)": "spam_content", "Recipient List over Package Quota": "recipient_list_over_quota",
		"Invalid SMTPAPI header": "smtpapi", "": "", "ada@mail.example is not liked": "", "Address Bounced": "",
	} {
		events, err := read(t, array(one(map[string]any{"event": "dropped", "reason": reason, "status": "5.0.0", "type": "bounce"})))
		require.NoError(t, err)
		require.Equal(t, want, events[0].Code, reason)
		require.False(t, events[0].Permanent, "SendGrid's own list is not ours")
	}
	for status, want := range map[string]string{
		"5.1.1": "5.1.1", "4.7.650": "4.7.650", "2.0.0": "2.0.0", "": "", "550": "", "5.1": "", "5.1.1 ada@mail.example": "", "5.1.1\n": "", "5.1.1234": "", "3.1.1": "",
	} {
		events, err := read(t, array(one(map[string]any{"event": "bounce", "status": status, "type": "bounce"}), one(map[string]any{"event": "deferred", "status": status})))
		require.NoError(t, err)
		require.Equal(t, want, events[0].Code, "%q", status)
		require.Empty(t, events[1].Code, "only who failed has a code")
	}
}

func TestEventOfABounceIsForGoodUnlessBlocked(t *testing.T) {
	t.Parallel()
	for kind, want := range map[any]bool{"bounce": true, "blocked": false, nil: true, "expired": true} {
		events, err := read(t, array(one(map[string]any{"event": "bounce", "type": kind}), one(map[string]any{"event": "delivered", "type": kind})))
		require.NoError(t, err)
		require.Equal(t, want, events[0].Permanent, kind)
		require.False(t, events[1].Permanent, kind)
	}
}

// A receiver who thinks badly of the sender or of the message says nothing of the address:
// three such bounces would suppress everyone whose mailbox is there.
func TestEventOfABounceThatIsAboutUsNamesNoAddress(t *testing.T) {
	t.Parallel()
	for classification, named := range map[any]bool{
		"Reputation": false, "Content": false, "Frequency or Volume Too High": false, "Technical Failure": true,
		"Mailbox Unavailable": true, "Invalid Address": true, "Unclassified": true, nil: true,
	} {
		events, err := read(t, array(
			one(map[string]any{"event": "bounce", "type": "blocked", "bounce_classification": classification}),
			one(map[string]any{"event": "bounce", "type": "bounce", "bounce_classification": classification})))
		require.NoError(t, err)
		require.Equal(t, named, events[0].Address != "", classification)
		require.NotEmpty(t, events[1].Address, "a bounce for good is SendGrid's own judgement")
	}
}

func TestEventIdsThatAreNotOurs(t *testing.T) {
	t.Parallel()
	for name, edits := range map[string]map[string]any{
		"none":       {"call": nil, "delivery": nil, "sg_message_id": nil, "email": nil},
		"other's":    {"call": "7", "delivery": "order-4711", "sg_message_id": ".x", "email": 1},
		"numbers":    {"call": 7, "delivery": 7, "sg_message_id": 7, "email": 7},
		"lists":      {"call": []any{callID}, "delivery": []any{}, "sg_message_id": []any{}, "email": nil},
		"capitals":   {"call": strings.ToUpper(string(callID)), "delivery": strings.ToUpper(string(publication)) + ".email.1", "sg_message_id": strings.Repeat("x", 101), "email": ""},
		"half ours":  {"call": callID + "0", "delivery": string(publication) + ".fax.1", "sg_message_id": "ada@mail.example", "email": ""},
		"not strict": {"call": " " + callID, "delivery": string(publication) + ".email.0", "sg_message_id": "+34 612 345 678", "email": ""},
	} {
		events, err := read(t, array(one(edits)))
		require.NoError(t, err, name)
		require.Len(t, events, 1, name)
		e := events[0]
		e.Digest = [32]byte{}
		require.Equal(t, fanfare.ProviderEvent{Provider: "sendgrid", Type: fanfare.EventDelivered, At: time.Unix(1795168801, 0).UTC()}, e, name)
	}
}

// An event that comes again is known by what it says, whatever id and order it has.
func TestEventDigestIsOverAllButTheID(t *testing.T) {
	t.Parallel()
	digest := func(entry string) string {
		events, err := read(t, array(entry))
		require.NoError(t, err)
		require.Len(t, events, 1, entry)
		return string(events[0].Digest[:])
	}
	const written = `{"email":"ada@mail.example","event":"click","timestamp":1795168801,"url":"https://blog.example/?a=1&b=2","url_offset":{"index":0,"type":"html"},"sg_event_id":"a"}`
	first := digest(written)
	for _, again := range []string{
		strings.Replace(written, `"sg_event_id":"a"`, `"sg_event_id":"b"`, 1),
		strings.Replace(written, `,"sg_event_id":"a"`, ``, 1),
		`{"sg_event_id":7, "url_offset": {"type": "html", "index": 0}, "url":"https:\/\/blog.example\/?a=1\u0026b=2", "timestamp":1795168801, "event":"click", "email":"ada@mail.example"}`,
	} {
		require.Equal(t, first, digest(again), again)
	}
	seen := map[string]bool{first: true}
	for _, other := range []string{
		strings.Replace(written, "ada@", "grace@", 1), strings.Replace(written, "click", "open", 1), strings.Replace(written, "1795168801", "1795168802", 1),
		strings.Replace(written, "b=2", "b=3", 1), strings.Replace(written, `"index":0`, `"index":1`, 1), strings.Replace(written, `"email"`, `"attempt":"2","email"`, 1),
		strings.Replace(written, `"index":0`, `"index":"0"`, 1), strings.Replace(written, `"index":0`, `"index":9007199254740993`, 1), strings.Replace(written, `"index":0`, `"index":9007199254740992`, 1),
	} {
		d := digest(other)
		require.False(t, seen[d], other)
		seen[d] = true
	}
}

func TestEventsKeepTheirOrder(t *testing.T) {
	t.Parallel()
	events, err := read(t, array(thousand()...))
	require.NoError(t, err)
	require.Len(t, events, 1000)
	digests := map[[32]byte]bool{}
	for i, e := range events {
		require.Equal(t, fanfare.DeliveryID{Publication: publication, Channel: fanfare.Email, Number: fanfare.SubscriberNumber(i + 1)}, e.Delivery)
		require.Equal(t, callID, e.Call)
		require.Equal(t, fmt.Sprintf("reader-%d@readers.example", i), e.Address)
		digests[e.Digest] = true
	}
	require.Len(t, digests, 1000)
}

func thousand() []string {
	entries := make([]string, 1000)
	for i := range entries {
		entries[i] = one(map[string]any{
			"email": fmt.Sprintf("reader-%d@readers.example", i), "delivery": fmt.Sprintf("%s.email.%d", publication, i+1), "sg_event_id": fmt.Sprintf("event-%d", i),
			"smtp-id": "<Xj5LmNkWSOqRbdvOpR34BA@geopod-ismtpd-5>", "category": []any{callID}, "response": "250 2.0.0 OK", "ip": "192.0.2.25", "tls": 1,
		})
	}
	return entries
}

func TestNewWebhookRefusesBadKeys(t *testing.T) {
	t.Parallel()
	ofRSA, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	ofEdwards, _, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	curve, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	require.NoError(t, err)
	good := shown(t, &newSigner(t).key.PublicKey)
	for name, key := range map[string]string{
		"empty": "", "words": "not a key", "cut": good[:len(good)/2], "one too many": good + "AAAA",
		"PEM": "-----BEGIN PUBLIC KEY-----\n" + good + "\n-----END PUBLIC KEY-----", "RSA": shown(t, &ofRSA.PublicKey), "Ed25519": shown(t, ofEdwards), "P-384": shown(t, &curve.PublicKey),
	} {
		for provider, setting := range map[string]string{"sendgrid": "SENDGRID_WEBHOOK_PUBLIC_KEY", "sendgrid-2": "SENDGRID_2_WEBHOOK_PUBLIC_KEY"} {
			w, err := sendgrid.NewWebhook(provider, key)
			require.Nil(t, w, name)
			var invalid *fanfare.InvalidError
			require.ErrorAs(t, err, &invalid, name)
			require.Len(t, invalid.Violations, 1, name)
			require.Equal(t, setting, invalid.Violations[0].Field, name)
		}
	}
}

// What nobody signed is refused, and nothing about it panics.
func FuzzSignatures(f *testing.F) {
	body := []byte(array(one(nil)))
	s := newSigner(f)
	w := s.webhook(f)
	f.Add("", "", body)
	f.Add("MAYCAQACAQA=", seconds(posted), body)
	f.Add("MAYCAf8CAf8=", seconds(posted), body)
	f.Add("MIAAAA==", "99999999999999999999", []byte{})
	f.Fuzz(func(t *testing.T, signature, stamp string, body []byte) {
		_, err := w.Events(called, headers(signature, stamp), body, posted)
		require.ErrorIs(t, err, fanfare.ErrBadSignature)
	})
}

func BenchmarkEvents(b *testing.B) {
	for _, n := range []int{1, 500, 1000} {
		b.Run(fmt.Sprintf("%d a post", n), func(b *testing.B) {
			s := newSigner(b)
			w := s.webhook(b)
			body := []byte(array(thousand()[:n]...))
			header := s.sign(b, body, seconds(posted))
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if events, err := w.Events(called, header, body, posted); err != nil || len(events) != n {
					b.Fatal(len(events), err)
				}
			}
			b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

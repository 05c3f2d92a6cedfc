package sandbox_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sendgrid/rest"
	"github.com/sendgrid/sendgrid-go"
	sgmail "github.com/sendgrid/sendgrid-go/helpers/mail"
	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare/sandbox"
)

// refused is SendGrid's error answer.
type refused struct {
	Errors []struct {
		Message string  `json:"message"`
		Field   *string `json:"field"`
		Help    *string `json:"help"`
	} `json:"errors"`
	ID string `json:"id"`
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 10_001)
	to := func(address string) []any { return []any{object{"email": address}} }
	tests := []struct {
		name   string
		change func(m object)
		field  string
	}{
		{"no personalizations", func(m object) { m["personalizations"] = []any{} }, "personalizations"},
		{"1001 personalizations", func(m object) { m["personalizations"] = mail(1001)["personalizations"] }, "personalizations"},
		{"1001 recipients", func(m object) {
			var all []any
			for i := range 999 {
				all = append(all, object{"email": fmt.Sprintf("cc-%d@readers.example", i)})
			}
			person(m, 0)["cc"] = all
		}, "personalizations"},
		{"no to", func(m object) { delete(person(m, 1), "to") }, "personalizations.1.to"},
		{"empty address", func(m object) { person(m, 1)["to"] = to("") }, "personalizations.1.to.0.email"},
		{"second address of cc", func(m object) {
			person(m, 1)["cc"] = []any{object{"email": "a@b.example"}, object{"email": "nobody"}}
		}, "personalizations.1.cc.1.email"},
		{"bcc", func(m object) { person(m, 0)["bcc"] = to("x@") }, "personalizations.0.bcc.0.email"},
		{"address to be refused", func(m object) { person(m, 1)["to"] = to("Bad-Address-7@readers.example") }, "personalizations.1.to.0.email"},
		{"semicolon in a name", func(m object) {
			person(m, 0)["to"] = []any{object{"email": "a@b.example", "name": "Doe; Jane"}}
		}, "personalizations.0.to.0.name"},
		{"comma in a name", func(m object) {
			person(m, 0)["to"] = []any{object{"email": "a@b.example", "name": "Doe, Jane"}}
		}, "personalizations.0.to.0.name"},
		{"address twice", func(m object) { person(m, 1)["to"] = to("READER-0@readers.example") }, "personalizations.1"},
		{"address in to and bcc", func(m object) { person(m, 0)["bcc"] = to("reader-0@readers.example") }, "personalizations.0"},
		{"substitutions too long", func(m object) { person(m, 1)["substitutions"] = object{"-a-": long} }, "personalizations.1.substitutions"},
		{"substitutions with a dynamic template", func(m object) {
			m["template_id"] = "d-123"
			delete(person(m, 1), "substitutions")
		}, "personalizations.0.substitutions"},
		{"substitution not a string", func(m object) { person(m, 1)["substitutions"] = object{"-a-": 1} }, "personalizations.1.substitutions"},
		{"custom_args not a string", func(m object) { m["custom_args"] = object{"call": 7} }, "custom_args"},
		{"own custom_args not a string", func(m object) { person(m, 1)["custom_args"] = object{"delivery": 7} }, "personalizations.1.custom_args"},
		{"custom_args too long", func(m object) { m["custom_args"] = object{"call": long} }, "custom_args"},
		{"custom_args too long together", func(m object) {
			m["custom_args"] = object{"call": long[:6000]}
			person(m, 1)["custom_args"] = object{"delivery": long[:6000]}
		}, "personalizations.1.custom_args"},
		{"own forbidden header", func(m object) { person(m, 1)["headers"] = object{"reply-to": "x"} }, "personalizations.1.headers.reply-to"},
		{"own send_at in milliseconds", func(m object) { person(m, 1)["send_at"] = time.Now().UnixMilli() }, "personalizations.1.send_at"},
		{"send_at too far", func(m object) { m["send_at"] = time.Now().Add(73 * time.Hour).Unix() }, "send_at"},
		{"no from", func(m object) { delete(m, "from") }, "from.email"},
		{"from not an address", func(m object) { m["from"] = object{"email": "news"} }, "from.email"},
		{"from not ASCII", func(m object) { m["from"] = object{"email": "ñews@fanfare.example"} }, "from.email"},
		{"reply_to not an address", func(m object) { m["reply_to"] = object{"email": "news"} }, "reply_to.email"},
		{"no subject", func(m object) { delete(m, "subject") }, "subject"},
		{"no content", func(m object) { delete(m, "content") }, "content"},
		{"empty content", func(m object) { m["content"] = []any{object{"type": "text/plain", "value": ""}} }, "content.0.value"},
		{"content without type", func(m object) { m["content"] = []any{object{"value": "x"}} }, "content.0.type"},
		{"html before text", func(m object) {
			c := m["content"].([]any)
			c[0], c[1] = c[1], c[0]
		}, "content"},
		{"other content before html", func(m object) {
			m["content"].([]any)[0] = object{"type": "text/calendar", "value": "x"}
		}, "content"},
		{"11 categories", func(m object) { m["categories"] = strings.Split("a b c d e f g h i j k", " ") }, "categories"},
		{"category twice", func(m object) { m["categories"] = []any{"a", "a"} }, "categories.1"},
		{"category too long", func(m object) { m["categories"] = []any{strings.Repeat("é", 256)} }, "categories.0"},
		{"to is not a list", func(m object) { person(m, 1)["to"] = "a@b.example" }, "personalizations.1.to"},
	}
	for name := range strings.FieldsSeq("x-sg-id x-sg-eid Received DKIM-Signature Content-Type Content-Transfer-Encoding To From Subject Reply-To CC BCC") {
		tests = append(tests, struct {
			name   string
			change func(m object)
			field  string
		}{"forbidden header " + name, func(m object) { m["headers"] = object{name: "x"} }, "headers." + name})
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := start(t, sandbox.Config{})
			m := mail(2)
			tt.change(m)
			a := s.send(m)
			require.Equal(t, http.StatusBadRequest, a.status)
			require.Equal(t, "application/json", a.header.Get("Content-Type"))
			var got refused
			a.into(t, &got)
			require.Len(t, got.Errors, 1, string(a.body))
			require.NotNil(t, got.Errors[0].Field)
			require.Equal(t, tt.field, *got.Errors[0].Field)
			require.NotEmpty(t, got.Errors[0].Message)
			require.NotEmpty(t, got.ID)
			stats := s.Stats()
			require.Zero(t, stats.Messages, "a request is refused as a whole")
			require.Equal(t, int64(1), stats.RejectedCalls)
		})
	}
}

func TestEveryFieldInErrorIsNamed(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{})
	require.NoError(t, s.SetFaults(sandbox.Faults{Reject: []string{"@Refused.example", "No.Body"}}))
	m := mail(5)
	person(m, 1)["to"] = []any{object{"email": "a@refused.example"}}
	person(m, 3)["to"] = []any{object{"email": "no.body.here@readers.example"}}
	person(m, 4)["to"] = []any{object{"email": "somebody@really.refused.example"}}
	m["subject"] = ""
	var got refused
	s.send(m).into(t, &got)
	var fields []string
	for _, e := range got.Errors {
		fields = append(fields, *e.Field)
	}
	require.Equal(t, []string{"personalizations.1.to.0.email", "personalizations.3.to.0.email", "subject"}, fields)
	require.Contains(t, *got.Errors[0].Help, "message.personalizations.to")
}

func TestLimitsThatAreKeptAreAccepted(t *testing.T) {
	t.Parallel()
	tests := map[string]func(m object){
		"1000 recipients":       func(m object) { m["personalizations"] = mail(1000)["personalizations"] },
		"template, no content":  func(m object) { delete(m, "content"); delete(m, "subject"); m["template_id"] = "old" },
		"subjects of their own": func(m object) { delete(m, "subject"); person(m, 0)["subject"] = "a"; person(m, 1)["subject"] = "b" },
		"html alone":            func(m object) { m["content"] = m["content"].([]any)[1:] },
		"send_at within 72 h":   func(m object) { m["send_at"] = time.Now().Add(71 * time.Hour).Unix() },
		"ten categories":        func(m object) { m["categories"] = strings.Split("a b c d e f g h i j", " ") },
		"category of 255":       func(m object) { m["categories"] = []any{strings.Repeat("é", 255)} },
		"unusual address": func(m object) {
			person(m, 0)["to"] = []any{object{"email": "o'neil+x/y=z@sub-1.xn--bcher-kva.example"}}
		},
		"null and unknown field": func(m object) {
			m["headers"] = nil
			m["tracking_settings"] = object{"open_tracking": object{"enable": false}}
		},
		"name": func(m object) { person(m, 0)["to"] = []any{object{"email": "a@b.example", "name": "Jané Doe"}} },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, sandbox.Config{})
			m := mail(2)
			change(m)
			a := s.send(m)
			require.Equal(t, http.StatusAccepted, a.status, string(a.body))
		})
	}
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{})
	for _, bad := range []string{
		"a", "@b.example", "a@", "a@b", "a b@c.example", ".a@b.example", "a.@b.example", "a..b@c.example", "a@b..example",
		"a@-b.example", "a@b-.example", "a@b_c.example", "a@@b.example", "<a@b.example>", "a@b.example\n", "ü@b.example", "a@bü.example",
		strings.Repeat("a", 65) + "@b.example", "a@" + strings.Repeat("b", 64) + ".example", "a@" + strings.Repeat("b.", 130) + "example",
	} {
		m := mail(1)
		person(m, 0)["to"] = []any{object{"email": bad}}
		require.Equal(t, http.StatusBadRequest, s.send(m).status, bad)
	}
}

func TestRefusedBeforeTheBodyMatters(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{APIKey: "SG.right"})
	tests := []struct {
		name, header, value string
		status              int
		message             string
	}{
		{"no key", "Authorization", "", 401, "authorization required"},
		{"not a bearer", "Authorization", "Basic SG.right", 401, "authorization required"},
		{"empty bearer", "Authorization", "Bearer ", 401, "authorization required"},
		{"wrong key", "Authorization", "Bearer SG.wrong", 401, "The provided authorization grant is invalid, expired, or revoked"},
		{"no content type", "Content-Type", "", 415, "Content-Type should be application/json."},
		{"wrong content type", "Content-Type", "text/plain", 415, "Content-Type should be application/json."},
		{"right", "Content-Type", "application/json; charset=utf-8", 202, ""},
	}
	for _, tt := range tests {
		r := s.request(http.MethodPost, "/v3/mail/send", mail(1))
		r.Header.Set("Authorization", "Bearer SG.right")
		r.Header.Set(tt.header, tt.value)
		a, err := s.do(r)
		require.NoError(t, err)
		require.Equal(t, tt.status, a.status, tt.name)
		if tt.message != "" {
			var got refused
			a.into(t, &got)
			require.Equal(t, tt.message, got.Errors[0].Message)
			require.Nil(t, got.Errors[0].Field)
		}
	}
	calls := s.Calls(0, 10)
	require.Equal(t, "call-1", calls[0].ID, "a call without a key is still known by its id")
}

func TestBodiesThatCannotBeRead(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{})
	for _, body := range []string{"", "{", "[]", `{"personalizations": [}`, "null", `"x"`} {
		require.Equal(t, http.StatusBadRequest, s.call(http.MethodPost, "/v3/mail/send", body).status, body)
	}
	fits := mail(1)
	fits["content"] = []any{object{"type": "text/plain", "value": strings.Repeat("x", 29_000_000)}}
	require.Equal(t, http.StatusAccepted, s.send(fits).status)
	tooLong := mail(1)
	tooLong["content"] = []any{object{"type": "text/plain", "value": strings.Repeat("x", 30_000_000)}}
	a := s.send(tooLong)
	require.Equal(t, http.StatusRequestEntityTooLarge, a.status)
	require.Equal(t, "text/html", a.header.Get("Content-Type"))
	require.Contains(t, string(a.body), "<html>")
	require.False(t, json.Valid(a.body))
	require.Equal(t, http.StatusMethodNotAllowed, s.call(http.MethodGet, "/v3/mail/send", nil).status)
	require.Equal(t, http.StatusNotFound, s.call(http.MethodGet, "/v3/nothing", nil).status)
}

func TestTheRealClient(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{APIKey: "SG.right"})
	m := sgmail.NewV3Mail()
	m.SetFrom(sgmail.NewEmail("News", "news@fanfare.example"))
	m.Subject = "A new article"
	m.AddContent(sgmail.NewContent("text/plain", "Leave: -unsubscribe-"), sgmail.NewContent("text/html", "<a href='-unsubscribe-'>Leave</a>"))
	m.AddCategories("call-1")
	m.SetCustomArg("call", "call-1")
	for i := range 1000 {
		p := sgmail.NewPersonalization()
		p.AddTos(sgmail.NewEmail("", fmt.Sprintf("reader-%d@readers.example", i)))
		p.SetSubstitution("-unsubscribe-", fmt.Sprintf("http://fanfare.example/u/%d", i))
		p.SetHeader("List-Unsubscribe-Post", "List-Unsubscribe=One-Click")
		p.SetCustomArg("delivery", fmt.Sprintf("pub.email.%d", i))
		m.AddPersonalizations(p)
	}
	body, err := json.Marshal(m)
	require.NoError(t, err)
	request := sendgrid.GetRequest("SG.right", "/v3/mail/send", s.url)
	request.Method, request.Body = rest.Post, body
	client := &rest.Client{HTTPClient: &http.Client{Timeout: time.Minute}}
	resp, err := client.SendWithContext(t.Context(), request)
	require.NoError(t, err)
	require.Equal(t, http.StatusAccepted, resp.StatusCode, resp.Body)
	require.Len(t, http.Header(resp.Headers).Get("X-Message-Id"), 22)
	require.Equal(t, int64(1000), s.Stats().Distinct)
	require.Equal(t, "Leave: http://fanfare.example/u/7", s.Messages("pub.email.7", "", 1)[0].Text)

	require.NoError(t, s.SetFaults(sandbox.Faults{Rules: []sandbox.Fault{{Every: 1, Action: sandbox.ActionTruncate}}}))
	_, err = client.SendWithContext(t.Context(), request)
	require.Error(t, err, "a 2xx that cannot be read is no answer")
	require.Equal(t, int64(2000), s.Stats().Messages, "but the mail was accepted")
}

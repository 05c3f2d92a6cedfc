package smtp

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare"
)

func TestSettings(t *testing.T) {
	t.Parallel()
	for url, want := range map[fanfare.Secret]relay{
		"smtp://relay.example":                     {host: "relay.example", address: "relay.example:587"},
		"smtp://relay.example:2525/":               {host: "relay.example", address: "relay.example:2525"},
		"smtps://relay.example":                    {host: "relay.example", address: "relay.example:465", security: implicitTLS},
		"smtp://[::1]?tls=none":                    {host: "::1", address: "[::1]:25", security: plain},
		"smtp://user:p%40ss@localhost:25?tls=none": {host: "localhost", address: "localhost:25", security: plain},
	} {
		s, err := New(Config{URL: url, From: "news@blog.example"})
		require.NoError(t, err, string(url))
		got := s.relay
		got.auth = nil
		require.Equal(t, want, got)
		require.Equal(t, "smtp", s.Name())
		require.Equal(t, 1, s.MaxRecipients())
	}
	s, err := New(Config{Name: "relay-2", URL: "smtps://relay.example", From: "News <news@blog.example>"})
	require.NoError(t, err)
	require.Equal(t, "relay-2", s.Name())
}

func TestWrongSettingsAreNamedAndNotQuoted(t *testing.T) {
	t.Parallel()
	for _, url := range []fanfare.Secret{
		"", "relay.example:587", "http://user:hunter2@relay.example", "smtp://", "smtp://user:hunter2@", "smtp://user:hunter2@relay.example/path",
		"smtp://user:hunter2@relay.example:70000", "smtp://user:hunter2@relay.example:0", "smtp://user:hunter2@relay.example:port",
		"smtp://user:hunter2#x@relay.example", "smtp://user:hunter2@relay.example?tls=maybe", "smtps://user:hunter2@relay.example?tls=none",
		"smtp://user:hunter2@relay.example?tls=none", // a password in the clear
		"smtp://user@relay.example", "smtp://:hunter2@relay.example", "smtp://user:hunter2%zz@relay.example",
	} {
		for _, from := range []string{"", "blog", "News <news@blög.example>", "a@b.example, c@d.example", "N\tws <news@blog.example>\r\nBcc: x@y.example"} {
			_, err := New(Config{URL: url, From: from})
			invalid, ok := errors.AsType[*fanfare.InvalidError](err)
			require.True(t, ok, "%q %q", string(url), from)
			require.Len(t, invalid.Violations, 2)
			require.Equal(t, "SMTP_URL", invalid.Violations[0].Field)
			require.Equal(t, "SMTP_FROM", invalid.Violations[1].Field)
			require.NotContains(t, err.Error(), "hunter2")
		}
	}
}

func TestQueueID(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]string{
		"2.0.0 Ok: queued as 4XkQ2b0Zz1z9rT":                                                             "4XkQ2b0Zz1z9rT",
		"2.0.0 from MTA(smtp:[127.0.0.1]:10025): 250 2.0.0 Ok: queued as 9C1E4600F3":                     "9C1E4600F3",
		"Ok: queued as ismtpd0012p1iad2-abc_DEF":                                                         "ismtpd0012p1iad2-abc_DEF",
		"OK id=1rAbCd-0004Xy-Zz":                                                                         "1rAbCd-0004Xy-Zz",
		"2.0.0 3AL9xYz0012345 Message accepted for delivery":                                             "3AL9xYz0012345",
		"2.0.0 32c8d5c1 Message accepted for delivery":                                                   "32c8d5c1",
		"Ok 0102018f2b6c1d2e-0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9-000000":                                "0102018f2b6c1d2e-0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9-000000",
		"2.6.0 <x.7@blog.example> [InternalId=12345678901, Hostname=a.example] Queued mail for delivery": "12345678901",
		"Message Queued (3E1A0C52-1234-4F6E-9D3B-0A1B2C3D4E5F.1)":                                        "3E1A0C52-1234-4F6E-9D3B-0A1B2C3D4E5F.1",
		"2.0.0 OK":                             "",
		"":                                     "",
		"queued as reader@readers.example":     "",
		"OK id=reader.seven@readers.example":   "",
		"Great success":                        "",
		"message for reader-7 queued as <a@b>": "",
	} {
		require.Equal(t, want, queueID(answer), answer)
	}
}

package fanfare_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare"
)

func TestSettingName(t *testing.T) {
	t.Parallel()
	require.Equal(t, "TWILIO_FROM", fanfare.SettingName("twilio", "FROM"))
	require.Equal(t, "TWILIO_2_FROM", fanfare.SettingName("twilio-2", "FROM"))
}

func TestParseBaseURL(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		"https://api.example": "https://api.example", "http://127.0.0.1:8025/": "http://127.0.0.1:8025", "https://proxy.example/a/b//": "https://proxy.example/a/b",
		"": "", "api.example": "", "127.0.0.1:8025": "", "ftp://api.example": "", "https://": "", "https://:443": "", "https://%zz": "",
		"https://api.example?x=1": "", "https://api.example/#x": "", "https://user:secret@api.example": "",
	} {
		base, why := fanfare.ParseBaseURL(raw)
		require.Equal(t, want == "", why != "", raw)
		require.NotContains(t, why, "secret")
		if want != "" {
			require.Equal(t, want, base.String())
		}
	}
}

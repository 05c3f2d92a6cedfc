package fanfare

import (
	"net/url"
	"strings"
)

// SettingName is how a setting of a provider is called in the environment, which may be
// for several of one kind: the FROM of "twilio-2" is TWILIO_2_FROM.
func SettingName(provider, which string) string {
	return strings.ToUpper(strings.ReplaceAll(provider, "-", "_")) + "_" + which
}

// ParseBaseURL reads where somebody can be reached over HTTP, and gives it without a slash
// at its end; or it says what is wrong with it, without quoting it.
func ParseBaseURL(raw string) (base *url.URL, why string) {
	u, err := url.Parse(strings.TrimRight(raw, "/"))
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return nil, "must be http:// or https:// and a host"
	}
	if u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, "must be a scheme, a host and perhaps a path"
	}
	return u, ""
}

package fanfare

import (
	"strings"
	"time"
)

// Template is one version of a named template. A version never changes.
type Template struct {
	Name      string    `json:"name"`
	Version   int       `json:"version"` // counts from 1
	CreatedAt time.Time `json:"created_at"`
	// DefaultLocale is for subscribers whose locale, with or without its region, has no text.
	DefaultLocale string `json:"default_locale"`
	// Texts are in the template language, by channel and by locale in lower case ("pt-br"). A channel
	// that is asked for has a text in the default locale.
	Texts map[Channel]map[string]TemplateText `json:"texts"`
}

// TemplateText is what a template says on one channel in one locale.
type TemplateText struct {
	Subject string `json:"subject,omitempty"` // of email; the title of a push and of an in-app item
	HTML    string `json:"html,omitempty"`    // of email
	Text    string `json:"text,omitempty"`
	URL     string `json:"url,omitempty"` // of push and in-app
}

// TemplateSummary is a version of a template without its texts.
type TemplateSummary struct {
	Name          string               `json:"name"`
	Version       int                  `json:"version"`
	CreatedAt     time.Time            `json:"created_at"`
	DefaultLocale string               `json:"default_locale"`
	Locales       map[Channel][]string `json:"locales"`
}

// Rendered is a message as the readers of a locale get it.
type Rendered struct {
	Channel  Channel   `json:"channel"`
	Locale   string    `json:"locale"` // empty without a template
	Subject  string    `json:"subject"`
	HTML     string    `json:"html"`
	Text     string    `json:"text"`
	URL      string    `json:"url"`
	Segments *Segments `json:"segments,omitempty"` // of an SMS
}

// Normalise writes the locales as they are compared: "pt_BR" as "pt-br".
func (t *Template) Normalise() {
	t.DefaultLocale = normalLocale(t.DefaultLocale)
	texts := make(map[Channel]map[string]TemplateText, len(t.Texts))
	for channel, locales := range t.Texts {
		texts[channel] = make(map[string]TemplateText, len(locales))
		for locale, text := range locales {
			texts[channel][normalLocale(locale)] = text
		}
	}
	t.Texts = texts
}

func normalLocale(locale string) string {
	return strings.ToLower(strings.ReplaceAll(strings.TrimSpace(locale), "_", "-"))
}

// LocaleFor is the locale of the text for a subscriber who reads locale: that, or
// its language without the region, or the default; "" for a nil template.
func (t *Template) LocaleFor(channel Channel, locale string) string {
	if t == nil {
		return ""
	}
	locale = normalLocale(locale)
	language, _, _ := strings.Cut(locale, "-")
	for _, candidate := range []string{locale, language} {
		if _, ok := t.Texts[channel][candidate]; ok {
			return candidate
		}
	}
	return t.DefaultLocale
}

// Locales are those that the template has on a channel, the default first; none
// for a nil template, whose messages are the same for everyone.
func (t *Template) Locales(channel Channel) []string {
	if t == nil {
		return nil
	}
	locales := []string{t.DefaultLocale}
	for locale := range t.Texts[channel] {
		if locale != t.DefaultLocale {
			locales = append(locales, locale)
		}
	}
	return locales
}

// Segments is what an SMS is cut into, each of which is paid for.
type Segments struct {
	Encoding string `json:"encoding"` // GSM-7, or UCS-2 where a character needs it
	Units    int    `json:"units"`    // septets of GSM-7, or UTF-16 units of UCS-2
	Segments int    `json:"segments"`
}

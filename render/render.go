// Package render turns what a publisher wrote into what a channel carries.
//
// It owns the default layouts, and the language of templates. It never sends, never
// stores and never looks anything up, not even the time; what comes out depends on
// nothing but what goes in.
//
// It promises that text written by people stays text: it is escaped where it
// lands in HTML, it cannot break a header, and it can neither hold nor form
// fanfare.UnsubscribeTag and fanfare.PreferencesTag. Those stand in an email exactly
// where the layout or the template puts them, byte for byte, for the provider to
// replace. Only http and https links come out of the default layouts and of a
// template's url; a template's HTML is as its author wrote it.
//
// A template's text is rendered within bounds of time and size, or not at all. Its
// data is all there, or what is missing is named. Errors hold nothing of the data.
package render

import (
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/fanfare-dev/fanfare"
)

const (
	// maxSMS is how many characters Twilio takes.
	maxSMS = 1600
	// maxSMSTopic and maxSMSWords leave the default SMS one segment where the link has
	// no more than 59 characters and nothing needs UCS-2.
	maxSMSTopic = 30
	maxSMSWords = 100
	// maxPush is how many bytes a push's words and link may have: FCM takes 4,096 with
	// all the names around them.
	maxPush = 3500
	// maxPushTitle and maxPushText are more than phones show.
	maxPushTitle = 100
	maxPushText  = 200
	// maxInAppText bounds the default of an inbox's item.
	maxInAppText = 1000
)

// Renderer makes messages. It is safe for concurrent use.
type Renderer struct {
	email    *email
	patience time.Duration // with all texts of a publication together, before it is accepted
	sending  time.Duration // with each text of a message that is sent
}

// New reads the layouts that are built in.
func New() *Renderer { return &Renderer{email: newEmail(), patience: maxPreview, sending: maxSending} }

// Render makes the message that all recipients of a publication share who read the
// locale, which is one of a.Template's on that channel, or anything where there is no
// template. An error that matches fanfare.ErrInvalid lists everything that cannot be
// rendered; any other is a fault of ours. That it takes too long is one: it did not when the
// publication was accepted.
func (r *Renderer) Render(channel fanfare.Channel, a fanfare.Announcement, locale string) (fanfare.Message, error) {
	m, late, err := r.render(channel, a, locale, func() time.Time { return time.Now().Add(r.sending) })
	if late {
		return fanfare.Message{}, fmt.Errorf("render %s: a text takes longer than %s here", channel, r.sending)
	}
	return m, err
}

// render is Render with times by which texts that are begun must be done.
func (r *Renderer) render(channel fanfare.Channel, a fanfare.Announcement, locale string, until func() time.Time) (m fanfare.Message, late bool, err error) {
	switch {
	case a.Template != nil:
		m, late, err = r.fromTemplate(channel, a, locale, until)
	case channel == fanfare.Email:
		m, err = r.email.render(a.TopicName, a.Content)
	case channel == fanfare.SMS:
		m, err = defaultSMS(a)
	default:
		m, err = defaultNotice(channel, a)
	}
	if err != nil {
		return fanfare.Message{}, late, fmt.Errorf("render %s: %w", channel, err)
	}
	return m, false, nil
}

// defaultSMS is one line: "Topic: Title https://...". The topic is cut to 30
// characters and the words before the link to 100; the link is never cut.
func defaultSMS(a fanfare.Announcement) (fanfare.Message, error) {
	title, address, err := essentials(a.Content)
	if err != nil {
		return fanfare.Message{}, err
	}
	// Three dots: the character "…" is not in GSM-7 and would make the SMS twice as dear.
	if topic := shorten(oneLine(a.TopicName), maxSMSTopic, "..."); topic != "" {
		title = topic + ": " + title
	}
	text := shorten(title, maxSMSWords, "...") + " " + address
	if utf8.RuneCountInString(text) > maxSMS {
		return fanfare.Message{}, violation("content.url", fmt.Sprintf("is too long for an SMS, which has at most %d characters", maxSMS))
	}
	return fanfare.Message{Text: text}, nil
}

// defaultNotice is a push or an in-app item.
func defaultNotice(channel fanfare.Channel, a fanfare.Announcement) (fanfare.Message, error) {
	title, address, err := essentials(a.Content)
	if err != nil {
		return fanfare.Message{}, err
	}
	text := oneLine(a.Content.Summary)
	if text == "" {
		text = oneLine(a.TopicName)
	}
	if channel == fanfare.InApp {
		return fanfare.Message{Subject: shorten(title, maxSubject, "…"), Text: shorten(text, maxInAppText, "…"), URL: address}, nil
	}
	m := fanfare.Message{Subject: shorten(title, maxPushTitle, "…"), Text: shorten(text, maxPushText, "…"), URL: address}
	if pushSize(m) > maxPush {
		return fanfare.Message{}, violation("content.url", fmt.Sprintf("is too long for a push: its words and link have %d bytes, at most %d are possible", pushSize(m), maxPush))
	}
	return m, nil
}

func pushSize(m fanfare.Message) int { return len(m.Subject) + len(m.Text) + len(m.URL) }

func violation(field, detail string) error {
	return &fanfare.InvalidError{Violations: []fanfare.Violation{{Field: field, Detail: detail}}}
}

func violationsOf(err error) ([]fanfare.Violation, bool) {
	var invalid *fanfare.InvalidError
	if !errors.As(err, &invalid) {
		return nil, false
	}
	return invalid.Violations, true
}

package render

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/fanfare-dev/fanfare"
)

// The limits of a template.
const (
	maxHTML    = 100 << 10 // bytes of an html text: Gmail cuts off what is longer than 102 KB
	maxText    = 64 << 10  // bytes of any other text
	maxLocales = 20        // on each channel
)

// given are the variables that are there beside the data, and may not be in it.
var given = []string{"topic", "publication", "unsubscribe_url", "preferences_url"}

// parts are the texts that a channel has. The first is needed; of an email also html
// or text.
var parts = map[fanfare.Channel][]string{
	fanfare.Email: {"subject", "html", "text"},
	fanfare.SMS:   {"text"},
	fanfare.Push:  {"subject", "text", "url"},
	fanfare.InApp: {"subject", "text", "url"},
}

var allParts = []string{"subject", "html", "text", "url"}

func part(t *fanfare.TemplateText, name string) *string {
	switch name {
	case "subject":
		return &t.Subject
	case "html":
		return &t.HTML
	case "text":
		return &t.Text
	}
	return &t.URL
}

// localeForm is how locales are written: in lower case, a language and perhaps more.
var localeForm = regexp.MustCompile(`^[a-z]{2,8}(-[a-z0-9]{1,8}){0,3}$`)

// Check finds everything that is wrong with a template before there is data: fields
// begin with "texts". Nil when it may be kept.
func (r *Renderer) Check(t fanfare.Template) []fanfare.Violation {
	var c checking
	if !localeForm.MatchString(t.DefaultLocale) {
		c.add("default_locale", "must be a locale such as en or pt-br")
	}
	if len(t.Texts) == 0 {
		c.add("texts", "must have a channel: email, sms, push or inapp")
	}
	for _, channel := range slices.Sorted(maps.Keys(t.Texts)) {
		c.channel(channel, t)
	}
	return c.found
}

type checking struct{ found []fanfare.Violation }

func (c *checking) add(field, detail string) {
	c.found = append(c.found, fanfare.Violation{Field: field, Detail: detail})
}

func (c *checking) channel(channel fanfare.Channel, t fanfare.Template) {
	field := "texts." + string(channel)
	locales := t.Texts[channel]
	if !channel.Valid() {
		c.add(field, "is not a channel: there are email, sms, push and inapp")
		return
	}
	if len(locales) > maxLocales {
		c.add(field, fmt.Sprintf("has %d locales, at most %d are possible", len(locales), maxLocales))
		return
	}
	if _, found := locales[t.DefaultLocale]; !found {
		c.add(field, "must have a text in the default locale")
	}
	for _, locale := range slices.Sorted(maps.Keys(locales)) {
		if !localeForm.MatchString(locale) {
			c.add(field+"."+locale, "must be a locale such as en or pt-br")
			continue
		}
		c.text(field+"."+locale, channel, locales[locale])
	}
}

func (c *checking) text(field string, channel fanfare.Channel, text fanfare.TemplateText) {
	has := parts[channel]
	if *part(&text, has[0]) == "" {
		c.add(field+"."+has[0], "must not be empty")
	}
	if channel == fanfare.Email && text.HTML == "" && text.Text == "" {
		c.add(field+".html", "must not be empty, unless there is text")
	}
	for _, name := range allParts {
		source := *part(&text, name)
		limit := maxText
		if name == "html" {
			limit = maxHTML
		}
		switch {
		case source == "":
		case !slices.Contains(has, name):
			c.add(field+"."+name, "is not carried by this channel")
		case strings.ContainsRune(source, 0):
			c.add(field+"."+name, "must not contain a NUL character")
		case len(source) > limit:
			c.add(field+"."+name, fmt.Sprintf("has %d bytes, at most %d are possible", len(source), limit))
		default:
			run := newRun(false, time.Time{})
			if _, err := compile(run.language(), source); err != nil {
				run.fail(err)
				c.add(field+"."+name, run.faults[0].sentence())
			}
		}
	}
}

func (f fault) sentence() string {
	if f.line > 0 {
		return fmt.Sprintf("line %d: %s", f.line, f.err)
	}
	return f.err.Error()
}

// Prove renders every channel and locale that a publication asks for, and says
// everything that is wrong with any of them: what a missing piece of data is called, and
// where it is missed. Nil when all can be sent.
func (r *Renderer) Prove(a fanfare.Announcement) error {
	_, problems, err := r.Preview(a, "")
	if err == nil && len(problems) > 0 {
		err = &fanfare.InvalidError{Violations: problems}
	}
	return err
}

// Preview renders an announcement on all its channels: for somebody who reads the
// locale, or, where that is empty, in every locale there is. What cannot be rendered is
// among the problems instead.
func (r *Renderer) Preview(a fanfare.Announcement, locale string) ([]fanfare.Rendered, []fanfare.Violation, error) {
	rendered := []fanfare.Rendered{}
	var problems grouped
	end := time.Now().Add(r.patience)
	until := func() time.Time {
		if each := time.Now().Add(maxRender); each.Before(end) {
			return each
		}
		return end
	}
	for _, channel := range a.Channels {
		locales := slices.Sorted(slices.Values(a.Template.Locales(channel)))
		if a.Template == nil || locale != "" {
			locales = []string{a.Template.LocaleFor(channel, locale)}
		}
		for _, locale := range locales {
			m, _, err := r.render(channel, a, locale, until)
			if err != nil {
				if err := problems.take(err, channel, locale); err != nil {
					return nil, nil, err
				}
				continue
			}
			one := fanfare.Rendered{Channel: channel, Locale: locale, Subject: m.Subject, HTML: m.HTML, Text: m.Text, URL: m.URL}
			if channel == fanfare.SMS {
				segments := Segments(m.Text)
				one.Segments = &segments
			}
			rendered = append(rendered, one)
		}
	}
	return rendered, problems.all(), nil
}

// fromTemplate makes a message of the pinned template. late is true where it failed because
// a text took too long.
func (r *Renderer) fromTemplate(channel fanfare.Channel, a fanfare.Announcement, locale string, until func() time.Time) (m fanfare.Message, late bool, err error) {
	source, found := a.Template.Texts[channel][a.Template.LocaleFor(channel, locale)]
	if !found {
		return m, false, violation("content.template", fmt.Sprintf("%s version %d has no text for %s in its default locale", a.Template.Name, a.Template.Version, channel))
	}
	f := filling{renderer: r, channel: channel, a: a, until: until, data: variables(a), links: map[string]string{}}
	for _, name := range given {
		if _, taken := a.Content.Data[name]; taken {
			f.add("content.data."+name, "is a name that templates use for something else")
		}
	}
	if channel == fanfare.Email {
		f.links["unsubscribe_url"], f.links["preferences_url"] = newLink(), newLink()
	}
	m = f.message(source)
	if len(f.wrong) > 0 {
		return fanfare.Message{}, f.late, &fanfare.InvalidError{Violations: f.wrong}
	}
	return m, false, nil
}

// variables are what a template can name: the data, what else the content says, and
// what it is about.
func variables(a fanfare.Announcement) map[string]any {
	all := map[string]any{}
	for name, value := range map[string]string{"title": a.Content.Title, "url": a.Content.URL, "summary": a.Content.Summary, "body": a.Content.Body} {
		if value != "" {
			all[name] = value
		}
	}
	maps.Copy(all, a.Content.Data)
	all["topic"] = map[string]any{"name": a.TopicName}
	all["publication"] = map[string]any{"key": string(a.Key)}
	return all
}

// filling makes one message of a template, and notes everything that is wrong.
type filling struct {
	renderer *Renderer
	channel  fanfare.Channel
	a        fanfare.Announcement
	until    func() time.Time // when a text that is begun now must be done
	late     bool             // one was not
	data     map[string]any
	links    map[string]string
	wrong    []fanfare.Violation
}

func (f *filling) add(field, detail string) {
	v := fanfare.Violation{Field: field, Detail: detail}
	if !slices.Contains(f.wrong, v) {
		f.wrong = append(f.wrong, v)
	}
}

func (f *filling) message(source fanfare.TemplateText) fanfare.Message {
	m := fanfare.Message{Subject: oneLine(f.part("subject", source.Subject))}
	if f.channel == fanfare.Email {
		m.Subject = shorten(m.Subject, maxSubject, "…")
		m.HTML = f.withFooter("html", f.part("html", source.HTML))
		m.Text = f.withFooter("text", f.part("text", source.Text))
	} else {
		m.Text = strings.TrimSpace(f.part("text", source.Text))
		m.URL = f.address(source.URL)
	}
	if len(f.wrong) > 0 { // what is empty may be so because of that
		return m
	}
	switch {
	case f.channel == fanfare.SMS && m.Text == "":
		f.add("content.template", "sms text: comes out empty")
	case f.channel != fanfare.SMS && m.Subject == "":
		f.add("content.template", string(f.channel)+" subject: comes out empty")
	case f.channel == fanfare.SMS && utf8.RuneCountInString(m.Text) > maxSMS:
		f.add("content.template", fmt.Sprintf("sms text: comes out with %d characters, an SMS has at most %d", utf8.RuneCountInString(m.Text), maxSMS))
	case f.channel == fanfare.Push && pushSize(m) > maxPush:
		f.add("content.template", fmt.Sprintf("push: words and link come out with %d bytes, at most %d are possible", pushSize(m), maxPush))
	}
	return m
}

// part renders one text.
func (f *filling) part(name, source string) string {
	if source == "" {
		return ""
	}
	run := newRun(name == "html", f.until())
	if name != "subject" { // which goes to all recipients as it is
		run.links = f.links
	}
	out := disarm(run.fill(source, f.data))
	for variable, link := range run.links {
		if changed(out, link) {
			f.add("content.template", fmt.Sprintf("%s %s: changes %s, which must stand as it is", f.channel, name, variable))
		}
	}
	for _, path := range run.missing {
		root, _, _ := strings.Cut(path, ".")
		switch {
		case slices.Contains(given, root) && !strings.HasPrefix(path, root+"."):
			f.add("content.template", fmt.Sprintf("%s %s: there is no %s here", f.channel, name, path))
		case slices.Contains(given, root):
			f.add("content.template", fmt.Sprintf("%s %s: there is no %s", f.channel, name, path))
		default:
			f.add("content.data."+path, "is missing")
		}
	}
	for _, fault := range run.faults {
		f.late = f.late || errors.Is(fault.err, errTooLong)
		f.add("content.template", fmt.Sprintf("%s %s: %s", f.channel, name, fault.sentence()))
	}
	return out
}

// withFooter puts the tags where their variables stood, and the standard footer, or what
// is left of it, into an email that has no link to unsubscribe or none to the preferences.
func (f *filling) withFooter(name, out string) string {
	if out == "" {
		return ""
	}
	leave, prefer := f.links["unsubscribe_url"], f.links["preferences_url"]
	which := "footer"
	if strings.Contains(out, leave) {
		which = "preferences"
	}
	whole := which != "footer" && strings.Contains(out, prefer)
	out = strings.NewReplacer(leave, fanfare.UnsubscribeTag, prefer, fanfare.PreferencesTag).Replace(out)
	if whole {
		return out
	}
	footer, err := f.renderer.email.footer(name, which, f.a.TopicName)
	if err != nil {
		f.add("content.template", "the footer cannot be rendered")
	}
	if name == "text" {
		return strings.TrimRight(out, "\n") + "\n\n" + footer
	}
	if ends := bodyEnd.FindAllStringIndex(out, -1); ends != nil {
		at := ends[len(ends)-1][0]
		return out[:at] + footer + out[at:]
	}
	return out + "\n" + footer
}

var bodyEnd = regexp.MustCompile(`(?i)</body\s*>`)

// address renders a url; without one it is the content's, where that has one.
func (f *filling) address(source string) string {
	raw := f.part("url", source)
	if source == "" {
		raw = f.a.Content.URL
	}
	if raw == "" || f.channel == fanfare.SMS {
		return ""
	}
	clean, why := link(raw)
	if why != "" && len(f.wrong) == 0 {
		f.add("content.template", string(f.channel)+" url: "+why)
	}
	return clean
}

// grouped puts the same violations of several channels and locales together.
type grouped struct {
	order []fanfare.Violation
	where map[fanfare.Violation][]string
}

// take keeps what is wrong; any other error is given back.
func (g *grouped) take(err error, channel fanfare.Channel, locale string) error {
	if err == nil {
		return nil
	}
	violations, ok := violationsOf(err)
	if !ok {
		return err
	}
	at := string(channel)
	if locale != "" {
		at += ", " + locale
	}
	if g.where == nil {
		g.where = map[fanfare.Violation][]string{}
	}
	for _, v := range violations {
		if g.where[v] == nil {
			g.order = append(g.order, v)
		}
		g.where[v] = append(g.where[v], at)
	}
	return nil
}

func (g *grouped) all() []fanfare.Violation {
	all := make([]fanfare.Violation, len(g.order))
	for i, v := range g.order {
		all[i] = fanfare.Violation{Field: v.Field, Detail: v.Detail + " (" + strings.Join(g.where[v], "; ") + ")"}
	}
	return all
}

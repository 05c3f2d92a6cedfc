package server

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"

	"github.com/labstack/echo/v4"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/server/api"
)

// Preferrer keeps what subscribers want.
type Preferrer interface {
	Preferences(ctx context.Context, number fanfare.SubscriberNumber) (fanfare.StandingPreferences, error)
	// PutPreferences changes what is given and leaves the rest. Topics that do not
	// exist are an fanfare.InvalidError that names each.
	PutPreferences(ctx context.Context, number fanfare.SubscriberNumber, given fanfare.Preferences) (fanfare.StandingPreferences, error)
	// PreferenceChanges lists changes with an id below before, newest first; 0 is no bound.
	PreferenceChanges(ctx context.Context, number fanfare.SubscriberNumber, before int64, limit int) ([]fanfare.PreferenceChange, error)
	// LinkedPreferences reads what a link opens.
	LinkedPreferences(ctx context.Context, link fanfare.PreferencesLink) (fanfare.LinkedPreferences, error)
}

type preferences struct {
	preferrer Preferrer
	finder    SubscriberFinder
	secret    fanfare.Secret
	channels  []fanfare.Channel // that the page shows
	pages     *pages
}

func (p *preferences) GetMyPreferences(c echo.Context) error {
	standing, err := p.preferrer.Preferences(c.Request().Context(), tokenOwner(c))
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, standing)
}

func (p *preferences) PutMyPreferences(c echo.Context) error {
	var body api.PreferencesBody
	if err := decode(c, &body); err != nil {
		return err
	}
	given := fanfare.Preferences{Channels: chosen(body.Channels), Topics: map[fanfare.Topic]map[fanfare.Channel]bool{}}
	for topic, choices := range body.Topics {
		given.Topics[topic] = chosen(choices)
	}
	standing, err := p.preferrer.PutPreferences(c.Request().Context(), tokenOwner(c), given)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, standing)
}

// checkPreferencesBody is the deep check of putMyPreferences: the description cannot say
// what a member may be called, and the ledger takes no NUL.
func checkPreferencesBody(_ context.Context, body []byte) ([]fanfare.Violation, error) {
	var given struct {
		Topics map[string]json.RawMessage `json:"topics"`
	}
	decodeLoosely(body, &given)
	var violations []fanfare.Violation
	for _, topic := range slices.Sorted(maps.Keys(given.Topics)) {
		if !fanfare.ValidName(topic) {
			violations = append(violations, fanfare.Violation{Field: shorten("topics."+topic, 500), Detail: "is no topic"})
		}
	}
	return violations, nil
}

// chosen leaves out what is null, which counts as left out.
func chosen(choices api.Choices) map[fanfare.Channel]bool {
	given := map[fanfare.Channel]bool{}
	for channel, wanted := range choices {
		if wanted != nil {
			given[channel] = *wanted
		}
	}
	return given
}

func (p *preferences) GetSubscriberPreferences(c echo.Context, id fanfare.SubscriberID, params api.GetSubscriberPreferencesParams) error {
	ctx := c.Request().Context()
	before, err := readCursor(params.Cursor, func(s string) (int64, bool) {
		n, err := strconv.ParseInt(s, 10, 64)
		return n, err == nil && n > 0
	})
	if err != nil {
		return err
	}
	number, err := p.finder.SubscriberNumber(ctx, id)
	if err != nil {
		return err
	}
	standing, err := p.preferrer.Preferences(ctx, number)
	if err != nil {
		return err
	}
	limit := pageSize(params.Limit)
	changes, err := p.preferrer.PreferenceChanges(ctx, number, before, limit+1)
	if err != nil {
		return err
	}
	answer := api.AuditedPreferences{Channels: standing.Channels, Topics: standing.Topics, Effective: standing.Effective}
	answer.Changes, answer.NextCursor = page(changes, limit, func(change fanfare.PreferenceChange) string { return strconv.FormatInt(change.ID, 10) })
	return c.JSON(http.StatusOK, answer)
}

// Fields of the page's form: a box, named after its channel, and behind it a hidden
// field that says what the box showed. Boxes of the topic have a name in front.
const (
	fieldOfTopic = "topic-"
	fieldShown   = "was-"
	fieldOn      = "on"
	fieldOff     = "off"
)

// maxForm is far more than the page's form ever has, in bytes.
const maxForm = 64 << 10

// box is one choice on the page.
type box struct {
	Field, Shown string
	Channel      fanfare.Channel
	On           bool
}

// Words is how a channel is called by people.
func (b box) Words() string {
	switch b.Channel {
	case fanfare.Email:
		return "Email"
	case fanfare.SMS:
		return "Text messages"
	case fanfare.Push:
		return "Push notifications"
	case fanfare.InApp:
		return "In the app"
	}
	return string(b.Channel)
}

// form is what the page shows.
type form struct {
	TopicName   string // empty: the page is about no topic
	Unsubscribe string
	OfTopic     []box
	OfAll       []box
	Posted      bool
	Changed     bool
}

// ShowPreferences shows the form and changes nothing: programs follow links.
func (p *preferences) ShowPreferences(c echo.Context, token string) error {
	link, err := fanfare.ParsePreferencesToken(p.secret, token)
	if err != nil {
		return p.pages.fail(c, err)
	}
	linked, err := p.preferrer.LinkedPreferences(c.Request().Context(), link)
	if err != nil {
		return p.pages.fail(c, err)
	}
	return p.pages.show(c, http.StatusOK, pagePreferences, p.form(link, linked))
}

// SavePreferences saves the boxes that do not stand as they were shown. The others are
// left alone: nobody said anything about them, and a page that was open for
// long must not take back what was changed elsewhere.
func (p *preferences) SavePreferences(c echo.Context, token string) error {
	ctx := c.Request().Context()
	link, err := fanfare.ParsePreferencesToken(p.secret, token)
	if err != nil {
		return p.pages.fail(c, err)
	}
	linked, err := p.preferrer.LinkedPreferences(ctx, link)
	if err != nil {
		return p.pages.fail(c, err)
	}
	given, err := readForm(c, linked.Topic)
	if err != nil {
		return p.pages.fail(c, err)
	}
	changed := len(given.Channels)+len(given.Topics) > 0
	if changed {
		if _, err := p.preferrer.PutPreferences(ctx, link.Number, given); err != nil {
			return p.pages.fail(c, err)
		}
		if linked, err = p.preferrer.LinkedPreferences(ctx, link); err != nil {
			return p.pages.fail(c, err)
		}
	}
	shown := p.form(link, linked)
	shown.Posted, shown.Changed = true, changed
	return p.pages.show(c, http.StatusOK, pagePreferences, shown)
}

func (p *preferences) form(link fanfare.PreferencesLink, linked fanfare.LinkedPreferences) form {
	f := form{TopicName: linked.TopicName, OfAll: boxes("", p.channels, linked.Channels)}
	if linked.Topic != "" {
		f.OfTopic = boxes(fieldOfTopic, p.channels, linked.OfTopic)
		f.Unsubscribe = "/unsubscribe/" + fanfare.UnsubscribeLink(link).Token(p.secret)
	}
	return f
}

func boxes(prefix string, channels []fanfare.Channel, wanted map[fanfare.Channel]bool) []box {
	list := make([]box, len(channels))
	for i, channel := range channels {
		field := prefix + string(channel)
		list[i] = box{Field: field, Shown: fieldShown + field, Channel: channel, On: wanted[channel]}
	}
	return list
}

// readForm reads what was changed in the form. Fields that the page does not have are
// not looked at.
func readForm(c echo.Context, topic fanfare.Topic) (fanfare.Preferences, error) {
	r := c.Request()
	r.URL.RawQuery = "" // what trackers append is none of ours, and often not well-formed
	r.Body = http.MaxBytesReader(c.Response(), r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		return fanfare.Preferences{}, fmt.Errorf("read form: %w", bodyError(err))
	}
	changed := func(prefix string) map[fanfare.Channel]bool {
		given := map[fanfare.Channel]bool{}
		for _, channel := range []fanfare.Channel{fanfare.Email, fanfare.SMS, fanfare.Push, fanfare.InApp} {
			field := prefix + string(channel)
			now := fieldOff
			if r.PostForm.Has(field) {
				now = fieldOn
			}
			if shown := r.PostForm.Get(fieldShown + field); shown != "" && shown != now {
				given[channel] = now == fieldOn
			}
		}
		return given
	}
	given := fanfare.Preferences{Channels: changed("")}
	if ofTopic := changed(fieldOfTopic); topic != "" && len(ofTopic) > 0 {
		given.Topics = map[fanfare.Topic]map[fanfare.Channel]bool{topic: ofTopic}
	}
	return given, nil
}

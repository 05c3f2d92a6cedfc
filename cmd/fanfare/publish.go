package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/render"
	"github.com/fanfare-dev/fanfare/server/api"
)

// The exit codes of a publication or replay that was watched to its end.
const (
	exitWithFailures = 3
	exitStopped      = 4 // cancelled or expired
)

const (
	// lookEvery is how often what is watched is read.
	lookEvery = 300 * time.Millisecond
	// lookFor is how long a server that is away is waited for: a restart takes seconds.
	lookFor = 2 * time.Minute
)

type publishing struct {
	draft         fanfare.Draft
	topic, key    string
	channels      []string
	data          []string
	at, expires   string
	watch, asJSON bool
}

func (a *app) publishCommand() *cobra.Command {
	var p publishing
	cmd := &cobra.Command{
		Use:   "publish --topic TOPIC {--title TITLE --url URL | --template NAME}",
		Short: "Announce something to everybody who is subscribed to a topic",
		Long: `Announces something to everybody who is subscribed to the topic now. The answer
means that it is safe in the database; the sending goes on by itself.

--key names the publication, say by the article's id: publishing again under the
same key is the same publication, and nobody hears of it twice.

What it says is a title and an address, or a template with its data. When SMS is
among the channels, it says before it sends what one will be cut into.

With --watch it stays until the end, and exits with 0 when completed, 3 when
completed with failures, 4 when cancelled or expired.`,
		Example: `  fanfare publish --topic writer-1 --title "Hello" --url https://blog.example/hello --watch
  fanfare publish --topic writer-1 --channels email,sms --template new-article --data title=Hello --data author.name=Ada`,
		Args:    cobra.NoArgs,
		PreRunE: func(cmd *cobra.Command, _ []string) error { return requireContent(cmd) },
		RunE:    does(func(cmd *cobra.Command, _ []string) error { return a.publish(cmd.Context(), p) }),
	}
	f := cmd.Flags()
	f.StringVar(&p.topic, "topic", "", "whose subscribers hear of it")
	f.StringVar(&p.draft.Content.Title, "title", "", "what it is called")
	f.StringVar(&p.draft.Content.URL, "url", "", "where it can be read")
	f.StringVar(&p.draft.Content.Summary, "summary", "", "a sentence or two about it")
	f.StringVar(&p.draft.Content.Body, "body", "", "plain text to send along; blank lines separate paragraphs")
	f.StringVar(&p.key, "key", "", "its unique name (default: a new one)")
	f.StringSliceVar(&p.channels, "channels", nil, "channels, separated by commas (default: email, where it is on)")
	f.StringVar(&p.draft.Content.Template, "template", "", "the template that says what the messages say")
	f.StringArrayVar(&p.data, "data", nil, dataUsage)
	f.StringVar(&p.at, "at", "", "when to begin: a time such as 2026-01-31T08:00:00Z, or a span from now such as 2h (default: now)")
	f.StringVar(&p.expires, "expires", "", "when to give up on whoever was not sent to, written as for --at (default: the server's)")
	f.BoolVar(&p.watch, "watch", false, "show a progress bar until it ends")
	jsonFlag(cmd, &p.asJSON)
	return cmd
}

// requireContent asks for a topic and, without a template, for title and address.
func requireContent(cmd *cobra.Command) error {
	required := []string{"topic", "title", "url"}
	if cmd.Flags().Changed("template") {
		required = required[:1]
	}
	missing := slices.DeleteFunc(required, cmd.Flags().Changed)
	if len(missing) > 0 {
		return fmt.Errorf(`required flag(s) "%s" not set`, strings.Join(missing, `", "`))
	}
	return nil
}

func (a *app) publish(ctx context.Context, p publishing) error {
	draft, err := p.read(time.Now())
	if err != nil {
		return err
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	if slices.Contains(draft.Channels, fanfare.SMS) {
		a.sayWhatAnSMSCosts(ctx, c, draft)
	}
	var accepted api.AcceptedPublication
	if err := c.send(ctx, http.MethodPost, "/v1/publications", draft, &accepted); err != nil {
		if temporary(err) {
			return fmt.Errorf("%w\nIf it may have arrived, publish again with --key %s: it stays one publication", err, draft.Key)
		}
		return err
	}
	switch {
	case p.watch:
		return a.watchToEnd(ctx, c, accepted, p.asJSON)
	case p.asJSON:
		return a.printJSON(accepted)
	}
	fmt.Fprintf(a.out, "Publication %s is %s: %s.\n  key %s\n\n", accepted.Id, sayState(accepted.State), sayDeliveries(accepted.Intended), accepted.Key)
	printLinks(a.out, accepted.Links)
	fmt.Fprintf(a.out, "\nFollow it with `fanfare status %s`.\n", accepted.Id)
	return nil
}

// read makes the draft that is sent. What the words of the API cannot mean is
// left to the API to refuse, all at once.
func (p publishing) read(now time.Time) (fanfare.Draft, error) {
	d := p.draft
	d.Topic, d.Key = fanfare.Topic(p.topic), fanfare.Key(p.key)
	if d.Key == "" {
		d.Key = fanfare.Key("publication-" + uuid.NewString())
	}
	for _, channel := range p.channels {
		d.Channels = append(d.Channels, fanfare.Channel(channel))
	}
	var dataErr, atErr, expiresErr error
	d.Content.Data, dataErr = readData(p.data)
	d.ScheduledAt, atErr = readTime("--at", p.at, now)
	d.ExpiresAt, expiresErr = readTime("--expires", p.expires, now)
	if err := errors.Join(dataErr, atErr, expiresErr); err != nil {
		return d, &exitError{exitUsage, err}
	}
	return d, nil
}

// sayWhatAnSMSCosts says what the SMS will be cut into. What is wrong with the content
// is for the publication's answer to say. Without a template the text has the topic's
// name, which is not known here: its id stands in.
func (a *app) sayWhatAnSMSCosts(ctx context.Context, c *apiClient, draft fanfare.Draft) {
	if draft.Content.Template == "" {
		m, err := render.New().Render(fanfare.SMS, fanfare.Announcement{TopicName: string(draft.Topic), Content: draft.Content}, "")
		if err == nil {
			fmt.Fprintf(a.err, "Each SMS has about %s.\n", saySegments(render.Segments(m.Text)))
		}
		return
	}
	asked := api.PreviewBody{Channel: fanfare.SMS, Data: api.TemplateData{}}
	for name, value := range map[string]string{
		"title": draft.Content.Title, "url": draft.Content.URL, "summary": draft.Content.Summary, "body": draft.Content.Body,
	} {
		if value != "" {
			asked.Data[name] = value
		}
	}
	maps.Copy(asked.Data, draft.Content.Data)
	var preview api.TemplatePreview
	if c.send(ctx, http.MethodPost, templatePath(draft.Content.Template)+"/preview", asked, &preview) != nil {
		return
	}
	for _, m := range preview.Messages {
		if m.Segments != nil {
			fmt.Fprintf(a.err, "Each SMS in %s has about %s.\n", m.Locale, saySegments(*m.Segments))
		}
	}
}

// readTime reads a time, or a span from now. Nothing is no time.
func readTime(flag, text string, now time.Time) (*time.Time, error) {
	if text == "" {
		return nil, nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		span, spanErr := time.ParseDuration(text)
		if spanErr != nil {
			return nil, fmt.Errorf("%s %q: write a time such as 2026-01-31T08:00:00Z, or a span from now such as 2h", flag, text)
		}
		at = now.Add(span).UTC().Truncate(time.Second)
	}
	return &at, nil
}

func (a *app) watchToEnd(ctx context.Context, c *apiClient, accepted api.AcceptedPublication, asJSON bool) error {
	p, err := watch(ctx, c, accepted.Id, accepted.Intended, &screen{out: a.err})
	if err != nil {
		if ctx.Err() != nil {
			fmt.Fprintf(a.err, "It goes on by itself; `fanfare status %s` shows where it stands.\n", accepted.Id)
		}
		return err
	}
	if asJSON {
		err = a.printJSON(p)
	} else {
		err = printPublication(a.out, p)
	}
	if err != nil {
		return err
	}
	return howItEnded(p.State)
}

// howItEnded is nil for a publication that completed, and otherwise the exit code.
func howItEnded(state fanfare.PublicationState) error {
	switch state {
	case fanfare.Completed:
		return nil
	case fanfare.CompletedWithFailures:
		return &exitError{code: exitWithFailures}
	default:
		return &exitError{code: exitStopped}
	}
}

// watch shows a publication's progress until its last delivery came to its end.
func watch(ctx context.Context, c *apiClient, id fanfare.PublicationID, intended int64, on *screen) (fanfare.Publication, error) {
	bar := newProgress(on, "sending", "deliveries", intended)
	defer bar.end()
	var p fanfare.Publication
	err := follow(ctx, bar, func() (bool, error) {
		now, err := readPublication(ctx, c, id)
		if err != nil {
			return false, err
		}
		p = now
		bar.reach(p.Totals.Intended-p.Totals.Unfinished(), doing(p))
		return p.FinishedAt != nil, nil
	})
	return p, err
}

// follow looks again and again until something has ended. A server that is away for
// a while is waited for.
func follow(ctx context.Context, bar *progress, look func() (ended bool, err error)) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	answered := time.Now()
	for {
		ended, err := look()
		switch {
		case ended:
			return nil
		case err == nil:
			answered = time.Now()
		case !temporary(err) || time.Since(answered) > lookFor:
			return err
		default:
			bar.reach(bar.at, "waiting for the API")
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// doing says what a publication is about, for the bar.
func doing(p fanfare.Publication) string {
	t := p.Totals
	switch {
	case p.State == fanfare.Running && len(p.WaitingFor) > 0 && p.WaitingFor[0].Kind == fanfare.WaitingProvider:
		return p.WaitingFor[0].Provider + " is not called" // another provider may be
	case p.State == fanfare.Running && len(p.WaitingFor) > 0 && p.WaitingFor[0].Kind == fanfare.WaitingThrottle:
		return p.WaitingFor[0].Provider + " asked for time"
	case p.State == fanfare.Running && t.InDoubt > 0 && t.Pending+t.Sending == 0:
		return "asking the provider"
	case p.State == fanfare.Running || p.FinishedAt != nil:
		return "sending"
	}
	return sayState(p.State)
}

func readPublication(ctx context.Context, c *apiClient, id fanfare.PublicationID) (fanfare.Publication, error) {
	var p fanfare.Publication
	err := c.send(ctx, http.MethodGet, "/v1/publications/"+url.PathEscape(string(id)), nil, &p)
	return p, err
}

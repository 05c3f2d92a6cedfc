package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/server/api"
)

const dataUsage = "a value for the template: author.name=Ada, or as JSON, tags:='[\"a\",\"b\"]'; may be repeated"

func (a *app) templatesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "templates",
		Short: "Keep what messages say: list, show, put, preview and test templates",
		Long: `Templates are written in Liquid, by channel and locale, and kept in versions. A
publication is made of the version that was the latest when it was accepted.`,
		Example: `  fanfare templates show new-article --json > new-article.json
  fanfare templates put new-article.json
  fanfare templates preview new-article --data title=Hello --data author.name=Ada
  fanfare templates test new-article --channel email --subscriber reader-1 --data title=Hello`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.templatesListCommand(), a.templatesShowCommand(), a.templatesPutCommand(), a.templatesPreviewCommand(), a.templatesTestCommand())
	return cmd
}

func templatePath(name string) string { return "/v1/templates/" + url.PathEscape(name) }

func (a *app) templatesListCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list", Short: "List all templates", Args: cobra.NoArgs,
		RunE: does(func(cmd *cobra.Command, _ []string) error {
			list, err := a.summaries(cmd.Context(), "/v1/templates")
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(api.TemplateList{Items: list})
			}
			if len(list) == 0 {
				fmt.Fprintln(a.out, "There are no templates. `fanfare templates put FILE` makes one.")
				return nil
			}
			return printTemplates(a.out, list)
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

// summaries reads all of a list of templates.
func (a *app) summaries(ctx context.Context, path string) ([]fanfare.TemplateSummary, error) {
	c, err := a.client()
	if err != nil {
		return nil, err
	}
	return readAll[fanfare.TemplateSummary](ctx, c, path, url.Values{}, 0)
}

func printTemplates(w io.Writer, list []fanfare.TemplateSummary) error {
	t := newTable("template", "version", "put", "locales")
	for _, one := range list {
		var channels []string
		for _, channel := range slices.Sorted(maps.Keys(one.Locales)) {
			channels = append(channels, string(channel)+" "+strings.Join(one.Locales[channel], ","))
		}
		t.row(one.Name, strconv.Itoa(one.Version), clock(one.CreatedAt), strings.Join(channels, "; "))
	}
	return t.write(w)
}

func (a *app) templatesShowCommand() *cobra.Command {
	var version int
	var asJSON bool
	cmd := &cobra.Command{
		Use: "show NAME", Short: "Show a template's texts and its versions", Args: cobra.ExactArgs(1),
		RunE: does(func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			path := templatePath(args[0])
			if version > 0 {
				path += "?version=" + strconv.Itoa(version)
			}
			var t fanfare.Template
			if err := c.send(cmd.Context(), http.MethodGet, path, nil, &t); err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(t)
			}
			versions, err := a.summaries(cmd.Context(), templatePath(args[0])+"/versions")
			if err != nil {
				return err
			}
			printTemplate(a.out, t)
			return printTemplates(a.out, versions)
		}),
	}
	cmd.Flags().IntVar(&version, "version", 0, "which version (default: the latest)")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func printTemplate(w io.Writer, t fanfare.Template) {
	fmt.Fprintf(w, "Template %s, version %d; the default locale is %s.\n\n", t.Name, t.Version, t.DefaultLocale)
	for _, channel := range slices.Sorted(maps.Keys(t.Texts)) {
		for _, locale := range slices.Sorted(maps.Keys(t.Texts[channel])) {
			text := t.Texts[channel][locale]
			printMessage(w, fanfare.Rendered{Channel: channel, Locale: locale, Subject: text.Subject, HTML: text.HTML, Text: text.Text, URL: text.URL})
		}
	}
}

func (a *app) templatesPutCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "put FILE",
		Short: "Make a new version of a template from a JSON file",
		Long: `Makes a new version from a JSON file, or from standard input where FILE is "-":

  {"name": "new-article", "default_locale": "en",
   "texts": {"sms": {"en": {"text": "{{ title }} {{ url }}"}}}}

"fanfare templates show NAME --json" prints the same form. The same texts again
make no new version.`,
		Args: cobra.ExactArgs(1),
		RunE: does(func(cmd *cobra.Command, args []string) error {
			name, body, err := a.readTemplate(args[0])
			if err != nil {
				return &exitError{exitUsage, err}
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			var kept fanfare.Template
			if err := c.send(cmd.Context(), http.MethodPut, templatePath(name), body, &kept); err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(kept)
			}
			fmt.Fprintf(a.out, "Template %s is at version %d.\n", kept.Name, kept.Version)
			return nil
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

// readTemplate reads a template's name, and what the API takes of the rest: what `show`
// printed beside that is left out.
func (a *app) readTemplate(file string) (name string, body map[string]json.RawMessage, err error) {
	var text []byte
	if file == "-" {
		text, err = io.ReadAll(a.in)
	} else {
		text, err = os.ReadFile(file)
	}
	if err != nil {
		return "", nil, fmt.Errorf("read template: %w", err)
	}
	if err := json.Unmarshal(text, &body); err != nil {
		return "", nil, fmt.Errorf("%s is not a JSON object: %w", file, err)
	}
	if err := json.Unmarshal(body["name"], &name); err != nil || !fanfare.ValidName(name) {
		return "", nil, fmt.Errorf("%s must have a \"name\": 1 to 200 characters out of letters, digits and ._:@-", file)
	}
	for _, known := range []string{"name", "version", "created_at"} {
		delete(body, known)
	}
	return name, body, nil
}

func (a *app) templatesPreviewCommand() *cobra.Command {
	var given []string
	var asked api.PreviewBody
	var channel string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "preview NAME",
		Short: "Show what a template's messages would be, and what is missing",
		Long: `Renders a template with the data given, on every channel and in every locale, and
shows the segments of an SMS. It sends nothing, and exits with 1 when something
cannot be rendered.`,
		Args: cobra.ExactArgs(1),
		RunE: does(func(cmd *cobra.Command, args []string) error {
			data, err := readData(given)
			if err != nil {
				return &exitError{exitUsage, err}
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			asked.Data, asked.Channel = data, fanfare.Channel(channel)
			var preview api.TemplatePreview
			if err := c.send(cmd.Context(), http.MethodPost, templatePath(args[0])+"/preview", asked, &preview); err != nil {
				return err
			}
			return a.reportPreview(preview, asJSON)
		}),
	}
	f := cmd.Flags()
	f.StringArrayVar(&given, "data", nil, dataUsage)
	f.StringVar(&channel, "channel", "", "only this channel")
	f.StringVar(&asked.Locale, "locale", "", "only what somebody who reads this locale gets")
	f.IntVar(&asked.Version, "version", 0, "which version (default: the latest)")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (a *app) reportPreview(p api.TemplatePreview, asJSON bool) error {
	if asJSON {
		if err := a.printJSON(p); err != nil {
			return err
		}
	} else {
		for _, m := range p.Messages {
			printMessage(a.out, m)
		}
		for _, problem := range p.Problems {
			fmt.Fprintln(a.out, problem.Field+" "+problem.Detail)
		}
	}
	if len(p.Problems) > 0 {
		return &exitError{code: exitFailed}
	}
	return nil
}

// printMessage prints the parts that a message has.
func printMessage(w io.Writer, m fanfare.Rendered) {
	head := string(m.Channel) + ", " + m.Locale
	if m.Segments != nil {
		head += ": " + saySegments(*m.Segments)
	}
	fmt.Fprintf(w, "--- %s\n", head)
	for _, part := range [][2]string{{"Subject", m.Subject}, {"URL", m.URL}} {
		if part[1] != "" {
			fmt.Fprintf(w, "%s: %s\n", part[0], part[1])
		}
	}
	for _, text := range []string{m.Text, m.HTML} {
		if text != "" {
			fmt.Fprintln(w, strings.TrimRight(text, "\n"))
		}
	}
	fmt.Fprintln(w)
}

// saySegments says what an SMS is paid for.
func saySegments(s fanfare.Segments) string {
	return fmt.Sprintf("%s (%s, %s)", count(int64(s.Segments), "segment"), s.Encoding, count(int64(s.Units), "unit"))
}

func (a *app) templatesTestCommand() *cobra.Command {
	var given []string
	var asked api.TestBody
	var channel, subscriber string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "test NAME --channel CHANNEL --subscriber ID",
		Short: "Send a template to one subscriber",
		Long: `Sends a template's latest version to one subscriber, as a publication to a topic
that is made for it. "fanfare status" shows what became of it.`,
		Args: cobra.ExactArgs(1),
		RunE: does(func(cmd *cobra.Command, args []string) error {
			data, err := readData(given)
			if err != nil {
				return &exitError{exitUsage, err}
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			asked.Data, asked.Channel, asked.Subscriber = data, fanfare.Channel(channel), fanfare.SubscriberID(subscriber)
			var accepted api.AcceptedPublication
			if err := c.send(cmd.Context(), http.MethodPost, templatePath(args[0])+"/test", asked, &accepted); err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(accepted)
			}
			fmt.Fprintf(a.out, "Publication %s sends it to %s.\n\nFollow it with `fanfare status %s`.\n", accepted.Id, subscriber, accepted.Id)
			return nil
		}),
	}
	f := cmd.Flags()
	f.StringArrayVar(&given, "data", nil, dataUsage)
	f.StringVar(&channel, "channel", "", "where to send it: email, sms, push or inapp")
	f.StringVar(&subscriber, "subscriber", "", "who gets it")
	jsonFlag(cmd, &asJSON)
	for _, name := range []string{"channel", "subscriber"} {
		_ = cmd.MarkFlagRequired(name) // fails for unknown flags only
	}
	return cmd
}

// readData reads values for a template: name=text, or name:=JSON. Dots in a name lead
// into objects.
func readData(given []string) (map[string]any, error) {
	data := map[string]any{}
	var errs []error
	for _, one := range given {
		name, text, found := strings.Cut(one, "=")
		var value any = text
		if asJSON, is := strings.CutSuffix(name, ":"); is {
			name = asJSON
			if err := json.Unmarshal([]byte(text), &value); err != nil {
				errs = append(errs, fmt.Errorf("--data %s: what follows := is not JSON", name))
				continue
			}
		}
		if !found || name == "" {
			errs = append(errs, fmt.Errorf("--data %q: write NAME=TEXT or NAME:=JSON", one))
			continue
		}
		if err := setData(data, strings.Split(name, "."), value); err != nil {
			errs = append(errs, fmt.Errorf("--data %s: %w", name, err))
		}
	}
	if len(data) == 0 {
		data = nil
	}
	return data, errors.Join(errs...)
}

func setData(data map[string]any, path []string, value any) error {
	for _, name := range path[:len(path)-1] {
		inner, there := data[name]
		if !there {
			inner = map[string]any{}
			data[name] = inner
		}
		object, is := inner.(map[string]any)
		if !is {
			return fmt.Errorf("%s has a value already, and no fields", name)
		}
		data = object
	}
	last := path[len(path)-1]
	if _, there := data[last]; there {
		return errors.New("is given twice")
	}
	data[last] = value
	return nil
}

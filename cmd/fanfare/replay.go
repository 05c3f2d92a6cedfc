package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/server/api"
)

// shownSample is how many examples a dry run shows to people; --json has more.
const shownSample = 5

// replay is what `fanfare replay` was asked for.
type replay struct {
	filter                fanfare.ReplayFilter
	topic, channel        string
	since, until          string
	dryRun, watch, asJSON bool
}

func (a *app) replayCommand() *cobra.Command {
	var r replay
	cmd := &cobra.Command{
		Use:   "replay",
		Short: "Send dead letters again",
		Long: `Sends dead letters again with fresh attempts: those that match every filter given,
of which there must be at least one. Begin with --dry-run, which counts them, says
how long it would take, and changes nothing.

Whoever has been sent to meanwhile, opted out or was suppressed is not sent to.
Running it twice is harmless. Letters that were given up in doubt may have been
sent already: they are taken only with --reason doubt_held.

With --watch it stays until the end, and exits with 0 when all were sent, 3 when
some failed or died again, 4 when cancelled.`,
		Example: `  fanfare replay --publication article-123 --dry-run
  fanfare replay --code sendgrid:429 --since 2h --watch`,
		Args: cobra.NoArgs,
		RunE: does(func(cmd *cobra.Command, _ []string) error { return a.replay(cmd.Context(), r) }),
	}
	f := cmd.Flags()
	f.StringVar(&r.filter.Publication, "publication", "", "of this publication: its id or key")
	f.StringVar(&r.topic, "topic", "", "of publications to this topic")
	f.StringVar(&r.channel, "channel", "", "on this channel")
	f.StringVar(&r.filter.Code, "code", "", "whose last answer had this code, such as sendgrid:429")
	f.StringVar(&r.filter.Reason, "reason", "", "dead for this reason: retries_exhausted or doubt_held")
	f.StringVar(&r.since, "since", "", "that died at or after: a time such as 2026-01-31T08:00:00Z, or a span back from now such as 2h")
	f.StringVar(&r.until, "until", "", "that died before, written as for --since")
	f.BoolVar(&r.dryRun, "dry-run", false, "only count, and change nothing")
	f.BoolVar(&r.watch, "watch", false, "show a progress bar until it ends")
	jsonFlag(cmd, &r.asJSON)
	cmd.MarkFlagsMutuallyExclusive("dry-run", "watch")
	cmd.AddCommand(a.replayStatusCommand(), a.replayCancelCommand())
	return cmd
}

func (a *app) replayStatusCommand() *cobra.Command {
	return a.oneReplayCommand(&cobra.Command{
		Use:   "status ID",
		Short: "Show how far a replay is",
	}, http.MethodGet, "")
}

func (a *app) replayCancelCommand() *cobra.Command {
	return a.oneReplayCommand(&cobra.Command{
		Use:   "cancel ID",
		Short: "Take up nobody else",
		Long: `Takes up nobody else: the others stay dead letters. Those that were taken up are
sent to.`,
	}, http.MethodPost, "/cancel")
}

// oneReplayCommand completes a command that asks for one replay and prints it.
func (a *app) oneReplayCommand(cmd *cobra.Command, method, verb string) *cobra.Command {
	var asJSON bool
	cmd.Args = cobra.ExactArgs(1)
	cmd.RunE = does(func(cmd *cobra.Command, args []string) error {
		if !fanfare.ValidReplayID(args[0]) {
			return &exitError{exitUsage, fmt.Errorf("%q is not a replay's id, which looks like 0199c7b0-1c2d-7e3f-8a4b-5c6d7e8f9a0b; \"fanfare replay\" prints it", args[0])}
		}
		c, err := a.client()
		if err != nil {
			return err
		}
		var r fanfare.Replay
		if err := c.send(cmd.Context(), method, replayPath(fanfare.ReplayID(args[0]))+verb, nil, &r); err != nil {
			return err
		}
		return a.reportReplay(r, asJSON)
	})
	jsonFlag(cmd, &asJSON)
	return cmd
}

func replayPath(id fanfare.ReplayID) string { return "/v1/replays/" + url.PathEscape(string(id)) }

func (a *app) replay(ctx context.Context, r replay) error {
	if err := r.read(time.Now()); err != nil {
		return err
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	asked := api.ReplayBody{Filter: r.filter, DryRun: r.dryRun}
	if r.dryRun {
		var preview fanfare.ReplayPreview
		if err := c.send(ctx, http.MethodPost, "/v1/replays", asked, &preview); err != nil {
			return err
		}
		if r.asJSON {
			return a.printJSON(preview)
		}
		printPreview(a.out, preview, r.filter)
		return nil
	}
	var accepted fanfare.Replay
	if err := c.send(ctx, http.MethodPost, "/v1/replays", asked, &accepted); err != nil {
		if temporary(err) {
			return fmt.Errorf("%w\nRun it again; if the first did arrive, nobody is sent to twice", err)
		}
		return err
	}
	if r.watch && accepted.Count > 0 {
		return a.watchReplay(ctx, c, accepted, r.asJSON)
	}
	if r.asJSON {
		return a.printJSON(accepted)
	}
	a.printAccepted(accepted)
	return nil
}

// read completes the filter. What the words of the API cannot mean is left to the
// API to refuse, all at once.
func (r *replay) read(now time.Time) error {
	r.filter.Topic, r.filter.Channel = fanfare.Topic(r.topic), fanfare.Channel(r.channel)
	var sinceErr, untilErr error
	r.filter.Since, sinceErr = readPast("--since", r.since, now)
	r.filter.Until, untilErr = readPast("--until", r.until, now)
	if err := errors.Join(sinceErr, untilErr); err != nil {
		return &exitError{exitUsage, err}
	}
	return nil
}

// readPast reads a time, or a span back from now. Nothing is no time.
func readPast(flag, text string, now time.Time) (*time.Time, error) {
	if text == "" {
		return nil, nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err == nil {
		return &at, nil
	}
	span, err := time.ParseDuration(text)
	if err != nil || span < 0 {
		return nil, fmt.Errorf("%s %q: write a time such as 2026-01-31T08:00:00Z, or a span back from now such as 2h", flag, text)
	}
	at = now.Add(-span).UTC().Truncate(time.Second)
	return &at, nil
}

func (a *app) watchReplay(ctx context.Context, c *apiClient, r fanfare.Replay, asJSON bool) error {
	bar := newProgress(&screen{out: a.err}, "sending again", "deliveries", r.Count)
	err := follow(ctx, bar, func() (bool, error) {
		var now fanfare.Replay
		if err := c.send(ctx, http.MethodGet, replayPath(r.ID), nil, &now); err != nil {
			return false, err
		}
		r = now
		bar.reach(r.Count-r.Waiting-r.Totals.Unfinished(), "sending again")
		return r.State != fanfare.ReplayRunning, nil
	})
	bar.end()
	if err != nil {
		if ctx.Err() != nil {
			fmt.Fprintf(a.err, "It goes on by itself; `fanfare replay status %s` shows how far it is, `fanfare replay cancel %s` stops it.\n", r.ID, r.ID)
		}
		return err
	}
	if err := a.reportReplay(r, asJSON); err != nil {
		return err
	}
	return howReplayEnded(r)
}

// howReplayEnded is nil where everybody was sent to or need not be any more, and
// otherwise the exit code.
func howReplayEnded(r fanfare.Replay) error {
	switch {
	case r.State == fanfare.ReplayCancelled:
		return &exitError{code: exitStopped}
	case r.Totals.Failed+r.Totals.Dead > 0:
		return &exitError{code: exitWithFailures}
	}
	return nil
}

func (a *app) reportReplay(r fanfare.Replay, asJSON bool) error {
	if asJSON {
		return a.printJSON(r)
	}
	printReplay(a.out, r)
	return nil
}

// printPreview prints what a replay would do, and how to have it done.
func printPreview(w io.Writer, p fanfare.ReplayPreview, filter fanfare.ReplayFilter) {
	if p.Count == 0 {
		fmt.Fprintln(w, "There is nothing to send again.")
	} else {
		fmt.Fprintf(w, "%s would be sent again, in about %s.\n\n", count(p.Count, "dead letter"), span(time.Duration(p.EstimatedSeconds)*time.Second))
	}
	channels := map[string]int64{}
	for channel, n := range p.ByChannel {
		channels[string(channel)] = n
	}
	printCounts(w, "By channel: ", channels)
	printCounts(w, "By reason:  ", p.ByReason)
	printCounts(w, "By code:    ", p.ByCode)
	printCounts(w, "Left out:   ", p.Excluded)
	for _, why := range [][2]string{
		{"cancelled", "cancelled: their publication was cancelled, and stays so"},
		{"expired", "expired: their publisher's expires_at has passed"},
		{"replaying", "replaying: they wait for another replay already"},
		{fanfare.ReasonDoubtHeld, "doubt_held: they may have been sent already; --reason doubt_held takes them all the same"},
	} {
		if p.Excluded[why[0]] > 0 {
			fmt.Fprintln(w, "  "+why[1])
		}
	}
	if p.Count == 0 {
		return
	}
	fmt.Fprintln(w, "For example:")
	for _, id := range p.Sample[:min(len(p.Sample), shownSample)] {
		fmt.Fprintln(w, "  "+id)
	}
	fmt.Fprintf(w, "\nNothing was changed. This sends them again:\n\n  %s\n", replayLine(filter))
}

func (a *app) printAccepted(r fanfare.Replay) {
	if r.Count == 0 {
		fmt.Fprintf(a.out, "There is nothing to send again. `%s --dry-run` says what is left out, and why.\n", replayLine(r.Filter))
		return
	}
	fmt.Fprintf(a.out, "Replay %s sends %s again.\n\n", r.ID, count(r.Count, "dead letter"))
	printLinks(a.out, r.Links)
	fmt.Fprintf(a.out, "\nFollow it with `fanfare replay status %s`; `fanfare replay cancel %s` stops it.\n", r.ID, r.ID)
}

// printReplay prints how far a replay is, and what to do about those that died again.
func printReplay(w io.Writer, r fanfare.Replay) {
	fmt.Fprintf(w, "Replay %s is %s.\n", r.ID, r.State)
	fmt.Fprintf(w, "  filter: %s\n", sayFilter(r.Filter))
	fmt.Fprint(w, "  begun "+clock(r.CreatedAt))
	if r.FinishedAt != nil {
		fmt.Fprint(w, ", ended after "+span(r.FinishedAt.Sub(r.CreatedAt)))
	}
	fmt.Fprintf(w, "\n\n%s: %s taken up, %s waiting, %s passed over.\n", count(r.Count, "dead letter"), number(r.Reopened), number(r.Waiting), number(r.Passed))
	if r.Passed > 0 {
		fmt.Fprintln(w, "Passed over: not dead any more when their turn came, or cancelled before.")
	}
	t := r.Totals
	standing := map[string]int64{
		"sent": t.Sent, "delivered": t.Delivered, "failed": t.Failed, "skipped": t.Skipped, "dead": t.Dead,
		"in doubt": t.InDoubt, "sending": t.Sending, "pending": t.Pending,
	}
	for state, n := range standing {
		if n == 0 {
			delete(standing, state)
		}
	}
	printCounts(w, "Those taken up now stand at: ", standing)
	printLinks(w, r.Links)
	if t.Dead > 0 {
		fmt.Fprintf(w, "\n%s died again. This says why, and what another replay would do:\n\n  %s --dry-run\n", number(t.Dead), replayLine(r.Filter))
	}
}

// filterFields are the fields of a filter that are given, by the flags' names.
func filterFields(f fanfare.ReplayFilter) [][2]string {
	var given [][2]string
	add := func(name, value string) {
		if value != "" {
			given = append(given, [2]string{name, value})
		}
	}
	add("publication", f.Publication)
	add("topic", string(f.Topic))
	add("channel", string(f.Channel))
	add("code", f.Code)
	add("reason", f.Reason)
	if f.Since != nil {
		add("since", f.Since.Format(time.RFC3339))
	}
	if f.Until != nil {
		add("until", f.Until.Format(time.RFC3339))
	}
	return given
}

// bare is what a shell takes as one word as it stands.
var bare = regexp.MustCompile(`^[A-Za-z0-9._:@/+-]+$`)

// replayLine is the command line that replays what the filter means: with times
// instead of spans, so that it means the same tomorrow.
func replayLine(f fanfare.ReplayFilter) string {
	line := "fanfare replay"
	for _, field := range filterFields(f) {
		value := field[1]
		if !bare.MatchString(value) {
			value = "'" + strings.ReplaceAll(value, "'", `'\''`) + "'"
		}
		line += " --" + field[0] + " " + value
	}
	return line
}

func sayFilter(f fanfare.ReplayFilter) string {
	var parts []string
	for _, field := range filterFields(f) {
		parts = append(parts, field[0]+" "+field[1])
	}
	return strings.Join(parts, ", ")
}

package main

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/server/api"
)

func (a *app) providersCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "providers",
		Short: "Show whether the providers may be called, and why not",
		Long: `Lists the providers and their breakers. A provider that fails is "open": nobody
calls it, and the work waits or goes to the next provider. After a while a few
probes are made ("half open"); when they succeed it is "closed", as it should be.

A person can open a provider, to leave it alone, and close it, to call it again.
Pinned, it stays so until a person says otherwise.`,
		Example: `  fanfare providers
  fanfare providers open sendgrid --pin`,
		Args: cobra.NoArgs,
		RunE: does(func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			var list api.ProviderList
			if err := c.send(cmd.Context(), http.MethodGet, "/v1/providers", nil, &list); err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(list)
			}
			return printProviders(a.out, list.Items, time.Now())
		}),
	}
	jsonFlag(cmd, &asJSON)
	cmd.AddCommand(
		a.turnCommand("open", "Stop calling a provider", "keep it open until a person closes it; else it is tried again by itself"),
		a.turnCommand("close", "Call a provider again", "keep it closed until a person opens it, whatever it answers; else it opens by itself when it fails"),
	)
	return cmd
}

// turnCommand makes the command that opens or closes a provider.
func (a *app) turnCommand(verb, short, pinned string) *cobra.Command {
	var asked api.BreakerBody
	var asJSON bool
	cmd := &cobra.Command{
		Use: verb + " NAME", Short: short, Args: cobra.ExactArgs(1),
		RunE: does(func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			var p fanfare.Provider
			if err := c.send(cmd.Context(), http.MethodPost, "/v1/providers/"+url.PathEscape(args[0])+"/"+verb, asked, &p); err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(p)
			}
			return printProviders(a.out, []fanfare.Provider{p}, time.Now())
		}),
	}
	cmd.Flags().BoolVar(&asked.Pin, "pin", false, pinned)
	jsonFlag(cmd, &asJSON)
	return cmd
}

// printProviders prints a table, and below it what to do about those that are not
// simply called.
func printProviders(w io.Writer, list []fanfare.Provider, now time.Time) error {
	if len(list) == 0 {
		fmt.Fprintln(w, "No provider is known. A worker that has the settings of one makes it known when it starts.")
		return nil
	}
	t := newTable("provider", "channel", "state", "since", "next probe", "throttled until", "why")
	var advice []string
	for _, p := range list {
		why := p.Reason
		if p.State == fanfare.BreakerClosed {
			why = "" // of a failure that is over
		}
		since := now.Sub(p.Since)
		t.row(p.Name, string(p.Channel), sayBreaker(p), span(max(since, 0))+" ago", ahead(p.NextProbe, now), ahead(p.ThrottledUntil, now), why)
		if line := whatNext(p, now); line != "" {
			advice = append(advice, line)
		}
		if p.UnknownEvents > 0 {
			advice = append(advice, fmt.Sprintf("%s reported %s about messages that are not ours.", p.Name, count(p.UnknownEvents, "event")))
		}
	}
	if err := t.write(w); err != nil {
		return err
	}
	if len(advice) > 0 {
		fmt.Fprint(w, "\n"+strings.Join(advice, "\n")+"\n")
	}
	return nil
}

func sayBreaker(p fanfare.Provider) string {
	state := strings.ReplaceAll(string(p.State), "_", " ")
	if p.Pinned {
		state += ", pinned"
	}
	return state
}

// ahead writes how far ahead a time is.
func ahead(t *time.Time, now time.Time) string {
	if t == nil {
		return "-"
	}
	if !t.After(now) {
		return "now"
	}
	return "in " + span(t.Sub(now))
}

// whatNext says what becomes of a provider that is not simply called, and what a
// person can do.
func whatNext(p fanfare.Provider, now time.Time) string {
	again := "`fanfare providers close " + p.Name + "`"
	switch {
	case p.Account:
		return fmt.Sprintf("%s refuses this account: its key or settings are wrong. Put them right, start the workers again, then %s.", p.Name, again)
	case p.Pinned && p.State == fanfare.BreakerOpen:
		return fmt.Sprintf("%s is held open by a person. %s has it called again.", p.Name, again)
	case p.Pinned:
		return fmt.Sprintf("%s is held closed by a person: it is called whatever it answers. %s has it open by itself again when it fails.", p.Name, again)
	case p.State == fanfare.BreakerOpen && p.NextProbe != nil && p.NextProbe.After(now):
		return fmt.Sprintf("%s is tried again by itself, in %s. %s has it called at once.", p.Name, span(p.NextProbe.Sub(now)), again)
	case p.State == fanfare.BreakerOpen:
		return fmt.Sprintf("%s is tried again when there is something to send. %s has it called at once.", p.Name, again)
	case p.State == fanfare.BreakerHalfOpen:
		return fmt.Sprintf("%s is being tried: when a few calls succeed it is closed by itself.", p.Name)
	}
	return ""
}

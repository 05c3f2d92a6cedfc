package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/bench"
)

func (a *app) benchCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure on this machine",
		Long: `Measures with a PostgreSQL and a Temporal of its own, which end with it, against
a sink that accepts every message. Nothing else should run on the machine.`,
	}
	cmd.AddCommand(a.benchPublishCommand())
	return cmd
}

func (a *app) benchPublishCommand() *cobra.Command {
	var subscribers int
	var channel string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "publish",
		Short: "Measure one publication: speed, queries, events, processor time, memory",
		Example: `  fanfare bench publish --subscribers 1000000
  fanfare bench publish --channel push`,
		Args: cobra.NoArgs,
		RunE: does(func(cmd *cobra.Command, _ []string) error {
			if subscribers < 1 {
				return &exitError{exitUsage, fmt.Errorf("--subscribers %d: must be 1 or more", subscribers)}
			}
			if !fanfare.Channel(channel).Valid() {
				return &exitError{exitUsage, fmt.Errorf("--channel %s: must be email, sms, push or inapp", channel)}
			}
			self, err := os.Executable()
			if err != nil {
				return err
			}
			report, err := bench.Publish(cmd.Context(), bench.Config{
				Subscribers: subscribers, Channel: fanfare.Channel(channel), Binary: self, Log: a.logger(), Progress: a.benchProgress(),
			})
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(a.out).Encode(report)
			}
			return report.Write(a.out)
		}),
	}
	cmd.Flags().IntVar(&subscribers, "subscribers", 100000, "how many to import and publish to")
	cmd.Flags().StringVar(&channel, "channel", "email", "what to publish on: email, sms, push or inapp")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// benchProgress shows each step of a run as it comes.
func (a *app) benchProgress() func(step string, done, all int64) {
	screen := &screen{out: a.err}
	var now *progress
	return func(step string, done, all int64) {
		if now == nil || now.what != step {
			now = newProgress(screen, step, "recipients", all)
		}
		now.reach(done, step)
		if done == all {
			now.end()
		}
	}
}

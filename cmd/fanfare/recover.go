package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/fanfare-dev/fanfare/ledger"
	"github.com/fanfare-dev/fanfare/relay"
	"github.com/fanfare-dev/fanfare/worker"
)

func (a *app) recoverCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Start every unfinished publication that lost its workflow",
		Long: `Starts a workflow for every unfinished publication that has none, for example after
the loss of Temporal's database. Nobody is sent to twice: the ledger knows who was.
Workers do the same at their start and every minute; this does it now.`,
		Example: "  fanfare recover",
		Args:    cobra.NoArgs,
		RunE: does(func(cmd *cobra.Command, _ []string) error {
			s, err := settings[operatorSettings](a)
			if err != nil {
				return err
			}
			swept, err := a.sweep(cmd.Context(), s)
			if err != nil {
				return databaseError(err)
			}
			if asJSON {
				return a.printJSON(swept)
			}
			fmt.Fprintf(a.out, "Not finished: %s. Had no workflow and got one: %s.\n",
				count(int64(swept.Unfinished), "publication"), number(int64(swept.Started)))
			return nil
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (a *app) sweep(ctx context.Context, s operatorSettings) (relay.Swept, error) {
	books, err := ledger.Open(ctx, string(s.DatabaseURL), commandConns, s.ledgerConfig(nil))
	if err != nil {
		return relay.Swept{}, err
	}
	defer books.Close()
	if err := books.Ping(ctx); err != nil {
		return relay.Swept{}, err
	}
	temporal, err := worker.Dial(ctx, s.TemporalAddress, s.TemporalNamespace, a.logger())
	if err != nil {
		return relay.Swept{}, err
	}
	defer temporal.Close()
	if err := worker.Prepare(ctx, temporal, s.TemporalNamespace, a.logger()); err != nil {
		return relay.Swept{}, err
	}
	return relay.Sweep(ctx, books, temporal)
}

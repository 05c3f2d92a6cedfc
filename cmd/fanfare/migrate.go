package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"

	"github.com/fanfare-dev/fanfare/schema"
)

func (a *app) migrateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Bring the database's tables up to date",
		Long: `Brings the tables of the database at FANFARE_DATABASE_URL up to date, shows where
they stand, or takes the newest step back. Safe to run by several at once.`,
		Example: "  fanfare migrate up",
		Args:    cobra.NoArgs,
	}
	cmd.AddCommand(a.migrateUpCommand(), a.migrateDownCommand(), a.migrateStatusCommand())
	return cmd
}

func (a *app) migrateUpCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "up", Short: "Apply every step that is missing", Args: cobra.NoArgs, Example: "  fanfare migrate up",
		RunE: does(func(cmd *cobra.Command, _ []string) error {
			s, err := settings[migrateSettings](a)
			if err != nil {
				return err
			}
			applied, err := schema.Up(cmd.Context(), string(s.DatabaseURL))
			if err != nil {
				return databaseError(err)
			}
			if asJSON {
				return a.printJSON(map[string]any{"applied": append([]string{}, applied...)})
			}
			for _, name := range applied {
				fmt.Fprintln(a.out, "applied", name)
			}
			if len(applied) == 0 {
				fmt.Fprintln(a.out, "nothing to do, the tables are up to date")
			}
			return nil
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (a *app) migrateDownCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "down", Short: "Take the newest step back: its tables and all rows in them are gone", Args: cobra.NoArgs, Example: "  fanfare migrate down",
		RunE: does(func(cmd *cobra.Command, _ []string) error {
			s, err := settings[migrateSettings](a)
			if err != nil {
				return err
			}
			name, err := schema.Down(cmd.Context(), string(s.DatabaseURL))
			if err != nil {
				return databaseError(err)
			}
			if asJSON {
				return a.printJSON(map[string]any{"taken_back": name})
			}
			fmt.Fprintln(a.out, "took back", name)
			return nil
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (a *app) migrateStatusCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "status", Short: "List the steps and when each was applied", Args: cobra.NoArgs, Example: "  fanfare migrate status",
		RunE: does(func(cmd *cobra.Command, _ []string) error {
			s, err := settings[migrateSettings](a)
			if err != nil {
				return err
			}
			list, err := schema.Status(cmd.Context(), string(s.DatabaseURL))
			if err != nil {
				return databaseError(err)
			}
			if asJSON {
				return a.printJSON(map[string]any{"migrations": append([]schema.Migration{}, list...)})
			}
			t := newTable("step", "applied")
			for _, m := range list {
				applied := "not yet; run `fanfare migrate up`"
				if m.AppliedAt != nil {
					applied = clock(*m.AppliedAt)
				}
				t.row(m.Name, applied)
			}
			return t.write(a.out)
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

// databaseError says what to do about a database that cannot be reached.
func databaseError(err error) error {
	if errors.Is(err, context.Canceled) || !away(err) {
		return err
	}
	return fmt.Errorf("PostgreSQL at FANFARE_DATABASE_URL cannot be reached: %s\nStart it, or `fanfare dev`, which brings its own", reason(err))
}

// reason is the last line of an error of PostgreSQL's driver; those before it
// list every address that was tried.
func reason(err error) string {
	text := err.Error()
	return strings.TrimSpace(text[strings.LastIndexByte(text, '\n')+1:])
}

// away reports whether PostgreSQL cannot be reached or is only starting.
func away(err error) bool {
	var connect *pgconn.ConnectError
	var network net.Error
	var refused *pgconn.PgError
	if errors.As(err, &refused) {
		return refused.Code == "57P03" // cannot_connect_now: starting up or shutting down
	}
	return errors.As(err, &connect) || errors.As(err, &network)
}

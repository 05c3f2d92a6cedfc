package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/ledger"
)

// commandConns is enough for commands that ask one thing after the other.
const commandConns = 4

func (a *app) verifyCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify [ID]",
		Short: "Count again, row by row, whether the books balance",
		Long: `Counts every recipient of every publication again, row by row in the database, or
of the publication with this id, and lists where the books do not balance.
Exits with 1 when there is such a place.

Known duplicates are counted: recipients to whom a provider accepted the message
twice, which only happens where a policy or a late answer made it so. So is what
was sent again by policy, without evidence of what became of the first call: each
of these may be a duplicate. Neither unbalances the books.`,
		Example: "  fanfare verify",
		Args:    cobra.MaximumNArgs(1),
		RunE: does(func(cmd *cobra.Command, args []string) error {
			var id fanfare.PublicationID
			if len(args) > 0 {
				var err error
				if id, err = publicationID(args[0]); err != nil {
					return err
				}
			}
			return a.verify(cmd, id, asJSON)
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (a *app) verify(cmd *cobra.Command, id fanfare.PublicationID, asJSON bool) error {
	s, err := settings[operatorSettings](a)
	if err != nil {
		return err
	}
	books, err := ledger.Open(cmd.Context(), string(s.DatabaseURL), commandConns, s.ledgerConfig(nil))
	if err != nil {
		return err
	}
	defer books.Close()
	var bar *progress
	v, err := books.Verify(cmd.Context(), id, func(done, all int) {
		if bar == nil {
			bar = newProgress(&screen{out: a.err}, "counting", "publications", int64(all))
		}
		bar.reach(int64(done), "counting")
	})
	if bar != nil {
		bar.end()
	}
	if errors.Is(err, fanfare.ErrNotFound) {
		return fmt.Errorf("there is no publication %s in this database; `fanfare verify` alone counts all there are", id)
	}
	if err != nil {
		return databaseError(err)
	}
	return a.reportVerification(v, asJSON)
}

// reportVerification prints what was counted, and fails where the books do not balance.
func (a *app) reportVerification(v fanfare.Verification, asJSON bool) error {
	var err error
	if asJSON {
		err = a.printJSON(v)
	} else {
		err = a.printVerification(v)
	}
	if err != nil || v.OK {
		return err
	}
	return &exitError{code: exitFailed}
}

func (a *app) printVerification(v fanfare.Verification) error {
	if v.OK {
		fmt.Fprintf(a.out, "The books balance: %s counted, %s.\n", count(int64(v.Checked), "publication"), sayDuplicates(v))
		return nil
	}
	fmt.Fprintf(a.out, "The books do not balance: %s in %s, %s.\n\n",
		count(int64(len(v.Problems)), "problem"), count(int64(v.Checked), "publication"), sayDuplicates(v))
	t := newTable("publication", "channel", "intended", "counted", "problem")
	for _, p := range v.Problems {
		t.row(string(p.Publication), string(p.Channel), number(p.Intended), number(p.Counted), p.Sentence)
	}
	return t.write(a.out)
}

func sayDuplicates(v fanfare.Verification) string {
	sentence := count(v.Duplicates, "known duplicate")
	if v.Resent > 0 {
		sentence += ", " + number(v.Resent) + " sent again without evidence"
	}
	return sentence
}

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	fanfare "github.com/fanfare-dev/fanfare"
)

func (a *app) statusCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status ID",
		Short: "Show where a publication stands",
		Long: `Shows where the publication with this id stands: how many recipients were sent to,
skipped and failed, and why; what it waits for; and what to do about those that
were given up. "fanfare publish" prints the id.`,
		Example: "  fanfare status 0199c7a0-1c2d-7e3f-8a4b-5c6d7e8f9a0b",
		Args:    cobra.ExactArgs(1),
		RunE: does(func(cmd *cobra.Command, args []string) error {
			id, err := publicationID(args[0])
			if err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			p, err := readPublication(cmd.Context(), c, id)
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(p)
			}
			return printPublication(a.out, p)
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func publicationID(text string) (fanfare.PublicationID, error) {
	if !fanfare.ValidPublicationID(text) {
		return "", &exitError{exitUsage, fmt.Errorf("%q is not a publication's id, which looks like 0199c7a0-1c2d-7e3f-8a4b-5c6d7e8f9a0b\n`fanfare publish` printed it, and GET /v1/publications lists them all with their keys", text)}
	}
	return fanfare.PublicationID(text), nil
}

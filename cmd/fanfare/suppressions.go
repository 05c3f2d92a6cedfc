package main

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/server/api"
)

// reasons are what an address can be suppressed for.
const reasons = "bounced, soft_bounces, complained, unsubscribed, stopped, invalid, dead_token or manual"

func (a *app) suppressionsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "suppressions",
		Short: "Show and change which addresses are not used, whoever wants them",
		Long: `Addresses that bounced, whose readers complained, left at the provider or answered
STOP, and tokens of devices that are gone, are not used any more. Only their hash is
kept, so a list shows hashes; --address finds one.`,
		Example: `  fanfare suppressions list --channel email --reason complained
  fanfare suppressions lift email ada@mail.example`,
		Args: cobra.NoArgs,
		RunE: does(func(cmd *cobra.Command, _ []string) error { return cmd.Help() }),
	}
	cmd.AddCommand(a.listSuppressionsCommand(), a.suppressCommand(), a.liftCommand(), a.importSuppressionsCommand())
	return cmd
}

func (a *app) listSuppressionsCommand() *cobra.Command {
	var channel, reason, address string
	var limit int
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list", Short: "List suppressed addresses by their hashes", Args: cobra.NoArgs,
		RunE: does(func(cmd *cobra.Command, _ []string) error {
			query := url.Values{}
			for name, value := range map[string]string{"channel": channel, "reason": reason, "address_hash": hashOf(address)} {
				if value != "" {
					query.Set(name, value)
				}
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			list, err := readAll[fanfare.Suppression](cmd.Context(), c, "/v1/suppressions", query, limit)
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(api.SuppressionList{Items: list})
			}
			return printSuppressions(a.out, list)
		}),
	}
	cmd.Flags().StringVar(&channel, "channel", "", "only this channel: email, sms or push")
	cmd.Flags().StringVar(&reason, "reason", "", "only this reason: "+reasons)
	cmd.Flags().StringVar(&address, "address", "", "only this address")
	cmd.Flags().IntVar(&limit, "limit", 0, "how many at most (default: all)")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// hashOf is what the server keeps of an address; of a phone number, without what people
// write between its digits.
func hashOf(address string) string {
	if address == "" {
		return ""
	}
	if strings.HasPrefix(address, "+") && !strings.Contains(address, "@") {
		address = strings.NewReplacer(" ", "", "-", "", ".", "", "(", "", ")", "").Replace(address)
	}
	sum := sha256.Sum256([]byte(strings.ToLower(address)))
	return hex.EncodeToString(sum[:])
}

func printSuppressions(w io.Writer, list []fanfare.Suppression) error {
	if len(list) == 0 {
		fmt.Fprintln(w, "No suppressed address was found.")
		return nil
	}
	t := newTable("channel", "reason", "since", "said by", "address hash")
	for _, s := range list {
		t.row(string(s.Channel), string(s.Reason), s.CreatedAt.Local().Format("2006-01-02 15:04"), cmp.Or(s.Provider, "a person"), s.Hash)
	}
	return t.write(w)
}

func (a *app) suppressCommand() *cobra.Command {
	asked := api.SuppressionBody{Reason: fanfare.SuppressedManual}
	var asJSON bool
	cmd := &cobra.Command{
		Use: "add CHANNEL ADDRESS", Short: "Keep an address from being used", Args: cobra.ExactArgs(2),
		RunE: does(func(cmd *cobra.Command, args []string) error {
			asked.Channel, asked.Address = fanfare.Channel(args[0]), args[1]
			c, err := a.client()
			if err != nil {
				return err
			}
			var s fanfare.Suppression
			if err := c.send(cmd.Context(), http.MethodPost, "/v1/suppressions", asked, &s); err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(s)
			}
			fmt.Fprintf(a.out, "Suppressed on %s (%s): nothing more is sent to it, but for calls under way.\n", s.Channel, s.Reason)
			return nil
		}),
	}
	cmd.Flags().StringVar((*string)(&asked.Reason), "reason", string(asked.Reason), "why: "+reasons)
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (a *app) liftCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "lift CHANNEL ADDRESS", Short: "Let an address be used again", Args: cobra.ExactArgs(2),
		RunE: does(func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			asked := api.SuppressedAddress{Channel: fanfare.Channel(args[0]), Address: args[1]}
			var lifted fanfare.Suppression
			if err := c.send(cmd.Context(), http.MethodPost, "/v1/suppressions/lift", asked, &lifted); err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(lifted)
			}
			fmt.Fprintf(a.out, "Lifted: it was suppressed on %s (%s) since %s. A provider that keeps a list of its own may go on refusing it: lift it there too.\n",
				lifted.Channel, lifted.Reason, lifted.CreatedAt.Local().Format("2006-01-02 15:04"))
			return nil
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (a *app) importSuppressionsCommand() *cobra.Command {
	var i importing
	cmd := &cobra.Command{
		Use:   "import CHANNEL FILE",
		Short: "Take over a provider's list of suppressed addresses",
		Long: `Suppresses one address per line of FILE, which is CSV or NDJSON, told by its ending or
by --format; "-" reads from stdin. CSV names its columns in the first line: email,
phone, token or address, perhaps reason; others are ignored, so that SendGrid's
exports can be taken as they are. --reason is for lines that give none of our
reasons, as SendGrid's do: say why the addresses are on the list. Importing again
changes nothing.`,
		Example: `  fanfare suppressions import email suppression_bounces.csv --reason bounced
  fanfare suppressions import email suppression_unsubscribes.csv --reason unsubscribed`,
		Args: cobra.ExactArgs(2),
		RunE: does(func(cmd *cobra.Command, args []string) error {
			i.file = args[1]
			return a.importSuppressions(cmd, args[0], i)
		}),
	}
	cmd.Flags().StringVar(&i.reason, "reason", string(fanfare.SuppressedManual), "why, where a line does not say it: "+reasons)
	cmd.Flags().StringVar(&i.format, "format", "", "ndjson or csv; needed where the file's name does not say it")
	jsonFlag(cmd, &i.asJSON)
	return cmd
}

func (a *app) importSuppressions(cmd *cobra.Command, channel string, i importing) error {
	u, err := a.openUpload(i.file, i.format)
	if err != nil {
		return err
	}
	defer u.body.Close()
	report, err := u.send(cmd.Context(), "/v1/suppressions/import?channel="+url.QueryEscape(channel)+"&reason="+url.QueryEscape(i.reason), a.err)
	if err != nil {
		return err
	}
	if i.asJSON {
		return a.printJSON(report)
	}
	fmt.Fprintf(a.out, "Suppressed on %s: %s new, %s known already, %s rejected.\n", channel, number(report.Created), number(report.Unchanged), number(report.RejectedCount))
	printRejected(a.out, report)
	return nil
}

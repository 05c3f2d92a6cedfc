package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/fanfare-dev/fanfare/sandbox"
)

const sandboxPort = 8025

// sandboxFlags are what a person asks of the sandbox.
type sandboxFlags struct {
	host, webhookURL, webhookKey, inboundURL string
	port                                     int
	pace                                     float64
}

func (a *app) sandboxCommand() *cobra.Command {
	var flags sandboxFlags
	cmd := &cobra.Command{
		Use:   "sandbox",
		Short: "Run the stand-in providers alone",
		Long: `Runs a stand-in for SendGrid, Twilio and FCM: it checks requests as strictly,
keeps what it was sent until it is stopped, shows it on a page, and misbehaves on
demand. It sends nothing on and asks for no password.

Point a worker at it with SENDGRID_BASE_URL=http://127.0.0.1:8025 and any
SENDGRID_API_KEY; with TWILIO_BASE_URL, TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN;
with FCM_BASE_URL and FCM_PROJECT_ID. The page names the addresses, numbers and
tokens that fail.

With --webhook-url it posts what becomes of the mail there, signed as SendGrid
does, and prints the SENDGRID_WEBHOOK_PUBLIC_KEY that the server needs. The key is
kept in the file --webhook-key; without one it is another at each start.

What becomes of an SMS is posted to the address that the SMS was sent with, signed
with TWILIO_AUTH_TOKEN, or where that is not set with the token it was sent with.
POST /sandbox/inbound {"from": "+34600000001", "body": "STOP"} has a phone answer,
which is posted to --inbound-url.`,
		Example: "  fanfare sandbox --port 8025 --webhook-url http://127.0.0.1:8080/webhooks/sendgrid",
		Args:    cobra.NoArgs,
		RunE: does(func(cmd *cobra.Command, _ []string) error {
			return a.standIn(cmd.Context(), flags)
		}),
	}
	f := cmd.Flags()
	f.StringVar(&flags.host, "host", "127.0.0.1", "address to listen on")
	f.IntVar(&flags.port, "port", sandboxPort, "port to listen on; 0 for a free one")
	f.Float64Var(&flags.pace, "pace", 0, "messages answered per second at most; 0 for no limit")
	f.StringVar(&flags.webhookURL, "webhook-url", "", "`address` that events are posted to; none are made without")
	f.StringVar(&flags.inboundURL, "inbound-url", "", "`address` that answers to SMS are posted to; none are without")
	f.StringVar(&flags.webhookKey, "webhook-key", "", "`file` of the private key that signs them; made where there is none")
	return cmd
}

func (a *app) standIn(ctx context.Context, flags sandboxFlags) error {
	environ, err := a.settingsFrom()
	if err != nil {
		return err
	}
	config := sandbox.Config{Pace: flags.pace, Logger: a.logger(), Twilio: sandbox.Twilio{
		AccountSID: environ["TWILIO_ACCOUNT_SID"], AuthToken: environ["TWILIO_AUTH_TOKEN"], InboundURL: flags.inboundURL,
	}}
	if flags.inboundURL != "" && !webAddress(flags.inboundURL) {
		return &exitError{exitUsage, errors.New("--inbound-url: must be a whole http or https address, such as http://127.0.0.1:8080/webhooks/twilio")}
	}
	if err := flags.webhook(&config.Webhook); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(flags.host, strconv.Itoa(flags.port)))
	if err != nil {
		return fmt.Errorf("%w; stop what listens there, or choose another --port", err)
	}
	s := sandbox.New(config)
	if key := s.PublicKey(); key != "" && !a.quiet {
		fmt.Fprintln(a.out, "SENDGRID_WEBHOOK_PUBLIC_KEY="+key)
	}
	config.Logger.Info("sandbox answers", "page", "http://"+listener.Addr().String()+"/")
	return s.Serve(ctx, listener)
}

func (f *sandboxFlags) webhook(w *sandbox.Webhook) (err error) {
	if f.webhookURL == "" {
		if f.webhookKey != "" {
			return &exitError{exitUsage, errors.New("--webhook-key: nothing is signed without --webhook-url")}
		}
		return nil
	}
	if w.URL = f.webhookURL; !webAddress(w.URL) {
		return &exitError{exitUsage, errors.New("--webhook-url: must be a whole http or https address, such as http://127.0.0.1:8080/webhooks/sendgrid")}
	}
	if f.webhookKey != "" {
		w.Key, err = webhookKey(f.webhookKey)
	}
	return err
}

package main

import (
	"context"
	"fmt"
	"net"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/fanfare-dev/fanfare/sandbox"
)

const sandboxPort = 8025

func (a *app) sandboxCommand() *cobra.Command {
	var host string
	var port int
	var pace float64
	cmd := &cobra.Command{
		Use:   "sandbox",
		Short: "Run the stand-in providers alone",
		Long: `Runs a stand-in for the providers, today for SendGrid: it checks requests as
strictly, keeps what it was sent until it is stopped, shows the mail on a page,
and misbehaves on demand. It sends nothing on and asks for no password.

Point a worker at it with SENDGRID_BASE_URL=http://127.0.0.1:8025 and any
SENDGRID_API_KEY.`,
		Example: "  fanfare sandbox --port 8025",
		Args:    cobra.NoArgs,
		RunE: does(func(cmd *cobra.Command, _ []string) error {
			return a.standIn(cmd.Context(), net.JoinHostPort(host, strconv.Itoa(port)), pace)
		}),
	}
	cmd.Flags().StringVar(&host, "host", "127.0.0.1", "address to listen on")
	cmd.Flags().IntVar(&port, "port", sandboxPort, "port to listen on; 0 for a free one")
	cmd.Flags().Float64Var(&pace, "pace", 0, "messages answered per second at most; 0 for no limit")
	return cmd
}

func (a *app) standIn(ctx context.Context, address string, pace float64) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("%w; stop what listens there, or choose another --port", err)
	}
	log := a.logger()
	log.Info("sandbox answers", "page", "http://"+listener.Addr().String()+"/")
	return sandbox.New(sandbox.Config{Pace: pace, Logger: log}).Serve(ctx, listener)
}

package main

import (
	"fmt"
	"log/slog"
	"net"
	"strconv"

	"github.com/spf13/pflag"

	"github.com/fanfare-dev/fanfare/local"
)

// port is one port of dev.
type port struct {
	flag  string
	name  string // what asked for it, for messages
	port  int
	asked bool
}

func (p *port) String() string { return strconv.Itoa(p.port) }

// address is the port on this machine.
func (p *port) address() string { return net.JoinHostPort("127.0.0.1", p.String()) }

type ports struct {
	server, temporal, temporalUI, postgres, sandbox port
}

func (p *ports) register(f *pflag.FlagSet) {
	for _, each := range []struct {
		port    *port
		flag    string
		number  int
		whatFor string
	}{
		{&p.server, "port", 8080, "port of the server"},
		{&p.temporal, "temporal-port", 7233, "port of Temporal"},
		{&p.temporalUI, "temporal-ui-port", 8233, "port of Temporal's Web UI"},
		{&p.postgres, "postgres-port", 5433, "port of PostgreSQL"},
		{&p.sandbox, "sandbox-port", sandboxPort, "port of the sandbox"},
	} {
		each.port.flag, each.port.name = each.flag, "--"+each.flag
		f.IntVar(&each.port.port, each.flag, each.number, each.whatFor+"; 0 for a free one")
	}
}

// noteAsked tells the ports that were typed from the defaults.
func (p *ports) noteAsked(f *pflag.FlagSet) {
	for _, each := range []*port{&p.server, &p.temporal, &p.temporalUI, &p.postgres, &p.sandbox} {
		each.asked = f.Changed(each.flag)
	}
}

// choose settles the ports that are needed: those asked for first, so that no
// default takes them.
func choose(log *slog.Logger, needed ...*port) error {
	taken := map[int]string{}
	for _, asked := range []bool{true, false} {
		for _, p := range needed {
			if p.asked != asked {
				continue
			}
			if err := p.choose(log, taken); err != nil {
				return err
			}
			taken[p.port] = p.name
		}
	}
	return nil
}

func (p *port) choose(log *slog.Logger, taken map[int]string) error {
	if by, ours := taken[p.port]; ours {
		if p.asked {
			return &exitError{exitUsage, fmt.Errorf("%s %d: %s asks for the same port", p.name, p.port, by)}
		}
		log.Warn(fmt.Sprintf("port %d is asked for by %s, using a free one instead", p.port, by), "for", p.name)
		p.port = 0
	}
	chosen, err := local.ChoosePort(log, p.name, p.port, p.asked)
	if err != nil {
		return &exitError{exitUsage, err}
	}
	p.port = chosen
	return nil
}

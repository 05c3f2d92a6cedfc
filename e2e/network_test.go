package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
)

// network is the wires between processes, each of which can be hurt by itself.
// A wire is named after both its ends: "worker-1/postgres".
type network struct {
	t      *testing.T
	server *toxiproxy.ApiServer
	wires  map[string]*toxiproxy.Proxy
}

func newNetwork(t *testing.T) *network {
	n := &network{t: t, server: toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop()), wires: map[string]*toxiproxy.Proxy{}}
	t.Cleanup(func() {
		for _, wire := range n.wires {
			wire.Stop()
		}
	})
	return n
}

// wire lays a wire to an address and gives that of its near end.
func (n *network) wire(name, to string) string {
	n.t.Helper()
	proxy := toxiproxy.NewProxy(n.server, name, "127.0.0.1:0", to)
	require.NoError(n.t, proxy.Start())
	n.wires[name] = proxy
	return proxy.Listen
}

// wireURL is wire for what is reached by a URL.
func (n *network) wireURL(name, to string) string {
	n.t.Helper()
	u, err := url.Parse(to)
	require.NoError(n.t, err)
	u.Host = n.wire(name, u.Host)
	return u.String()
}

// names are those of the wires that begin or end so; all of them for neither.
func (n *network) names(from, to string) []string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(n.wires)) {
		if strings.HasPrefix(name, from) && strings.HasSuffix(name, to) {
			list = append(list, name)
		}
	}
	return list
}

// cut closes a wire's connections and refuses new ones.
func (n *network) cut(name string) { n.wires[name].Stop() }

// mend undoes cut. Its port may have been lent to a connection meanwhile.
func (n *network) mend(ctx context.Context, name string) error {
	wire := n.wires[name]
	for {
		wire.Lock()
		up := wire.Enabled
		wire.Unlock()
		if up {
			return nil
		}
		err := wire.Start()
		if err == nil {
			return nil
		}
		if !wait(ctx, tick) {
			return fmt.Errorf("mend %s: %w", name, err)
		}
	}
}

// toxic is what toxiproxy does to the bytes of a wire: "downstream" are those that
// come back from its far end.
type toxic struct {
	Name       string         `json:"name"`
	Type       string         `json:"type"`
	Stream     string         `json:"stream"`
	Attributes map[string]any `json:"attributes"`
}

func (n *network) poison(name string, with toxic) error {
	text, err := json.Marshal(with)
	if err == nil {
		_, err = n.wires[name].Toxics.AddToxicJson(strings.NewReader(string(text)))
	}
	if err != nil {
		return fmt.Errorf("poison %s: %w", name, err)
	}
	return nil
}

func (n *network) cure(ctx context.Context, name, toxic string) {
	_ = n.wires[name].Toxics.RemoveToxic(ctx, toxic) // cured already
}

// heal undoes everything, on all wires.
func (n *network) heal(ctx context.Context) error {
	for name, wire := range n.wires {
		wire.Toxics.ResetToxics(ctx)
		if err := n.mend(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// wait reports whether so much time has passed before ctx ended.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

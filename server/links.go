package server

import (
	"net/url"
	"strings"

	fanfare "github.com/fanfare-dev/fanfare"
)

// links makes the addresses that answers carry.
type links struct {
	public    string
	workflows string // what a workflow's id is appended to; empty: no such links
}

func newLinks(cfg Config) links {
	l := links{public: strings.TrimSuffix(cfg.PublicURL, "/")}
	if cfg.TemporalUI != "" {
		l.workflows = strings.TrimSuffix(cfg.TemporalUI, "/") + "/namespaces/" + url.PathEscape(cfg.TemporalNamespace) + "/workflows/"
	}
	return l
}

func (l links) ofPublication(id fanfare.PublicationID) map[string]string {
	self := l.public + "/v1/publications/" + string(id)
	return l.withWorkflow(map[string]string{"self": self, "deliveries": self + "/deliveries"}, id.WorkflowID())
}

func (l links) ofDelivery(d fanfare.Delivery) map[string]string {
	links := map[string]string{
		"self":        l.public + "/v1/deliveries/" + d.ID,
		"publication": l.public + "/v1/publications/" + string(d.Publication),
	}
	if d.Batch == 0 {
		return links
	}
	batch := fanfare.BatchRef{Publication: d.Publication, Channel: d.Channel, N: d.Batch}
	return l.withWorkflow(links, batch.WorkflowID())
}

// ofReplay leads to no workflow where there was nothing to do: then there is none.
func (l links) ofReplay(r fanfare.Replay) map[string]string {
	links := map[string]string{"self": l.public + "/v1/replays/" + string(r.ID)}
	if r.Count == 0 {
		return links
	}
	return l.withWorkflow(links, r.ID.WorkflowID())
}

func (l links) withWorkflow(links map[string]string, id string) map[string]string {
	if l.workflows != "" {
		links["temporal"] = l.workflows + url.PathEscape(id)
	}
	return links
}

package sandbox

import (
	"bytes"
	"embed"
	"encoding/json"
	"html/template"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"
)

// perPage is how many messages a page lists: about three screens.
const perPage = 50

// contentPolicy lets the pages use what they carry themselves and nothing else.
// The mail is in a frame without scripts that inherits it; its links open in a
// tab of their own.
const contentPolicy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; base-uri 'none'"

//go:embed pages/*.html
var pageFiles embed.FS

func parsePages() *template.Template {
	functions := template.FuncMap{
		"clock": func(t time.Time) string { return t.Format("15:04:05.000") },
		"when":  func(t time.Time) string { return t.Format("2006-01-02 15:04:05.000 MST") },
		"short": path.Base,
		"named": channelName,
		"seek":  func(pairs ...string) string { return seek(pairs) },
	}
	return template.Must(template.New("").Funcs(functions).ParseFS(pageFiles, "pages/*.html"))
}

func (s *Sandbox) routePages(mux *http.ServeMux) {
	mux.HandleFunc("GET /{$}", s.showList)
	mux.HandleFunc("GET /mail/{id}", s.showMessage)
}

// showList is the page of all messages, or of those of a channel, or of those whose
// address or delivery id contains what was searched for.
func (s *Sandbox) showList(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	search, channel := strings.ToLower(strings.TrimSpace(query.Get("q"))), query.Get("channel")
	before, err := parsePlace(query.Get("cursor"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	contains := func(c, address, delivery string) bool {
		return (channel == "" || c == channel) &&
			(search == "" || strings.Contains(strings.ToLower(address), search) || strings.Contains(delivery, search))
	}
	found, next := s.store.find(contains, before, perPage)
	s.show(w, http.StatusOK, "list.html", map[string]any{
		"Stats": s.Stats(), "Messages": found, "Next": next, "Search": search, "First": before == newest,
		"Channel": channel, "Channels": []string{email, sms, push}, "Webhook": s.config.Webhook.URL,
	})
}

// showMessage is the page of one message. Its path ends as the provider's id does.
func (s *Sandbox) showMessage(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	var in messages
	var i int
	if single, at := s.store.single(strings.TrimPrefix(id, "SM")); single != nil {
		in, i = single, at
	} else if b, at := s.store.locate(id); b != nil {
		in, i = b, at
	} else {
		s.show(w, http.StatusNotFound, "gone.html", s.config.MaxMessages)
		return
	}
	m := in.message(i)
	s.show(w, http.StatusOK, "message.html", map[string]any{"Message": m, "HTML": inNewTab(m.HTML), "Raw": in.raw(i)})
}

func (s *Sandbox) show(w http.ResponseWriter, status int, name string, data any) {
	var out bytes.Buffer
	if err := s.pages.ExecuteTemplate(&out, name, data); err != nil {
		s.log.Error("render sandbox page", "page", name, "error", err)
		http.Error(w, "The page could not be drawn; the log says why.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", contentPolicy)
	w.Header().Set("Referrer-Policy", "no-referrer")
	w.WriteHeader(status)
	_, _ = out.WriteTo(w) // a client that left is not an error of ours
}

// channelName is what a person calls a channel.
func channelName(channel string) string {
	switch channel {
	case sms:
		return "SMS"
	case push:
		return "Push"
	default:
		return "Email"
	}
}

// seek is the address of the list with these parameters, name and value in turn, of
// which empty ones are left out.
func seek(pairs []string) string {
	values := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			values.Set(pairs[i], pairs[i+1])
		}
	}
	return (&url.URL{Path: "/", RawQuery: values.Encode()}).String()
}

// inNewTab makes a mail's links leave the frame it is shown in.
func inNewTab(html string) string {
	const base = `<base target="_blank">`
	if i := strings.Index(html, "<head>"); i >= 0 {
		i += len("<head>")
		return html[:i] + base + html[i:]
	}
	return base + html
}

// raw is the request as it would have been for recipient i alone, before
// substitution.
func (b *batch) raw(i int) string {
	r := b.recipient(i)
	m := b.shared
	m.Personalizations = []sgPersonalization{{
		To: []sgAddress{{Email: r.email, Name: r.name}}, Subject: r.subject,
		Headers: r.headers, Substitutions: r.substitutions, CustomArgs: r.customArgs,
	}}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false) // html/template escapes; a person reads this
	enc.SetIndent("", "  ")
	_ = enc.Encode(m) // strings and maps of them always marshal
	return out.String()
}

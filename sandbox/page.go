package sandbox

import (
	"bytes"
	"embed"
	"encoding/json"
	"html/template"
	"net/http"
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
	}
	return template.Must(template.New("").Funcs(functions).ParseFS(pageFiles, "pages/*.html"))
}

func (s *Sandbox) routePages(mux *http.ServeMux) {
	mux.HandleFunc("GET /{$}", s.showList)
	mux.HandleFunc("GET /mail/{id}", s.showMail)
}

// showList is the page of all mail, or of the mail whose address or delivery id
// contains what was searched for.
func (s *Sandbox) showList(w http.ResponseWriter, r *http.Request) {
	search := strings.ToLower(strings.TrimSpace(r.URL.Query().Get("q")))
	before, err := parsePlace(r.URL.Query().Get("cursor"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	contains := func(email, delivery string) bool {
		return search == "" || strings.Contains(strings.ToLower(email), search) || strings.Contains(delivery, search)
	}
	mail, next := s.store.find(contains, before, perPage)
	s.show(w, http.StatusOK, "list.html", map[string]any{
		"Stats": s.Stats(), "Mail": mail, "Next": next, "Search": search, "First": before == newest,
		"Webhook": s.config.Webhook.URL,
	})
}

func (s *Sandbox) showMail(w http.ResponseWriter, r *http.Request) {
	b, i := s.store.locate(r.PathValue("id"))
	if b == nil {
		s.show(w, http.StatusNotFound, "gone.html", s.config.MaxMessages)
		return
	}
	m := b.message(i)
	s.show(w, http.StatusOK, "mail.html", map[string]any{
		"Mail": m, "HTML": inNewTab(m.HTML), "Raw": b.raw(i),
	})
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

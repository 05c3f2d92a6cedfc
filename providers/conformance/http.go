package conformance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// HTTP plays a provider that speaks HTTP.
type HTTP struct {
	// Read reads a request as strictly as the provider does. An error fails the test.
	Read func(r *http.Request, body []byte) ([]Message, error)
	// Answer is what the provider says to a cue.
	Answer func(Cue) Answer
}

// Answer is an answer of HTTP.
type Answer struct {
	Status int
	Header map[string]string
	Body   string
}

// headTimeout bounds a request that never comes whole; no test waits so long.
const headTimeout = time.Minute

// Play implements Provider.
func (h HTTP) Play(tb testing.TB, listener net.Listener, stage *Stage) {
	tb.Helper()
	server := &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.serve(w, r, stage) }),
		ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, 0),
		ReadHeaderTimeout: headTimeout,
	}
	tb.Cleanup(func() { _ = server.Close() })
	go func() { _ = server.Serve(listener) }()
}

func (h HTTP) serve(w http.ResponseWriter, r *http.Request, stage *Stage) {
	stage.Begin()
	if stage.major != 0 && r.ProtoMajor != stage.major {
		stage.Faultf("the request came by %s", r.Proto)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler) // it never came whole
	}
	messages, err := h.Read(r, body)
	if err != nil {
		stage.Faultf("the provider would not take this request: %v\n%s", err, body)
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	cue := stage.Cue(messages...)
	answer := h.Answer(acts(cue))
	if answer.Status == 0 {
		stage.Faultf("the stand-in has no answer in the situation %q", acts(cue).Situation)
	}
	if answer.Status/100 == 2 {
		stage.Take(Taken{ID: cue.ID, Messages: messages, Request: readable(r, body)})
	} else if answer.Body != "" && !strings.Contains(answer.Body, cue.Gossip) {
		stage.Faultf("the stand-in's answer in the situation %q does not hold the gossip", acts(cue).Situation)
	}
	perform(w, r, stage, cue, answer)
}

// acts is the cue with the situation whose answer is given in this one.
func acts(cue Cue) Cue {
	switch cue.Situation {
	case Cut, Silent, BrokenOff, Foreign:
		cue.Situation = Accepted
	case RefusalBrokenOff, RefusalForeign, Redirected:
		cue.Situation = Throttled
	}
	return cue
}

func perform(w http.ResponseWriter, r *http.Request, stage *Stage, cue Cue, answer Answer) {
	switch cue.Situation {
	case Cut:
		panic(http.ErrAbortHandler)
	case Silent:
		select {
		case <-r.Context().Done():
		case <-stage.Over():
		}
		panic(http.ErrAbortHandler)
	case Foreign:
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			// The error of net/http repeats a line that is no header, with its quotes escaped.
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\""+cue.Gossip+"\"\r\n\r\n")
			_ = conn.Close()
		}
		return
	case Redirected:
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(http.StatusTemporaryRedirect) // the one that keeps method and body
		return
	case RefusalForeign:
		answer.Header = map[string]string{"Content-Type": "text/html"}
		answer.Body = "<html>\r\n<head><title>" + cue.Gossip + "</title></head>\r\n</html>\r\n"
	}
	for name, value := range answer.Header {
		w.Header().Set(name, value)
	}
	if cue.Situation != BrokenOff && cue.Situation != RefusalBrokenOff {
		w.WriteHeader(answer.Status)
		_, _ = io.WriteString(w, answer.Body)
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(answer.Body)+1))
	w.WriteHeader(answer.Status)
	_, _ = io.WriteString(w, answer.Body[:len(answer.Body)/2])
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

// readable is a request as a golden file holds it: its line, the headers that mean
// something to a provider, and its body with a line for each field.
func readable(r *http.Request, body []byte) string {
	var text strings.Builder
	fmt.Fprintf(&text, "%s %s\n", r.Method, r.URL)
	for _, name := range []string{"Authorization", "Content-Encoding", "Content-Type"} {
		if value := r.Header.Get(name); value != "" {
			fmt.Fprintf(&text, "%s: %s\n", name, value)
		}
	}
	text.WriteByte('\n')
	var indented bytes.Buffer
	if json.Indent(&indented, body, "", "  ") == nil {
		return text.String() + indented.String() + "\n"
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return text.String() + string(body)
	}
	for _, pair := range fields(form) {
		text.WriteString(pair + "\n")
	}
	return text.String()
}

func fields(form url.Values) []string {
	var lines []string
	for name, values := range form {
		for _, value := range values {
			lines = append(lines, name+"="+strconv.Quote(value))
		}
	}
	slices.Sort(lines)
	return lines
}

package render

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"html"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/osteele/liquid/expressions"
	"github.com/osteele/liquid/filters"
	"github.com/osteele/liquid/parser"
	engine "github.com/osteele/liquid/render"
	"github.com/osteele/liquid/tags"
	"github.com/osteele/liquid/values"
)

// What one text of a template may cost.
const (
	// maxRender ends a text that takes longer, whatever else it keeps to. Ordinary ones take
	// a millisecond, and those at the other bounds a second of a processor; the rest is for
	// machines that are busy, where a good text must not be refused.
	maxRender = 5 * time.Second
	// maxSending is for a message that is sent, which took less when it was accepted: enough
	// for any machine that does not stand still.
	maxSending = 30 * time.Second
	// maxPreview is the same for all texts of a publication together: it is rendered on all
	// its channels and in all its locales while somebody waits for the answer.
	maxPreview = 10 * time.Second
	// maxRounds is how often the loops of a text may go round, all together.
	maxRounds = 100_000
	// maxOutput is what a text may become, in bytes: ten times what it may be.
	maxOutput = 1 << 20
	// maxWork is what filters and captures may make on the way, in bytes: a line of Liquid
	// can double a text, and forty such lines would fill any memory.
	maxWork = 16 << 20
	// filterCost is what calling a filter counts, in bytes, so that there are 250,000 calls
	// at most. One takes some microseconds.
	filterCost = 64
	// maxItems is how long a list may be that a filter works on.
	maxItems = 10_000
	// maxMissing is how much that is missing is named: enough to see what is wrong.
	maxMissing = 100
)

var (
	errTooLong  = errors.New("takes longer than five seconds, or all texts together longer than ten")
	errTooLarge = errors.New("becomes larger than 1 MB, or takes too much to make")
	errTooWide  = fmt.Errorf("works on a list of more than %d items", maxItems)
	errRounds   = fmt.Errorf("goes round its loops more than %d times", maxRounds)
)

// markup is text that is HTML already, and is not escaped again.
type markup string

// run renders one text of a template, once.
//
// The language is osteele/liquid's, by its inner packages: the outer one can neither
// escape what is put out, nor name what is missing, nor bound anything. Instead of
// changing it, a text is rewritten before it is compiled, so that every output goes
// through the filter _out, every loop through the tag _round, and captures are ours.
// Compiling anew for each run takes microseconds and lets these reach the run.
type run struct {
	escape bool // the text is HTML
	// links are what stands for a recipient's own URLs until the text is done: by the name
	// of the variable. People cannot guess them.
	links    map[string]string
	deadline time.Time
	rounds   int
	work     int
	used     map[string]bool // the words that stand in the template
	touched  []*place        // data that the expression under way asked for and did not find
	missing  []string        // data that was to be put out and is not there
	faults   []fault
}

// fault is something else that is wrong with a text, with the line it stands on.
type fault struct {
	line int
	err  error
}

func newRun(escape bool, until time.Time) *run { return &run{escape: escape, deadline: until} }

// fill renders the text with the data. It finds everything that is missing at once;
// at any other fault it ends.
func (r *run) fill(source string, data map[string]any) string {
	cfg := r.language()
	node, err := compile(cfg, source)
	if err != nil {
		r.fail(err)
		return ""
	}
	r.used = map[string]bool{}
	for _, word := range anyWord.FindAllString(source, -1) {
		r.used[word] = true
	}
	bound := map[string]any{sentinel: r.begin()}
	for _, name := range names(source) {
		bound[name] = absent{r, &place{name: name}}
	}
	for name, value := range data {
		if value != nil {
			bound[name] = r.bind(&place{name: name}, value)
		}
	}
	for name, link := range r.links {
		bound[name] = link
	}
	var out bytes.Buffer
	if err := guarded(func() error {
		if err := engine.Render(node, &limited{&out, r, maxOutput}, bound, cfg); err != nil {
			return err
		}
		return nil
	}); err != nil {
		r.fail(err)
	}
	return out.String()
}

func (r *run) fail(err error) {
	line := 0
	for {
		located, ok := err.(parser.Error) //nolint:errorlint // it knows Cause, not Unwrap
		if !ok {
			break
		}
		if line == 0 {
			line = located.LineNumber()
		}
		if located.Cause() == nil {
			err = errors.New(preamble.ReplaceAllString(located.Error(), ""))
			break
		}
		err = located.Cause()
	}
	r.faults = append(r.faults, fault{line, plain(err)})
}

// plain takes what people wrote out of an error: it may end in a log.
func plain(err error) error {
	var filter expressions.FilterError
	var kind values.TypeError
	var wrong *wrongError
	switch {
	case errors.As(err, &wrong):
		return wrong
	case errors.As(err, &filter):
		var count *values.CallParityError
		if errors.As(filter.Err, &wrong) || errors.As(filter.Err, &count) {
			return fmt.Errorf("the filter %s: %w", filter.FilterName, filter.Err)
		}
		return fmt.Errorf("the filter %s cannot take such a value", filter.FilterName)
	case errors.As(err, &kind):
		return errors.New("a value is of another kind than is needed here")
	}
	return err
}

// wrongError is a fault that we found ourselves; it holds nothing that people wrote.
type wrongError struct{ err error }

func (e *wrongError) Error() string { return e.err.Error() }

func (e *wrongError) Unwrap() error { return e.err }

func wrong(format string, args ...any) error { return &wrongError{fmt.Errorf(format, args...)} }

// guarded makes errors of the library's panics: it has many, for values of the wrong kind.
func guarded(do func() error) (err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case *wrongError:
			err = p
		case values.TypeError:
			err = p
		case expressions.SyntaxError:
			err = p
		default:
			err = errors.New("a value is of another kind than is needed here")
		}
	}()
	return do()
}

// language is Liquid as templates may use it: bounded, without files and clock, and
// strict.
func (r *run) language() engine.Config {
	cfg := engine.NewConfig()
	filters.AddStandardFilters(&boundFilters{r, &cfg})
	r.addFilters(&cfg)
	tags.AddStandardTags(cfg)
	cfg.AddTag("include", func(string) (func(io.Writer, engine.Context) error, error) {
		return nil, wrong("include is not offered: a template is one text")
	})
	cfg.AddTag("_round", func(string) (func(io.Writer, engine.Context) error, error) {
		return func(io.Writer, engine.Context) error { return r.round() }, nil
	})
	cfg.AddTag("_begin", func(string) (func(io.Writer, engine.Context) error, error) {
		return func(io.Writer, engine.Context) error { r.touched = nil; return nil }, nil
	})
	cfg.AddTag("_check", func(args string) (func(io.Writer, engine.Context) error, error) {
		return func(_ io.Writer, ctx engine.Context) error { return r.checkTag(ctx, args) }, nil
	})
	cfg.AddBlock("_capture").Compiler(r.capture)
	return cfg
}

func (r *run) round() error {
	if r.rounds++; r.rounds > maxRounds {
		return &wrongError{errRounds}
	}
	return r.inTime()
}

func (r *run) inTime() error {
	if time.Now().After(r.deadline) {
		return &wrongError{errTooLong}
	}
	return nil
}

// checkTag notes what the assignment before it asked for and did not find; with the
// expression that a loop goes through, what that does not find.
func (r *run) checkTag(ctx engine.Context, expr string) error {
	if expr == "" {
		r.miss()
		return nil
	}
	r.touched = nil
	var value any
	err := guarded(func() (err error) {
		value, err = ctx.EvaluateString(expr)
		return err
	})
	if !r.miss() && err == nil && value == nil {
		err = wrong("goes through something that has no value")
	}
	return err
}

// miss notes that what was asked for and not found is missing, if anything was.
func (r *run) miss() bool {
	touched := r.touched
	r.touched = nil
	for _, at := range touched {
		if len(r.missing) == maxMissing {
			break
		}
		if path := at.text(r.used); !slices.Contains(r.missing, path) {
			r.missing = append(r.missing, path)
		}
	}
	return len(touched) > 0
}

// capture is Liquid's own, bounded; what it takes up is escaped already.
func (r *run) capture(node engine.BlockNode) (func(io.Writer, engine.Context) error, error) {
	name := strings.TrimSpace(node.Args)
	if !identifier.MatchString(name) {
		return nil, wrong("capture needs the name of a variable")
	}
	return func(_ io.Writer, ctx engine.Context) error {
		var out bytes.Buffer
		if err := ctx.RenderChildren(&limited{&out, r, maxOutput}); err != nil {
			return err
		}
		ctx.Set(name, r.marked(out.String()))
		return nil
	}, nil
}

func (r *run) marked(s string) any {
	if r.escape {
		return markup(s)
	}
	return s
}

// limited refuses to become larger than it may.
type limited struct {
	to   *bytes.Buffer
	run  *run
	size int
}

func (l *limited) Write(b []byte) (int, error) {
	if l.to.Len()+len(b) > l.size {
		return 0, &wrongError{errTooLarge}
	}
	if err := l.run.spend(len(b)); err != nil {
		return 0, err
	}
	return l.to.Write(b)
}

func (r *run) spend(n int) error {
	if r.work += n; r.work > maxWork {
		return &wrongError{errTooLarge}
	}
	return r.inTime()
}

// out is the filter that every output ends with: it escapes, and notes what is missing.
// where says in which attribute of an html text it stands.
func (r *run) out(_, value any, line, where int) (string, error) {
	if err := r.spend(filterCost); err != nil {
		return "", err
	}
	if r.miss() {
		return "", nil
	}
	if value == nil {
		r.faults = append(r.faults, fault{line, errors.New("puts out something that has no value")})
		return "", nil
	}
	var b strings.Builder
	if err := r.write(&b, value); err != nil {
		return "", err
	}
	text := b.String()
	if !r.escape {
		return text, nil
	}
	if where&aLink != 0 && !leads(text) {
		r.faults = append(r.faults, fault{line, errors.New("puts a link where one leads to that is neither http, https, mailto nor tel")})
		return "", nil
	}
	if where&bare != 0 {
		text = bareSigns.Replace(text)
	}
	return text, nil
}

func (r *run) write(b *strings.Builder, value any) error {
	switch v := value.(type) {
	case nil:
	case markup:
		b.WriteString(string(v))
	case string:
		if r.escape {
			v = html.EscapeString(v)
		}
		b.WriteString(v)
	case bool:
		b.WriteString(strconv.FormatBool(v))
	case int:
		b.WriteString(strconv.Itoa(v))
	case int64:
		b.WriteString(strconv.FormatInt(v, 10))
	case float64:
		b.WriteString(strconv.FormatFloat(v, 'f', -1, 64))
	case []any:
		for _, item := range v {
			if err := r.write(b, item); err != nil {
				return err
			}
		}
	case []string: // what split makes
		for _, item := range v {
			if err := r.write(b, item); err != nil {
				return err
			}
		}
	case *object:
		return wrong("puts out %s, which has fields: name one of them", v.text())
	default:
		return wrong("puts out something that is no text")
	}
	return nil
}

var (
	identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]*$`)
	// words are what may be a variable's name in an expression, and texts, which hold none.
	words = regexp.MustCompile(`"[^"]*"|'[^']*'|\.{0,2}[A-Za-z_][A-Za-z0-9_-]*\??`)
	// used finds the names of filters.
	used = regexp.MustCompile(`"[^"]*"|'[^']*'|\|\s*([A-Za-z_][A-Za-z0-9_-]*)`)
	// anyWord is what may be a name, wherever it stands.
	anyWord = regexp.MustCompile(`[A-Za-z0-9_-]+`)
	// looped finds what a loop goes through and how, and modified where the how begins.
	looped   = regexp.MustCompile(`(?s)^\s*[A-Za-z_][A-Za-z0-9_-]*\s+in\s+(.*)$`)
	modified = regexp.MustCompile(`\s(?:reversed\b|(?:limit|offset|cols)\s*:)`)
	quoted   = regexp.MustCompile(`"[^"]*"|'[^']*'`)
	opened   = regexp.MustCompile(`\{\{|\{%`)
	// preamble is what the library puts before its own errors.
	preamble = regexp.MustCompile(`^Liquid error(?: \(line \d+\))?: `)
)

// sentinel is a variable whose reading says that an output begins.
const sentinel = "_begin"

var lineOne = parser.SourceLoc{LineNo: 1}

// names are the names that the text may use for variables.
func names(source string) []string {
	found := map[string]bool{}
	for _, token := range parser.Scan(source, lineOne, nil) {
		for _, word := range words.FindAllString(token.Args, -1) {
			word = strings.TrimPrefix(word, "..") // the end of a range
			// The library itself asks whether there is a forloop.
			if strings.Trim(word[:1], `."'`) != "" && word != "forloop" {
				found[word] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// compile reads the text as it was written, which finds the faults of its author, and
// then as it is rewritten.
func compile(cfg engine.Config, source string) (node engine.Node, err error) {
	if !utf8.ValidString(source) {
		return nil, wrong("is not valid UTF-8")
	}
	tokens := parser.Scan(source, lineOne, nil)
	if err := checkTokens(tokens); err != nil {
		return nil, err
	}
	err = guarded(func() error {
		compiled, err := cfg.Compile(source, lineOne)
		if err != nil {
			return err
		}
		node = compiled
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = guarded(func() error {
		compiled, err := cfg.Compile(rewrite(tokens), lineOne)
		if err != nil {
			return err
		}
		node = compiled
		return nil
	})
	return node, err
}

// checkTokens finds what the library takes for text, or finds only when it is too late.
func checkTokens(tokens []parser.Token) error {
	verbatim := ""
	for _, token := range tokens {
		switch {
		case verbatim != "":
			if token.Type == parser.TagTokenType && token.Name == "end"+verbatim {
				verbatim = ""
			}
		case token.Type == parser.TextTokenType:
			if open := opened.FindStringIndex(token.Source); open != nil {
				return wrong("line %d: a {{ or {%% is not closed on its line", token.SourceLoc.LineNo+strings.Count(token.Source[:open[0]], "\n"))
			}
		case token.Type == parser.TagTokenType && (token.Name == "raw" || token.Name == "comment"):
			verbatim = token.Name
		case strings.HasPrefix(token.Name, "_"), strings.HasPrefix(token.Name, "end_"):
			return wrong("line %d: there is no tag %s", token.SourceLoc.LineNo, token.Name)
		}
		if verbatim != "" {
			continue
		}
		for _, name := range used.FindAllStringSubmatch(token.Args, -1) {
			if name[1] != "" && !offered[name[1]] {
				return wrong("line %d: there is no filter %s", token.SourceLoc.LineNo, name[1])
			}
		}
	}
	if verbatim != "" {
		return wrong("a %s is not ended", verbatim)
	}
	return nil
}

// rewrite puts our filter and tags into a text. No line is added.
func rewrite(tokens []parser.Token) string {
	var b strings.Builder
	var at attributes
	verbatim := ""
	for _, token := range tokens {
		switch {
		case verbatim != "":
			if token.Type == parser.TagTokenType && token.Name == "end"+verbatim {
				verbatim = ""
			} else if verbatim == "raw" {
				at.feed(token.Source)
			}
			b.WriteString(token.Source)
		case token.Type == parser.ObjTokenType:
			fmt.Fprintf(&b, "{{%s %s | _out: (%s), %d, %d %s}}", dash(token.Source[2]), sentinel, token.Args, token.SourceLoc.LineNo, at.of(), dash(token.Source[len(token.Source)-3]))
			b.WriteString(strings.Repeat("\n", strings.Count(token.Source, "\n")))
			at.feed("x")
		case token.Type == parser.TagTokenType:
			verbatim = rewriteTag(&b, token)
		default:
			at.feed(token.Source)
			b.WriteString(token.Source)
		}
	}
	return b.String()
}

func dash(c byte) string {
	if c == '-' {
		return "-"
	}
	return ""
}

// rewriteTag writes one tag with ours around it, which write nothing and so leave alone
// what its dashes mean. It returns the tag's name where what follows is no Liquid.
func rewriteTag(b *strings.Builder, token parser.Token) (verbatim string) {
	switch token.Name {
	case "raw", "comment":
		b.WriteString(token.Source)
		return token.Name
	case "for", "tablerow":
		if through := goesThrough(token.Args); through != "" {
			fmt.Fprintf(b, "{%%_check %s%%}", through)
		}
		b.WriteString(token.Source + "{%_round%}")
	case "assign":
		b.WriteString("{%_begin%}" + token.Source + "{%_check%}")
	case "capture", "endcapture":
		b.WriteString(strings.Replace(token.Source, "capture", "_capture", 1))
	default:
		b.WriteString(token.Source)
	}
	return ""
}

// goesThrough is what a loop goes through, of the arguments of its tag.
func goesThrough(args string) string {
	found := looped.FindStringSubmatch(args)
	if found == nil {
		return ""
	}
	through := found[1]
	masked := quoted.ReplaceAllStringFunc(through, func(text string) string { return strings.Repeat("x", len(text)) })
	if how := modified.FindStringIndex(masked); how != nil {
		through = through[:how[0]]
	}
	return strings.ReplaceAll(through, "\n", " ") // no line is added
}

const (
	linkBegins = "https://"
	linkEnds   = ".invalid/"
	// linkPiece is how many letters of a link in a row are no accident.
	linkPiece = 8
)

// newLink is what stands for a URL until the text is done: plain letters, which
// escaping leaves as they are.
func newLink() string { return linkBegins + strings.ToLower(rand.Text()) + linkEnds }

// changed reports whether a text holds a piece of a link that is not the whole.
func changed(text, link string) bool {
	text = strings.ToLower(strings.ReplaceAll(text, link, ""))
	letters := strings.TrimSuffix(strings.TrimPrefix(link, linkBegins), linkEnds)
	for i := range len(letters) - linkPiece + 1 {
		if strings.Contains(text, letters[i:i+linkPiece]) {
			return true
		}
	}
	return false
}

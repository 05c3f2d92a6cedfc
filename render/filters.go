package render

import (
	"cmp"
	"errors"
	"fmt"
	"html"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/osteele/liquid/filters"
	engine "github.com/osteele/liquid/render"
	"github.com/osteele/liquid/values"
	"github.com/osteele/tuesday"
)

// offered are the names of all filters.
var offered = func() map[string]bool {
	names := nameList{}
	filters.AddStandardFilters(names)
	names["_out"] = false
	delete(names, "inspect") // these two show the insides of Go
	delete(names, "type")
	return names
}()

type nameList map[string]bool

// AddFilter notes the name.
func (n nameList) AddFilter(name string, _ any) { n[name] = true }

// boundFilters adds Liquid's own filters, each within the bounds of a run.
type boundFilters struct {
	run *run
	cfg *engine.Config
}

var (
	listType = reflect.TypeFor[[]any]()
	anyType  = reflect.TypeFor[any]()
	errType  = reflect.TypeFor[error]()
)

// AddFilter adds a filter whose lists and results are bounded.
func (b *boundFilters) AddFilter(name string, filter any) {
	f := reflect.ValueOf(filter)
	of := f.Type()
	in := make([]reflect.Type, of.NumIn())
	for i := range in {
		// A range such as (1..1000000000) becomes a list before a filter could count it,
		// unless the filter takes anything.
		if in[i] = of.In(i); in[i] == listType {
			in[i] = anyType
		}
	}
	bounded := reflect.FuncOf(in, []reflect.Type{anyType, errType}, false)
	b.cfg.AddFilter(name, reflect.MakeFunc(bounded, func(args []reflect.Value) []reflect.Value {
		result, err := b.apply(f, args)
		return []reflect.Value{reflect.ValueOf(&result).Elem(), reflect.ValueOf(&err).Elem()}
	}).Interface())
}

func (b *boundFilters) apply(f reflect.Value, args []reflect.Value) (result any, err error) {
	for i := range args {
		if f.Type().In(i) != listType {
			continue
		}
		list, err := asList(args[i].Interface())
		if err != nil {
			return nil, err
		}
		args[i] = reflect.ValueOf(list)
	}
	err = guarded(func() error {
		results := f.Call(args)
		if len(results) > 1 && !results[1].IsNil() {
			return results[1].Interface().(error)
		}
		result = results[0].Interface()
		return nil
	})
	if err != nil {
		return nil, err
	}
	return result, b.run.weigh(result)
}

// asList makes a list of what a filter for lists is given.
func asList(value any) ([]any, error) {
	if bounded, ok := value.(interface{ Len() int }); ok && bounded.Len() > maxItems {
		return nil, &wrongError{errTooWide}
	}
	switch v := value.(type) {
	case nil:
		return nil, nil
	case []any:
		if len(v) > maxItems {
			return nil, &wrongError{errTooWide}
		}
		return v, nil
	case *object:
		return nil, wrong("takes %s for a list", v.text())
	}
	list, err := values.Convert(value, listType)
	if err != nil {
		return nil, err
	}
	return list.([]any), nil
}

// weigh counts what a filter made.
func (r *run) weigh(result any) error {
	size := 0
	switch v := result.(type) {
	case string:
		size = len(v)
	case markup:
		size = len(v)
	case []byte:
		size = len(v)
	case []string:
		size = 16 * len(v)
		if len(v) > maxItems {
			return &wrongError{errTooWide}
		}
	case []any:
		size = 16 * len(v)
		if len(v) > maxItems {
			return &wrongError{errTooWide}
		}
	}
	if size > maxOutput {
		return &wrongError{errTooLarge}
	}
	return r.spend(filterCost + size)
}

// addFilters adds our own, and those of Liquid's that the library has differently from
// what its users know, or that could not be bounded by what comes out.
func (r *run) addFilters(cfg *engine.Config) {
	cfg.AddFilter("_out", r.out)
	b := &boundFilters{r, cfg}
	cfg.AddFilter("default", func(value, otherwise any) any {
		if value == nil || value == false || values.IsEmpty(value) || value == markup("") {
			value = otherwise
		}
		if value != nil {
			r.touched = nil // to say what stands in for it is no fault
		}
		return value
	})
	b.AddFilter("escape", func(value any) (any, error) { return r.escaped(value, html.EscapeString) })
	b.AddFilter("escape_once", func(value any) (any, error) {
		return r.escaped(value, func(s string) string { return html.EscapeString(html.UnescapeString(s)) })
	})
	b.AddFilter("newline_to_br", r.newlineToBreak)
	b.AddFilter("replace", func(s, old, with string) (string, error) {
		if strings.Count(s, old)*len(with) > maxOutput {
			return "", &wrongError{errTooLarge}
		}
		return strings.ReplaceAll(s, old, with), nil
	})
	b.AddFilter("join", join)
	b.AddFilter("sort", func(list []any, key any) []any { return sorted(list, key, values.Less) })
	b.AddFilter("sort_natural", func(list []any, key any) []any { return sorted(list, key, lessNaturally) })
	b.AddFilter("uniq", unique)
	b.AddFilter("date", date)
	b.AddFilter("capitalize", func(s string) string {
		first, size := utf8.DecodeRuneInString(s)
		if size == 0 {
			return s
		}
		return string(unicode.ToUpper(first)) + s[size:]
	})
	b.AddFilter("truncate", func(s string, length func(int) int, ellipsis func(string) string) string {
		return truncate(s, length(50), ellipsis("..."))
	})
}

// escaped escapes for HTML, where that is not done already.
func (r *run) escaped(value any, how func(string) string) (any, error) {
	if m, ok := value.(markup); ok {
		return m, nil
	}
	s, err := asText(value)
	if err != nil {
		return nil, err
	}
	return r.marked(how(s)), nil
}

// newlineToBreak keeps the lines of a text. In HTML the text is escaped first.
func (r *run) newlineToBreak(value any) (any, error) {
	var s string
	if m, ok := value.(markup); ok {
		s = string(m)
	} else {
		var err error
		if s, err = asText(value); err != nil {
			return nil, err
		}
		if r.escape {
			s = html.EscapeString(s)
		}
	}
	return r.marked(strings.ReplaceAll(s, "\n", "<br />\n")), nil
}

func asText(value any) (string, error) {
	if value == nil {
		return "", nil
	}
	s, err := values.Convert(value, reflect.TypeFor[string]())
	if err != nil {
		return "", err
	}
	return s.(string), nil
}

func join(list []any, with func(string) string) (string, error) {
	separator, size := with(" "), 0
	parts := make([]string, 0, len(list))
	for _, item := range list {
		if item == nil {
			continue
		}
		part, err := asText(item)
		if err != nil {
			return "", err
		}
		if size += len(part) + len(separator); size > maxOutput {
			return "", &wrongError{errTooLarge}
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, separator), nil
}

// sorted sorts by a field, or by the items themselves. What has no such field comes first.
func sorted(list []any, key any, less func(a, b any) bool) []any {
	by := func(item any) any { return item }
	if key != nil {
		by = func(item any) any {
			if o, ok := item.(*object); ok {
				return o.fields[fmt.Sprint(key)]
			}
			return nil
		}
	}
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b any) int {
		a, b = by(a), by(b)
		switch {
		case a == nil && b == nil:
			return 0
		case a == nil:
			return -1
		case b == nil:
			return 1
		case less(a, b):
			return -1
		case less(b, a):
			return 1
		}
		return 0
	})
	return list
}

func lessNaturally(a, b any) bool {
	return cmp.Less(strings.ToLower(fmt.Sprint(a)), strings.ToLower(fmt.Sprint(b)))
}

func unique(list []any) []any {
	seen := map[string]bool{}
	var once []any
	for _, item := range list {
		if as := fmt.Sprintf("%T %v", item, item); !seen[as] {
			seen[as] = true
			once = append(once, item)
		}
	}
	return once
}

// wide finds widths that would fill the memory.
var wide = regexp.MustCompile(`\d{3,}`)

// date writes a date or time. There is no clock: what a template says must not depend
// on when it is asked.
func date(value any, format func(string) string) (string, error) {
	pattern := format("%a, %b %d, %y")
	if wide.MatchString(pattern) {
		return "", wrong("is given a width of more than two digits")
	}
	var at time.Time
	switch v := value.(type) {
	case nil:
		return "", nil
	case time.Time:
		at = v
	case int:
		at = time.Unix(int64(v), 0).UTC()
	case string:
		if v == "now" || v == "today" {
			return "", wrong("there is no clock: give the date in the data")
		}
		parsed, err := values.ParseDate(v)
		if err != nil {
			return "", wrong("cannot read such a date; write it as 2026-01-31 or 2026-01-31T08:00:00Z")
		}
		at = parsed
	default:
		return "", errors.New("no date")
	}
	return tuesday.Strftime(pattern, at)
}

// truncate cuts a text to that many characters, the ellipsis among them.
func truncate(s string, length int, ellipsis string) string {
	runes := []rune(s)
	if len(runes) <= length {
		return s
	}
	return string(runes[:max(0, length-utf8.RuneCountInString(ellipsis))]) + ellipsis
}

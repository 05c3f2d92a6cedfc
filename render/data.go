package render

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"unicode"

	"github.com/osteele/liquid/values"
)

// place is where something stands in the data, or would. It becomes text only where that
// is asked for: in data that is deep, the text of every place is more than the data.
type place struct {
	up    *place // nil: a variable
	name  string // of a field
	index int    // of an item, where there is no name
}

// text writes the place as people do, items[1].url. Names that the template does not
// use itself are data, which may be somebody's, and left out.
func (p *place) text(used map[string]bool) string {
	var steps []string
	for ; p != nil; p = p.up {
		switch {
		case p.up == nil:
			steps = append(steps, p.name)
		case p.name == "":
			steps = append(steps, fmt.Sprintf("[%d]", p.index))
		case !used[p.name]:
			steps = append(steps, "[…]")
		default:
			steps = append(steps, "."+p.name)
		}
	}
	slices.Reverse(steps)
	return strings.Join(steps, "")
}

// absent stands for a variable that the data does not have. Reading it is noted, and
// gives nothing.
type absent struct {
	run *run
	at  *place
}

// ToLiquid is called by the library whenever the variable is read.
func (a absent) ToLiquid() any {
	a.run.touched = append(a.run.touched, a.at)
	return nil
}

// beginning forgets, when an output begins, what conditions before it asked for: to ask
// whether something is there is no fault.
type beginning struct{ run *run }

func (r *run) begin() beginning { return beginning{r} }

// ToLiquid is called by the library whenever the variable is read.
func (b beginning) ToLiquid() any {
	b.run.touched = nil
	return nil
}

// object is an object of the data. It notes the fields that are asked for and not
// there, and loops go through it in the order of its names, so that a text comes out
// the same every time.
type object struct {
	run    *run
	at     *place
	names  []string // sorted
	fields map[string]any
}

// bind makes of a value of the data what templates work with.
func (r *run) bind(at *place, value any) any {
	switch v := value.(type) {
	case string:
		return sanitised(v)
	case float64:
		// JSON knows no integers, and indexes and ranges want them.
		if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
			return int(v)
		}
		return v
	case map[string]any:
		o := &object{run: r, at: at, fields: make(map[string]any, len(v))}
		for _, name := range slices.Sorted(maps.Keys(v)) {
			if v[name] != nil { // null counts as left out
				o.names = append(o.names, name)
				o.fields[name] = r.bind(&place{up: at, name: name}, v[name])
			}
		}
		return o
	case []any:
		list := make([]any, len(v))
		for i := range v {
			list[i] = r.bind(&place{up: at, index: i}, v[i])
		}
		return list
	default:
		return v
	}
}

// sanitised makes data fit for a message: valid text without control characters,
// and without our tags.
func sanitised(s string) string {
	return disarm(strings.Map(func(c rune) rune {
		if unicode.IsControl(c) && c != '\n' && c != '\t' {
			return -1
		}
		return c
	}, strings.ToValidUTF8(s, "\uFFFD")))
}

// Interface is the value itself: filters and loops get it.
func (o *object) Interface() any { return o }

// Int panics as the library's own values do.
func (o *object) Int() int { panic(values.TypeError("an object is no number")) }

// Equal is true for the same object.
func (o *object) Equal(other values.Value) bool { return o == other.Interface() }

// Less is never true.
func (o *object) Less(values.Value) bool { return false }

// Test is always true.
func (o *object) Test() bool { return true }

// Contains reports whether there is a field of that name.
func (o *object) Contains(name values.Value) bool {
	key, _ := name.Interface().(string)
	_, found := o.fields[key]
	return found
}

// IndexValue reads a field.
func (o *object) IndexValue(name values.Value) values.Value { return o.PropertyValue(name) }

// text is what the object is called.
func (o *object) text() string { return o.at.text(o.run.used) }

// PropertyValue reads a field, or the number of fields.
func (o *object) PropertyValue(name values.Value) values.Value {
	key, ok := name.Interface().(string)
	field, found := o.fields[key]
	switch {
	case found:
		return values.ValueOf(field)
	case key == "size":
		return values.ValueOf(len(o.names))
	case ok:
		o.run.touched = append(o.run.touched, &place{up: o.at, name: key})
	}
	return values.ValueOf(nil)
}

// Len is how often a loop goes round.
func (o *object) Len() int { return len(o.names) }

// Index is what a loop gets: name and value.
func (o *object) Index(i int) any { return []any{o.names[i], o.fields[o.names[i]]} }

// MarshalJSON writes it as it came.
func (o *object) MarshalJSON() ([]byte, error) { return json.Marshal(o.fields) }

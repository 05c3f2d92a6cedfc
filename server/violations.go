package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/labstack/echo/v4"

	fanfare "github.com/fanfare-dev/fanfare"
)

// nameHint is what to say where fanfare.ValidName is false.
const nameHint = "must be 1 to 200 characters out of letters, digits and ._:@-"

// namePattern is how the description says the same.
const namePattern = "^[A-Za-z0-9._:@-]{1,200}$"

// bodyField is the field of what is wrong with a body as a whole.
const bodyField = "body"

// translate makes violations of what the validator found.
func translate(err error) []fanfare.Violation {
	if err == nil {
		return nil
	}
	if many, ok := errors.AsType[openapi3.MultiError](err); ok {
		var violations []fanfare.Violation
		for _, one := range many {
			violations = append(violations, translateRequest(one)...)
		}
		return violations
	}
	return translateRequest(err)
}

// translateRequest translates what is wrong with one parameter or the body.
func translateRequest(err error) []fanfare.Violation {
	var request *openapi3filter.RequestError
	if !errors.As(err, &request) {
		return []fanfare.Violation{{Field: "request", Detail: "is not valid"}}
	}
	where := ""
	if request.Parameter != nil {
		where = request.Parameter.Name
	}
	return translateSchema(where, request.Err)
}

func translateSchema(where string, err error) []fanfare.Violation {
	switch found := err.(type) { //nolint:errorlint // the validator's errors are a tree, to be walked node by node
	case openapi3.MultiError:
		var violations []fanfare.Violation
		for _, one := range found {
			violations = append(violations, translateSchema(where, one)...)
		}
		return violations
	case *openapi3.SchemaError:
		if found.SchemaField == "properties" {
			return unknownFields(found)
		}
		return []fanfare.Violation{{Field: fieldPath(where, found.JSONPointer()), Detail: sentence(found)}}
	}
	if where == "" {
		where = bodyField
	}
	detail := "cannot be read"
	var syntax *json.SyntaxError
	var parse *openapi3filter.ParseError
	switch {
	case errors.Is(err, openapi3filter.ErrInvalidRequired):
		detail = "is required"
	case errors.As(err, &syntax):
		detail = "is not valid JSON: " + syntax.Error()
	case where == bodyField:
		detail = "is not valid JSON"
	case errors.As(err, &parse):
		detail = "is not a valid value"
	}
	return []fanfare.Violation{{Field: where, Detail: detail}}
}

// unknownFields names the members of an object that the description does not.
// The validator reports each of them, with the whole object.
func unknownFields(found *openapi3.SchemaError) []fanfare.Violation {
	object, _ := found.Value.(map[string]any)
	var violations []fanfare.Violation
	for name := range object {
		if found.Schema.Properties[name] == nil {
			path := fieldPath("", append(found.JSONPointer(), shorten(name, 200)))
			violations = append(violations, fanfare.Violation{Field: path, Detail: "is not a field of this request"})
		}
	}
	slices.SortFunc(violations, func(a, b fanfare.Violation) int { return strings.Compare(a.Field, b.Field) })
	return violations
}

// fieldPath writes a path as people do: content.title, channels[0].
func fieldPath(where string, pointer []string) string {
	var path strings.Builder
	path.WriteString(where)
	for _, step := range pointer {
		if _, err := strconv.Atoi(step); err == nil {
			path.WriteString("[" + step + "]")
			continue
		}
		if path.Len() > 0 {
			path.WriteByte('.')
		}
		path.WriteString(step)
	}
	if path.Len() == 0 {
		return bodyField
	}
	return shorten(path.String(), 500)
}

// sentence says what is wrong. It never repeats the value, which may be personal.
func sentence(found *openapi3.SchemaError) string {
	schema := found.Schema
	switch found.SchemaField {
	case "required":
		return "is required"
	case "type", "nullable":
		return "must be " + kind(schema)
	case "minLength":
		if schema.MinLength > 1 {
			return fmt.Sprintf("must have at least %d characters", schema.MinLength)
		}
		return "must not be empty"
	case "maxLength":
		return fmt.Sprintf("must have at most %d characters", *schema.MaxLength)
	case "pattern":
		if schema.Pattern == namePattern {
			return nameHint
		}
		return "must match " + schema.Pattern
	case "enum":
		return "must be one of " + list(schema.Enum)
	case "format":
		return "must be a time such as 2026-01-31T18:00:00Z"
	case "minItems":
		return "must not be empty"
	case "maxItems":
		return fmt.Sprintf("must have at most %d items", *schema.MaxItems)
	case "maxProperties":
		return fmt.Sprintf("must have at most %d members", *schema.MaxProps)
	case "uniqueItems":
		return "must not name anything twice"
	case "minimum", "maximum":
		if schema.Max == nil {
			return fmt.Sprintf("must be at least %.0f", *schema.Min)
		}
		return fmt.Sprintf("must be a number from %.0f to %.0f", *schema.Min, *schema.Max)
	}
	return "is not valid"
}

func kind(schema *openapi3.Schema) string {
	switch {
	case schema.Type.Is("string"):
		return "text"
	case schema.Type.Is("array"):
		return "a list"
	case schema.Type.Is("object"):
		return "an object"
	case schema.Type.Is("integer"):
		return "a whole number"
	case schema.Type.Is("boolean"):
		return "true or false"
	}
	return "a number"
}

func list(values []any) string {
	words := make([]string, len(values))
	for i, v := range values {
		words[i] = fmt.Sprint(v)
	}
	return strings.Join(words, ", ")
}

func mediaTypes(body *openapi3.RequestBody) string {
	var types []string
	for name := range body.Content {
		types = append(types, name)
	}
	slices.Sort(types)
	return strings.Join(types, ", ")
}

// firstOfEach keeps the first violation of every field: several checks may
// find the same fault, the description's comes first.
func firstOfEach(violations []fanfare.Violation) []fanfare.Violation {
	seen := map[string]bool{}
	return slices.DeleteFunc(violations, func(v fanfare.Violation) bool {
		twice := seen[v.Field]
		seen[v.Field] = true
		return twice
	})
}

// decode reads the body of a request that passed the gate.
func decode(c echo.Context, into any) error {
	body, err := io.ReadAll(c.Request().Body)
	if err == nil {
		err = json.Unmarshal(body, into)
	}
	if err != nil {
		return &fanfare.InvalidError{Violations: []fanfare.Violation{{Field: bodyField, Detail: "is not one JSON document"}}}
	}
	return nil
}

// decodeLoosely reads what can be read of a body that may not match the
// description: one bad field does not hide the others.
func decodeLoosely(body []byte, into any) {
	var fields map[string]json.RawMessage
	if json.Unmarshal(body, &fields) != nil {
		return
	}
	for name, value := range fields {
		one, err := json.Marshal(map[string]json.RawMessage{name: value})
		if err == nil {
			// What does not fit is left empty; the description's check names it.
			_ = json.Unmarshal(one, into)
		}
	}
}

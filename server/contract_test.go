package server

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/stretchr/testify/require"
)

func TestDescriptionIsValid(t *testing.T) {
	t.Parallel()
	doc, err := openapi3.NewLoader().LoadFromData(description)
	require.NoError(t, err)
	require.NoError(t, doc.Validate(t.Context()))
}

func TestDescriptionIsServed(t *testing.T) {
	t.Parallel()
	got := start(t).send(t, http.MethodGet, "/openapi.yaml", "", header("Authorization", ""))
	require.Equal(t, http.StatusOK, got.status)
	require.Equal(t, description, got.body)
}

// TestEveryFieldIsDescribed keeps types, bounds and descriptions in the description.
func TestEveryFieldIsDescribed(t *testing.T) {
	t.Parallel()
	doc, err := openapi3.NewLoader().LoadFromData(description)
	require.NoError(t, err)
	for name, schema := range doc.Components.Schemas {
		for field, ref := range schema.Value.Properties {
			s, where := ref.Value, name+"."+field
			require.NotEmpty(t, s.Type, where)
			if ref.Ref == "" {
				require.NotEmpty(t, s.Description, where)
			}
			if s.Type.Is("string") && s.Format == "" && len(s.Enum) == 0 {
				require.NotNil(t, s.MaxLength, "%s has no maxLength", where)
			}
			if s.Type.Is("integer") {
				require.NotNil(t, s.Min, "%s has no minimum", where)
			}
		}
	}
	for path, item := range doc.Paths.Map() {
		for method, operation := range item.Operations() {
			require.NotEmpty(t, operation.Summary, "%s %s", method, path)
			for _, parameter := range append(operation.Parameters, item.Parameters...) {
				require.NotEmpty(t, parameter.Value.Description, "%s %s %s", method, path, parameter.Value.Name)
			}
		}
	}
}

// TestGeneratedCodeIsUpToDate runs the line that go generate runs.
func TestGeneratedCodeIsUpToDate(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("server.go")
	require.NoError(t, err)
	line := regexp.MustCompile(`(?m)^//go:generate (.+)$`).FindSubmatch(source)
	require.NotNil(t, line, "server.go has no go:generate line")
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(filepath.Join(dir, "api"), os.DirFS("api")))
	require.NoError(t, os.Remove(filepath.Join(dir, "api", "api.gen.go")))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "openapi.yaml"), description, 0o600))
	words := strings.Fields(string(line[1]))
	generate := exec.CommandContext(t.Context(), words[0], words[1:]...)
	generate.Dir = dir
	out, err := generate.CombinedOutput()
	require.NoError(t, err, "%s", out)
	want, err := os.ReadFile(filepath.Join(dir, "api", "api.gen.go"))
	require.NoError(t, err)
	got, err := os.ReadFile("api/api.gen.go")
	require.NoError(t, err)
	require.Equal(t, string(want), string(got), "run go generate ./server")
}

package fanfare_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare/local/localtest"
)

// The house rules that no linter knows. Each failure says what to do.

func TestMain(m *testing.M) { os.Exit(localtest.Main(m)) }

// skipped folders hold nothing that is committed, or nothing of ours.
var skipped = []string{".git", ".fanfare", "bin", "tmp", "testdata", "node_modules"}

func TestEveryPackageSaysWhatItOwns(t *testing.T) {
	t.Parallel()
	docs := map[string]string{}
	for name := range files(t, ".go") {
		dir := path.Dir(name)
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.PackageClauseOnly|parser.ParseComments)
		require.NoError(t, err)
		docs[dir] += file.Doc.Text()
	}
	require.Contains(t, docs, "ledger")
	for dir, doc := range docs {
		require.NotEmpty(t, doc, "package in %s has no comment: say what it owns, what it never does and what it promises, before the package clause of its doc.go or main file", dir)
		require.Regexp(t, `^(Package|Command) \w+ `, doc, "the comment of the package in %s must begin with its name", dir)
	}
}

// sqlText tells statements of SQL in upper case anywhere in a literal, and in any
// case at its begin.
var sqlText = regexp.MustCompile(`(?s)\bSELECT\b.*\bFROM\b|\bINSERT\s+INTO\b|\bUPDATE\b.*\bSET\b|\bDELETE\s+FROM\b` +
	`|^\s*(?i:select\s.*\sfrom\s|insert\s+into\s|update\s+\w+\s+set\s|delete\s+from\s)`)

// catalog tells what is asked of the server about itself, which is whoever's
// business it is that starts or measures one.
var catalog = regexp.MustCompile(`FROM pg_\w+`)

func TestSQLLivesInTheLedger(t *testing.T) {
	t.Parallel()
	found := 0
	for name := range files(t, ".go") {
		if strings.HasSuffix(name, "_test.go") { // tests may look at the tables from outside
			continue
		}
		for _, literal := range literals(t, name) {
			if !sqlText.MatchString(catalog.ReplaceAllString(literal.text, "")) {
				continue
			}
			found++
			require.Regexp(t, `^(ledger|schema)/`, name, "%s:%d holds a statement of SQL: move it to ledger/ and call it through an interface", name, literal.line)
		}
	}
	require.Greater(t, found, 10, "no statements were found in the ledger: sqlText has gone blind")
}

func TestDocumentsNameFilesThatExist(t *testing.T) {
	t.Parallel()
	// `code` that looks like a file or folder of this repository.
	code := regexp.MustCompile("`([A-Za-z0-9_.][A-Za-z0-9_./-]*)`")
	looksLikeFile := regexp.MustCompile(`(^[a-z0-9_.-]+/|\.(go|md|ya?ml|sql|sh|mod|example)|^(Makefile|Dockerfile|LICENSE))$`)
	top := topLevel(t)
	for _, document := range documents(t) {
		for _, match := range code.FindAllStringSubmatch(read(t, document), -1) {
			name := match[1]
			first, _, nested := strings.Cut(name, "/")
			if !looksLikeFile.MatchString(name) && (!nested || !top[first] || first == "bin") {
				continue
			}
			_, err := os.Stat(strings.TrimSuffix(name, "/"))
			require.NoError(t, err, "%s names `%s`, which does not exist: write where it is now, as seen from the repository's root", document, name)
		}
	}
}

func TestDocumentsLinkToWhatExists(t *testing.T) {
	t.Parallel()
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	for _, document := range documents(t) {
		for _, match := range link.FindAllStringSubmatch(read(t, document), -1) {
			if regexp.MustCompile(`^[a-z]+:`).MatchString(match[1]) {
				continue
			}
			target, anchor, _ := strings.Cut(match[1], "#")
			file := document
			if target != "" {
				file = path.Join(path.Dir(document), target)
			}
			_, err := os.Stat(file)
			require.NoError(t, err, "%s links to %s, which does not exist", document, match[1])
			if anchor != "" {
				require.Contains(t, anchors(t, file), anchor, "%s links to a heading of %s that is not there", document, file)
			}
		}
	}
}

// The path of a notification stands in the README as a table; its files are true.
func TestReadmeTellsThePath(t *testing.T) {
	t.Parallel()
	steps := rows(t, "README.md", "path")
	var names []string
	for _, step := range steps {
		names = append(names, step[1])
		require.Regexp(t, "`[a-z]+/[^`]*`", step[2], "README.md, step %q: say in which file it happens", step[1])
	}
	require.Equal(t, []string{"publish", "relay", "plan", "batch", "claim", "send", "settle", "report"}, names, "README.md: these are the steps of the path")
}

// The drawing, the table and the trigger are one state machine.
func TestStateMachineIsAsDrawn(t *testing.T) {
	t.Parallel()
	allowed := triggerMoves(t)
	require.Greater(t, len(allowed), 15, "the trigger's moves were not found in schema/migrations")

	var told []string
	for _, row := range rows(t, "docs/architecture.md", "moves") {
		told = append(told, strings.Trim(row[0], "`")+" -> "+strings.Trim(row[1], "`"))
		require.NotEmpty(t, row[2], "docs/architecture.md: say who makes the move %s -> %s", row[0], row[1])
	}
	require.ElementsMatch(t, allowed, told, "docs/architecture.md, section 3: the table must list the moves that the trigger state_machine allows, those and no others")

	section := between(t, read(t, "docs/architecture.md"), "## 3.", "## 4.")
	var drawn []string
	for _, match := range regexp.MustCompile(`(?m)^\s+(\w+) --> (\w+)`).FindAllStringSubmatch(section, -1) {
		drawn = append(drawn, match[1]+" -> "+match[2])
	}
	require.ElementsMatch(t, allowed, drawn, "docs/architecture.md, section 3: the drawing must show the moves that the trigger state_machine allows, those and no others")
}

// triggerMoves reads the newest definition of the trigger.
func triggerMoves(t *testing.T) []string {
	t.Helper()
	names, err := filepath.Glob("schema/migrations/*.sql")
	require.NoError(t, err)
	var definition string
	for _, name := range names {
		up, _, _ := strings.Cut(read(t, name), "-- +goose Down")
		if found := regexp.MustCompile(`(?s)CREATE (OR REPLACE )?TRIGGER state_machine.*?;`).FindString(up); found != "" {
			definition = found
		}
	}
	var moves []string
	for _, match := range regexp.MustCompile(`OLD\.state = '(\w+)'\s+AND NEW\.state (?:IN \(([^)]*)\)|= ('\w+'))`).FindAllStringSubmatch(definition, -1) {
		for to := range strings.SplitSeq(match[2]+match[3], ",") {
			moves = append(moves, match[1]+" -> "+strings.Trim(strings.TrimSpace(to), "'"))
		}
	}
	return moves
}

func TestReadmeSettingsAreThoseOfTheCode(t *testing.T) {
	t.Parallel()
	tag := regexp.MustCompile(`env:"([A-Z0-9_]+)"(?: envDefault:"([^"]*)")?`)
	code := map[string]string{}
	for _, match := range tag.FindAllStringSubmatch(read(t, "cmd/fanfare/settings.go"), -1) {
		code[match[1]] = match[2]
	}
	told := map[string]string{}
	for _, row := range rows(t, "README.md", "settings") {
		value := ""
		if match := regexp.MustCompile("^`([^`]*)`").FindStringSubmatch(row[1]); match != nil {
			value = match[1]
		}
		told[strings.Trim(row[0], "`")] = value
	}
	require.Equal(t, code, told, "README.md: the table of settings must name those in cmd/fanfare/settings.go, each with its default in code quotes at the begin of the second column, or none")
}

func TestDocumentsNameCommandsThatExist(t *testing.T) {
	t.Parallel()
	use := regexp.MustCompile(`Use:\s+"([a-z]+)`)
	commands := map[string]bool{}
	for name := range files(t, ".go") {
		if path.Dir(name) != "cmd/fanfare" {
			continue
		}
		for _, match := range use.FindAllStringSubmatch(read(t, name), -1) {
			commands[match[1]] = true
		}
	}
	called := regexp.MustCompile("(?m)(?:`|^ *(?:\\$ )?)(?:bin/)?fanfare ([a-z]+)")
	for _, document := range documents(t) {
		for _, match := range called.FindAllStringSubmatch(read(t, document), -1) {
			require.True(t, commands[match[1]], "%s calls `fanfare %s`, and there is no such command", document, match[1])
		}
	}
}

func TestDocumentsNameRoutesThatExist(t *testing.T) {
	t.Parallel()
	routes := routes(t)
	named := regexp.MustCompile("`(?:(GET|PUT|POST|DELETE|PATCH) )?(/(?:v1/|unsubscribe|healthz|readyz|openapi\\.yaml)[^`\\s?]*)[^`]*`")
	for _, document := range documents(t) {
		for _, match := range named.FindAllStringSubmatch(read(t, document), -1) {
			route := regexp.MustCompile(`\{\w+\}`).ReplaceAllString(match[2], "{}")
			require.Contains(t, routes, route, "%s names %s, which server/openapi.yaml does not describe", document, match[2])
			if match[1] != "" {
				require.Contains(t, routes[route], strings.ToLower(match[1]), "%s names %s %s, which server/openapi.yaml does not describe", document, match[1], match[2])
			}
		}
	}
}

// routes reads the paths and methods of the description by their indentation.
func routes(t *testing.T) map[string][]string {
	t.Helper()
	paths := between(t, read(t, "server/openapi.yaml"), "\npaths:\n", "\ncomponents:\n")
	found := map[string][]string{}
	route := ""
	for line := range strings.Lines(paths) {
		if match := regexp.MustCompile(`^  (/\S*):`).FindStringSubmatch(line); match != nil {
			route = regexp.MustCompile(`\{\w+\}`).ReplaceAllString(match[1], "{}")
			found[route] = []string{}
		}
		if match := regexp.MustCompile(`^    (get|put|post|delete|patch):`).FindStringSubmatch(line); match != nil {
			found[route] = append(found[route], match[1])
		}
	}
	require.Greater(t, len(found), 10, "the paths were not found in server/openapi.yaml")
	return found
}

// Whoever is woken at night must not find that a column has another name by now.
func TestQueriesForOperatorsRun(t *testing.T) {
	t.Parallel()
	block := between(t, read(t, "docs/operating.md"), "<!-- queries:begin -->", "<!-- queries:end -->")
	queries := strings.Split(strings.NewReplacer("```sql", "", "```", "").Replace(block), ";")
	require.Greater(t, len(queries), 5)
	conn, err := pgx.Connect(t.Context(), localtest.Database(t))
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "SET default_transaction_read_only = on")
	require.NoError(t, err)
	for _, query := range queries[:len(queries)-1] {
		_, err := conn.Exec(t.Context(), query)
		require.NoError(t, err, "docs/operating.md, this does not run any more: %s", query)
	}
	require.NoError(t, conn.Close(t.Context()))
}

// What is true on one machine only has no place in the project.
func TestNothingPointsIntoOneMachine(t *testing.T) {
	t.Parallel()
	private := regexp.MustCompile(`(^|[^A-Za-z0-9_.}])/((home|Users)/[A-Za-z0-9]{2,}|(root|work)/)`)
	for name := range files(t, ".go", ".md", ".yml", ".yaml", ".sh", ".sql", "Makefile", "Dockerfile") {
		if name == "house_test.go" {
			continue
		}
		for i, line := range strings.Split(read(t, name), "\n") {
			require.False(t, private.MatchString(line), "%s:%d names a folder of one person's machine: %s", name, i+1, strings.TrimSpace(line))
		}
	}
}

// files are the repository's files whose names end in one of the endings, as seen
// from its root.
func files(t *testing.T, endings ...string) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	err := filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && slices.Contains(skipped, entry.Name()):
			return filepath.SkipDir
		case !entry.IsDir() && slices.ContainsFunc(endings, func(e string) bool { return strings.HasSuffix(name, e) }):
			found[filepath.ToSlash(name)] = true
		}
		return nil
	})
	require.NoError(t, err)
	require.NotEmpty(t, found)
	return found
}

func documents(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob("docs/*.md")
	require.NoError(t, err)
	require.NotEmpty(t, found)
	return append(found, "README.md", "CHANGELOG.md")
}

func topLevel(t *testing.T) map[string]bool {
	t.Helper()
	entries, err := os.ReadDir(".")
	require.NoError(t, err)
	names := map[string]bool{}
	for _, entry := range entries {
		names[entry.Name()] = entry.IsDir()
	}
	return names
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	require.NoError(t, err)
	return string(text)
}

func between(t *testing.T, text, begin, end string) string {
	t.Helper()
	_, rest, found := strings.Cut(text, begin)
	require.True(t, found, "%q is missing", begin)
	inner, _, found := strings.Cut(rest, end)
	require.True(t, found, "%q is missing", end)
	return inner
}

// rows reads the table that stands between <!-- name:begin --> and
// <!-- name:end -->, without its head.
func rows(t *testing.T, document, name string) [][]string {
	t.Helper()
	block := between(t, read(t, document), fmt.Sprintf("<!-- %s:begin -->", name), fmt.Sprintf("<!-- %s:end -->", name))
	var table [][]string
	for line := range strings.Lines(block) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		table = append(table, cells)
	}
	require.Greater(t, len(table), 2, "%s: the table %s is empty", document, name)
	return table[2:]
}

// anchors are those that GitHub gives a document's headings.
func anchors(t *testing.T, document string) []string {
	t.Helper()
	var found []string
	for _, match := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(read(t, document), -1) {
		anchor := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(match[1]), "")
		found = append(found, strings.ReplaceAll(anchor, " ", "-"))
	}
	return found
}

type literal struct {
	text string
	line int
}

func literals(t *testing.T, name string) []literal {
	t.Helper()
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, name, nil, 0)
	require.NoError(t, err)
	var found []literal
	ast.Inspect(file, func(n ast.Node) bool {
		if basic, ok := n.(*ast.BasicLit); ok && basic.Kind == token.STRING {
			text, err := strconv.Unquote(basic.Value)
			require.NoError(t, err)
			found = append(found, literal{text, set.Position(basic.Pos()).Line})
		}
		return true
	})
	return found
}

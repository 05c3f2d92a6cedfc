package conformance

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the golden files anew")

// Golden compares got with what the file holds; go test -update writes the file.
func Golden(tb testing.TB, file, got string) {
	tb.Helper()
	if *update {
		require.NoError(tb, os.WriteFile(file, []byte(got), 0o600))
	}
	want, err := os.ReadFile(file)
	require.NoError(tb, err)
	wanted, had := strings.Split(string(want), "\n"), strings.Split(got, "\n")
	for i := range min(len(wanted), len(had)) {
		require.Equal(tb, wanted[i], had[i], "line %d of %s: if the change is meant, run the package's tests with -update", i+1, file)
	}
	require.Len(tb, had, len(wanted), "lines of %s: if the change is meant, run the package's tests with -update", file)
}

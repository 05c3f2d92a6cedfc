package conformance

import (
	"flag"
	"os"
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
	require.Equal(tb, string(want), got, "if the change to %s is meant, run the package's tests with -update", file)
}

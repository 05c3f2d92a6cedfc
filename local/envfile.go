package local

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

var (
	envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	// plainValue needs no quotes in sh.
	plainValue = regexp.MustCompile(`^[A-Za-z0-9_./:@%+=,-]+$`)
)

// EnvFile is a file of settings, one KEY=VALUE a line, that sh can source and
// that [EnvFile.Read] reads back exactly. A library for .env files was not used:
// their quoting is not sh's ("!" and "$" come out changed), and none replaces the
// file in one step.
type EnvFile string

// Read returns the settings; none where there is no file.
func (f EnvFile) Read() (map[string]string, error) {
	text, err := os.ReadFile(string(f))
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]string{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read settings: %w", err)
	}
	values := map[string]string{}
	for i, line := range strings.Split(string(text), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, quoted, found := strings.Cut(strings.TrimPrefix(line, "export "), "=")
		value, ok := unquote(quoted)
		if !found || !ok || !envName.MatchString(name) {
			return nil, fmt.Errorf("read settings %s: line %d is not KEY=VALUE; mend it or remove the file", f, i+1)
		}
		values[name] = value
	}
	return values, nil
}

// Write replaces the file in one step: readers see the old settings or the new
// ones, never a part. Only the owner can read it, for it holds secrets. A name
// that is no shell variable, and a value with a line break, are refused.
func (f EnvFile) Write(values map[string]string) error {
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if !envName.MatchString(name) || strings.ContainsAny(values[name], "\n\r\x00") {
			return fmt.Errorf("write settings: %q cannot be a line KEY=VALUE", name)
		}
		fmt.Fprintf(&text, "%s=%s\n", name, quote(values[name]))
	}
	if err := replaceFile(string(f), text.String()); err != nil {
		return fmt.Errorf("write settings: %w", err)
	}
	return nil
}

// Secret returns the FANFARE_SECRET that the file holds, or else a new random
// one, which is kept once it is written: links signed before a restart stay good.
func (f EnvFile) Secret() (string, error) {
	values, err := f.Read()
	if err != nil || values["FANFARE_SECRET"] != "" {
		return values["FANFARE_SECRET"], err
	}
	return newSecret(), nil
}

// newSecret is 256 random bits in hexadecimal.
func newSecret() string {
	bits := make([]byte, 32)
	_, _ = rand.Read(bits) // never fails, as crypto/rand documents
	return hex.EncodeToString(bits)
}

// replaceFile writes a temporary file beside path (mode 0600, as CreateTemp makes
// it), brings it to the disk and renames it.
func replaceFile(path, text string) error {
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = file.WriteString(text)
	err = errors.Join(err, file.Sync(), file.Close())
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	return nil
}

func quote(value string) string {
	if plainValue.MatchString(value) {
		return value
	}
	return "'" + strings.ReplaceAll(value, "'", `'\''`) + "'"
}

// unquote reads what quote writes, and the plain and double-quoted values that a
// person may type in; whatever sh would expand is refused rather than guessed.
func unquote(text string) (string, bool) {
	if text == "" || plainValue.MatchString(text) {
		return text, true
	}
	if len(text) < 2 {
		return "", false
	}
	inner := text[1 : len(text)-1]
	switch {
	case text[0] == '\'' && text[len(text)-1] == '\'':
		value := strings.ReplaceAll(inner, `'\''`, "\x00")
		return strings.ReplaceAll(value, "\x00", "'"), !strings.Contains(value, "'")
	case text[0] == '"' && text[len(text)-1] == '"':
		return inner, !strings.ContainsAny(inner, "\"\\$`")
	}
	return "", false
}

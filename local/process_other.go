//go:build unix && !linux

package local

import (
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// dieWithParent does nothing: only Linux offers it. What outlives a kill -9 of its
// parent is found at the next start.
func dieWithParent(*syscall.SysProcAttr, syscall.Signal) {}

// runsOver reports whether process pid is a PostgreSQL server over the data
// folder, by its command line.
func runsOver(pid int, dataDir string) bool {
	line, err := exec.Command("ps", "-ww", "-o", "command=", "-p", strconv.Itoa(pid)).Output()
	return err == nil && strings.Contains(string(line), "-D "+dataDir+" ")
}

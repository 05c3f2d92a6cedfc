package local

import (
	"fmt"
	"os"
	"syscall"
)

// dieWithParent has the kernel send sig to the child when we die, however we die.
func dieWithParent(attr *syscall.SysProcAttr, sig syscall.Signal) { attr.Pdeathsig = sig }

// runsOver reports whether process pid is a PostgreSQL server over the data
// folder: it makes that folder its working folder.
func runsOver(pid int, dataDir string) bool {
	at, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
	return err == nil && at == dataDir
}

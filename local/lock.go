package local

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// ErrInUse says that another process owns the folder.
var ErrInUse = errors.New("is in use")

// Lock is the sole ownership of a folder. It ends with Release or with the
// process, whichever comes first: nothing stale can be left behind.
type Lock struct{ file *os.File }

// LockFolder makes the folder where it does not exist and takes it over for this
// process. A folder owned by another one is ErrInUse, with that one's pid.
func LockFolder(dir string) (*Lock, error) {
	// As root, others need to pass through to what is theirs (PostgreSQL runs as
	// another user); nobody but the owner gets to list it.
	if err := os.MkdirAll(dir, 0o711); err != nil { //nolint:gosec // see above
		return nil, fmt.Errorf("make folder %s: %w", dir, err)
	}
	path := filepath.Join(dir, "lock")
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock folder %s: %w", dir, err)
	}
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		owner, _ := io.ReadAll(io.LimitReader(file, 32))
		_ = file.Close() // nothing was written
		return nil, fmt.Errorf("folder %s %w by process %s; stop it or choose another folder", dir, ErrInUse, strings.TrimSpace(string(owner)))
	}
	if err == nil {
		err = errors.Join(file.Truncate(0), writePID(file))
	}
	if err != nil {
		_ = file.Close() // nothing was written
		return nil, fmt.Errorf("lock folder %s: %w", dir, err)
	}
	return &Lock{file}, nil
}

func writePID(file *os.File) error {
	_, err := fmt.Fprintln(file, os.Getpid())
	return err
}

// Release gives the folder up. It may be repeated.
func (l *Lock) Release() error {
	if err := l.file.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("release lock: %w", err)
	}
	return nil
}

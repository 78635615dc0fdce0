package datadir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// WriteFile makes path hold data with the given mode, whatever umask says.
// After a crash at any moment the file has either its old content or all of
// data; when WriteFile returns, data is on the disk. The folder must exist.
func WriteFile(path string, data []byte, mode os.FileMode) error {
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, "."+filepath.Base(path)+".tmp-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Chmod(mode)
	}
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(tmp.Name()))
	}
	return syncDir(dir)
}

// MkdirAll makes path a folder that belongs to the current user and that grants
// no more than mode. Missing folders are made; those above the last with 0755
// at most. A folder that exists with wider permissions is narrowed; one that
// belongs to somebody else is refused, as are links and files.
func MkdirAll(path string, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make %s: %w", path, err)
	}
	err := os.Mkdir(path, mode)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make %s: %w", path, err)
	}
	st, err := os.Lstat(path)
	if err != nil {
		return fmt.Errorf("make %s: %w", path, err)
	}
	if !st.IsDir() {
		return fmt.Errorf("make %s: it exists and is not a folder", path)
	}
	if err := checkOwner(path, st); err != nil {
		return fmt.Errorf("make %s: %w", path, err)
	}
	if st.Mode().Perm()&^mode != 0 || st.Mode().Perm()&0o700 != mode&0o700 {
		if err := os.Chmod(path, mode); err != nil {
			return fmt.Errorf("make %s: %w", path, err)
		}
	}
	return nil
}

// checkOwner refuses what belongs to another user.
func checkOwner(path string, st fs.FileInfo) error {
	sys, ok := st.Sys().(*syscall.Stat_t)
	if ok && int(sys.Uid) != os.Geteuid() {
		return hinted(fmt.Errorf("%s belongs to user id %d, not to %d", path, sys.Uid, os.Geteuid()),
			fmt.Sprintf("chown -R %d %s, or choose another folder with --data-dir", os.Geteuid(), path))
	}
	return nil
}

// syncDir makes the entries of a folder durable.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync folder %s: %w", path, err)
	}
	return nil
}

// replaceLink makes path a symbolic link to target, atomically and durably.
func replaceLink(path, target string) error {
	if old, err := os.Readlink(path); err == nil && old == target {
		return nil
	}
	tmp := path + ".tmp"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("link %s: %w", path, err)
	}
	if err := os.Symlink(target, tmp); err != nil {
		return fmt.Errorf("link %s: %w", path, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("link %s: %w", path, err)
	}
	return syncDir(filepath.Dir(path))
}

// hintError carries a remedy for the human; cmd prints it.
type hintError struct {
	error
	hint string
}

func hinted(err error, hint string) error { return &hintError{err, hint} }

// Unwrap returns the error without the remedy.
func (e *hintError) Unwrap() error { return e.error }

// Hint returns the remedy.
func (e *hintError) Hint() string { return e.hint }

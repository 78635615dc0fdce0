package datadir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/kelson-io/kelson/core/datadir/payload"
)

// repair makes the damaged tree at dir equal to the whole one at tmp, which it
// consumes. Entries are replaced one by one, each in one rename: programs that
// run from dir keep their files, and a crash leaves a tree that is less damaged
// than before. What does not belong to the tree stays.
func repair(x payload.Index, tmp, dir string) error {
	from, err := os.OpenRoot(tmp)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer to.Close()
	entries, err := x.Entries(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if payload.VerifyEntry(to, e) == nil {
			continue
		}
		if err := repairEntry(tmp, dir, e); err != nil {
			return fmt.Errorf("repair %s: %w", e.Path, err)
		}
	}
	// The list goes last: it must not vouch for a tree that is half repaired.
	if err := repairEntry(tmp, dir, payload.Entry{Path: payload.SumsFile}); err != nil {
		return fmt.Errorf("repair %s: %w", payload.SumsFile, err)
	}
	return errors.Join(syncTree(dir), os.RemoveAll(tmp))
}

func repairEntry(tmp, dir string, e payload.Entry) error {
	good, bad := filepath.Join(tmp, e.Path), filepath.Join(dir, e.Path)
	st, err := os.Lstat(bad)
	if err == nil && st.IsDir() != e.Mode.IsDir() {
		if err := os.RemoveAll(bad); err != nil {
			return err
		}
	}
	if !e.Mode.IsDir() {
		return os.Rename(good, bad)
	}
	if err := os.Mkdir(bad, e.Mode.Perm()); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return os.Chmod(bad, e.Mode.Perm())
}

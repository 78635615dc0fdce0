package datadir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Check reports why a server could not use the data dir at root, without
// changing anything: it must be a folder, or creatable, of the current user,
// writable by nobody else, on a file system that can be written and has need
// bytes free. Errors carry a remedy.
func Check(root string, need int64) error {
	const other = "or choose another folder with --data-dir"
	st, err := os.Stat(root)
	at := root
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if at, err = existing(filepath.Dir(root)); err != nil {
			return fmt.Errorf("data dir %s: %w", root, err)
		}
	case err != nil:
		return hinted(fmt.Errorf("data dir %s: %w", root, err), "make the path accessible, "+other)
	case !st.IsDir():
		return hinted(fmt.Errorf("data dir %s: it is not a folder", root), "remove the file, "+other)
	default:
		if err := checkOwner(root, st); err != nil {
			return fmt.Errorf("data dir: %w", err)
		}
		if st.Mode().Perm()&0o022 != 0 {
			return hinted(fmt.Errorf("data dir %s: its mode %04o lets other users write to it", root, st.Mode().Perm()),
				"chmod go-w "+root+", "+other)
		}
	}
	if err := unix.Access(at, unix.W_OK|unix.X_OK); err != nil {
		return hinted(fmt.Errorf("data dir %s: %s is not writable: %w", root, at, err),
			"remount or chmod it, run as its owner, "+other)
	}
	return checkSpace(root, at, need)
}

// existing returns the nearest folder above path that exists.
func existing(path string) (string, error) {
	for {
		st, err := os.Stat(path)
		switch {
		case err == nil && st.IsDir():
			return path, nil
		case err == nil:
			return "", hinted(fmt.Errorf("%s is not a folder", path), "choose another folder with --data-dir")
		case !errors.Is(err, fs.ErrNotExist) || path == filepath.Dir(path):
			return "", err
		}
		path = filepath.Dir(path)
	}
}

func checkSpace(root, at string, need int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(at, &st); err != nil {
		return fmt.Errorf("data dir %s: free space: %w", root, err)
	}
	free := int64(st.Bavail) * st.Bsize
	if free < need {
		return hinted(fmt.Errorf("data dir %s: %d MiB are free on its file system, %d MiB are needed", root, free>>20, (need+1<<20-1)>>20),
			"free space there, or choose a folder on another file system with --data-dir")
	}
	return nil
}

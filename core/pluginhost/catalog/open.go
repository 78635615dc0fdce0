package catalog

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/kelson-io/kelson/core/pluginhost/program"
)

// Open opens a program's executable and verifies it: a regular file that only
// root (or this user) can change, in folders for which the same holds, with the
// digest that p names. What is returned is the descriptor that was hashed, at
// its start, to be executed whatever happens to the path meanwhile.
func Open(p program.Program) (*os.File, error) {
	f, sum, err := openHashed(p.Path)
	if err != nil {
		return nil, withPlugin(err, p.String())
	}
	if sum != p.SHA256 {
		_ = f.Close()
		return nil, &Refused{Plugin: p.String(), Step: "digest", File: p.Path, Expected: "SHA-256 " + p.SHA256, Found: sum, Remedy: reinstall(p.Kind, p.Name)}
	}
	return f, nil
}

func reinstall(kind, name string) string {
	return fmt.Sprintf("find out who changed the file, then install the plugin again, or remove it with 'kelson plugin remove %s/%s'", kind, name)
}

// withPlugin puts the plugin's name into a refusal that does not know it.
func withPlugin(err error, name string) error {
	if r, ok := errors.AsType[*Refused](err); ok && r.Plugin == "" {
		r.Plugin = name
	}
	return err
}

// openHashed opens a file that only root or this user can change, and hashes it.
func openHashed(path string) (*os.File, string, error) {
	f, err := openOwned(path)
	if err != nil {
		return nil, "", err
	}
	sum, err := digest(f)
	if err != nil {
		return nil, "", errors.Join(err, f.Close())
	}
	return f, sum, nil
}

// openOwned opens a file that only root or this user can change.
func openOwned(path string) (*os.File, error) {
	dir, err := ownedFolder(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	path = filepath.Join(dir, filepath.Base(path))
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, unix.ELOOP):
		return nil, &Refused{Step: "permission", File: path, Expected: "a regular file", Found: "a symbolic link", Remedy: "put the file itself there"}
	case err != nil:
		return nil, &Refused{Step: "open", File: path, Err: err, Remedy: "install the plugin again"}
	}
	f := os.NewFile(uintptr(fd), path)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, errors.Join(fmt.Errorf("stat %s: %w", path, err), f.Close())
	}
	if err := owned(path, st, unix.S_IFREG); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// digest hashes what f holds and goes back to its start.
func digest(f *os.File) (string, error) {
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read %s: %w", f.Name(), err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", fmt.Errorf("read %s: %w", f.Name(), err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// ownedFolder returns the folder without symbolic links, when nobody but root
// and this user can change what a path through it means.
func ownedFolder(dir string) (string, error) {
	resolved, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", &Refused{Step: "open", File: dir, Err: err, Remedy: "install the plugin again"}
	}
	for at := resolved; ; at = filepath.Dir(at) {
		var st unix.Stat_t
		if err := unix.Lstat(at, &st); err != nil {
			return "", fmt.Errorf("stat %s: %w", at, err)
		}
		if err := owned(at, st, unix.S_IFDIR); err != nil {
			return "", err
		}
		if at == filepath.Dir(at) {
			return resolved, nil
		}
	}
}

// owned refuses what others could change. In a sticky folder, like /tmp, they
// cannot replace what is not theirs.
func owned(path string, st unix.Stat_t, kind uint32) error {
	e := &Refused{Step: "permission", File: path}
	switch me := uint32(os.Geteuid()); {
	case st.Mode&unix.S_IFMT != kind:
		e.Expected, e.Found, e.Remedy = "a regular file", "something else", "install the plugin again"
	case st.Uid != 0 && st.Uid != me:
		e.Expected, e.Found, e.Remedy = "owner root", fmt.Sprintf("user id %d", st.Uid), "chown root "+path
	case st.Mode&0o022 != 0 && (kind != unix.S_IFDIR || st.Mode&unix.S_ISVTX == 0):
		e.Expected, e.Found, e.Remedy = "a mode that lets only its owner write", fmt.Sprintf("%04o", st.Mode&0o7777), "chmod go-w "+path
	default:
		return nil
	}
	return e
}

package runner

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/pluginhost/program"
)

// Binary is a plugin's executable, opened and verified. What Launch executes is
// this descriptor, whatever happens to the path meanwhile.
type Binary struct {
	file   *os.File
	script bool
}

// Open opens the executable of a program and compares it with its digest. It
// refuses links, files that others than root and this user could change, and
// files that cannot be executed.
func Open(p program.Program) (*Binary, error) {
	fd, err := unix.Open(p.Path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, config.Hinted(fmt.Errorf("verify %s: it is a symbolic link", p.Path), "put the file itself into the plugin's folder")
	}
	if err != nil {
		return nil, config.Hinted(fmt.Errorf("verify %s: %w", p.Path, err), "install the plugin again")
	}
	f := os.NewFile(uintptr(fd), p.Path)
	b, err := verify(f, p)
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return b, nil
}

// Close releases the file.
func (b *Binary) Close() error { return b.file.Close() }

func verify(f *os.File, p program.Program) (*Binary, error) {
	if err := executable(f); err != nil {
		return nil, err
	}
	found, err := digest(f)
	if err != nil {
		return nil, fmt.Errorf("verify %s: %w", p.Path, err)
	}
	if !strings.EqualFold(found, p.SHA256) {
		return nil, config.Hinted(fmt.Errorf("verify %s: its SHA-256 is %s, expected is %s", p.Path, found, p.SHA256),
			"the file is not the one that was installed: find out who changed it, then install the plugin again")
	}
	magic := make([]byte, 2)
	if _, err := f.ReadAt(magic, 0); err != nil {
		return nil, fmt.Errorf("verify %s: %w", p.Path, err)
	}
	return &Binary{file: f, script: string(magic) == "#!"}, nil
}

func executable(f *os.File) error {
	var st unix.Stat_t
	var fs unix.Statfs_t
	if err := errors.Join(unix.Fstat(int(f.Fd()), &st), unix.Fstatfs(int(f.Fd()), &fs)); err != nil {
		return fmt.Errorf("verify %s: %w", f.Name(), err)
	}
	refuse := func(hint, format string, args ...any) error {
		return config.Hinted(fmt.Errorf("verify %s: %s", f.Name(), fmt.Sprintf(format, args...)), hint)
	}
	switch me := uint32(os.Geteuid()); {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return refuse("install the plugin again", "it is no regular file")
	case st.Uid != 0 && st.Uid != me:
		return refuse("chown root "+f.Name(), "it belongs to user id %d, expected is 0 or %d", st.Uid, me)
	case st.Mode&0o022 != 0:
		return refuse("chmod go-w "+f.Name(), "its mode is %#o: others than its owner may change it", st.Mode&0o7777)
	case st.Mode&0o111 == 0:
		return refuse("chmod 0755 "+f.Name(), "its mode is %#o: it may not be executed", st.Mode&0o7777)
	case fs.Flags&unix.ST_NOEXEC != 0:
		return refuse("mount the data dir without noexec, or choose another one with --data-dir", "its file system is mounted noexec")
	}
	return nil
}

func digest(r io.ReaderAt) (string, error) {
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(r, 0, 1<<62)); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

package payload

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// maxSums bounds the list of checksums, which is held in memory.
const maxSums = 4 << 20

// Unpack writes the tree into the empty folder at dir and verifies it: each
// entry must be as the list of checksums says, the list as the index says, and
// nothing may be missing or surplus. The data is on its way to the disk when
// Unpack returns, but not yet durable. After an error dir holds rubbish.
func (p *File) Unpack(ctx context.Context, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	defer root.Close()
	ctx, cancel := context.WithCancel(ctx)
	stream := newStream(ctx, p)
	back := newWriteback()
	u := &unpacker{root: root, back: back, buf: make([]byte, 1<<20)}
	err = u.all(tar.NewReader(stream), p.Sums)
	// The end of the tar is not the end of the stream: what follows is checked too.
	if err == nil {
		_, err = io.Copy(io.Discard, stream)
	}
	cancel()
	stream.wait()
	back.close()
	return err
}

// unpacker writes one tree.
type unpacker struct {
	root *os.Root
	back *writeback
	buf  []byte
	want map[string]Entry // what the list says and has not come yet
}

func (u *unpacker) all(t *tar.Reader, sums string) error {
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("unpack: %w", err)
		}
		name := strings.TrimSuffix(h.Name, "/")
		if u.want == nil {
			err = u.sums(t, h, sums)
		} else {
			err = u.entry(t, h, name)
		}
		if err != nil {
			return fmt.Errorf("unpack %s: %w", name, err)
		}
	}
	for name := range u.want {
		return fmt.Errorf("unpack: %s is missing", name)
	}
	return nil
}

// sums reads the list of checksums, which comes first.
func (u *unpacker) sums(t io.Reader, h *tar.Header, want string) error {
	if h.Name != SumsFile || h.Size > maxSums {
		return errors.New("the payload does not begin with its checksums")
	}
	data, err := io.ReadAll(t)
	if err != nil {
		return err
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != want {
		return errors.New("the list of checksums is damaged")
	}
	entries, err := ParseSums(data)
	if err != nil {
		return err
	}
	u.want = map[string]Entry{}
	for _, e := range entries {
		u.want[e.Path] = e
	}
	return u.root.WriteFile(SumsFile, data, 0o644)
}

func (u *unpacker) entry(t io.Reader, h *tar.Header, name string) error {
	e, ok := u.want[name]
	if !ok {
		return errors.New("it is not in the list of checksums")
	}
	delete(u.want, name)
	mode := fs.FileMode(h.Mode).Perm()
	switch {
	case h.Typeflag == tar.TypeDir && e.Mode == mode|fs.ModeDir:
		if err := u.root.Mkdir(name, mode); err != nil {
			return err
		}
		return u.root.Chmod(name, mode)
	case h.Typeflag == tar.TypeSymlink && e.Mode.Type() == fs.ModeSymlink && h.Linkname == e.Link:
		return u.root.Symlink(e.Link, name)
	case h.Typeflag == tar.TypeReg && e.Mode == mode:
		return u.file(t, name, e)
	}
	return errors.New("its kind or mode differ from the list of checksums")
}

func (u *unpacker) file(t io.Reader, name string, e Entry) error {
	f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, e.Mode)
	if err != nil {
		return err
	}
	sum, err := u.copy(f, t)
	if err == nil {
		err = f.Chmod(e.Mode)
	}
	if err == nil && sum != e.Sum {
		err = fmt.Errorf("its SHA-256 is %s, not %s", sum, e.Sum)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	u.back.done(f)
	return nil
}

// copy writes the rest of t to f and returns its checksum. What has been
// written is sent to the disk in pieces, while the next ones are decoded.
func (u *unpacker) copy(f *os.File, t io.Reader) (string, error) {
	h := sha256.New()
	var at, sent int64
	for {
		n, err := t.Read(u.buf)
		if n > 0 {
			h.Write(u.buf[:n])
			if _, err := f.Write(u.buf[:n]); err != nil {
				return "", err
			}
			if at += int64(n); at-sent >= 16<<20 {
				u.back.start(f, sent, at-sent)
				sent = at
			}
		}
		if err == io.EOF {
			return hex.EncodeToString(h.Sum(nil)), nil
		}
		if err != nil {
			return "", err
		}
	}
}

// writeback starts the transfer of written data to the disk early, so that the
// sync at the end finds little left to do. It is advice: errors surface there.
type writeback struct {
	jobs chan flush
	end  chan struct{}
}

type flush struct {
	f       *os.File
	at, len int64 // len 0: to the end, then close
}

func newWriteback() *writeback {
	w := &writeback{jobs: make(chan flush, 4096), end: make(chan struct{})}
	go func() {
		defer close(w.end)
		for j := range w.jobs {
			_ = unix.SyncFileRange(int(j.f.Fd()), j.at, j.len, unix.SYNC_FILE_RANGE_WRITE)
			if j.len == 0 {
				_ = j.f.Close() // written without buffering of its own
			}
		}
	}()
	return w
}

func (w *writeback) start(f *os.File, at, n int64) { w.jobs <- flush{f, at, n} }
func (w *writeback) done(f *os.File)               { w.jobs <- flush{f: f} }

func (w *writeback) close() {
	close(w.jobs)
	<-w.end
}

package payload

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
)

// Check compares kind, mode, size and link target of each entry of an unpacked
// tree with the list of checksums, which must be that of the index. It reads no
// file's content, so that it can precede every start.
func (x Index) Check(dir string) error {
	return x.compare(dir, "check", checkEntry)
}

// Verify is Check, and compares the content of each file too.
func (x Index) Verify(dir string) error {
	return x.compare(dir, "verify", VerifyEntry)
}

func (x Index) compare(dir, op string, same func(*os.Root, Entry) error) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	defer root.Close()
	entries, err := x.Entries(root)
	if err != nil {
		return fmt.Errorf("%s %s: %w", op, dir, err)
	}
	for _, e := range entries {
		if err := same(root, e); err != nil {
			return fmt.Errorf("%s %s: %w", op, path.Join(dir, e.Path), err)
		}
	}
	return nil
}

// Entries reads the list of checksums of an unpacked tree; it must be that of
// the index.
func (x Index) Entries(root *os.Root) ([]Entry, error) {
	data, err := root.ReadFile(SumsFile)
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != x.Sums {
		return nil, errors.New("the list of checksums is damaged")
	}
	return ParseSums(data)
}

// checkEntry asks the kernel directly: a walk of each path by os.Root would
// double the time of a start.
func checkEntry(root *os.Root, e Entry) error {
	st, err := os.Lstat(path.Join(root.Name(), e.Path))
	if err != nil {
		return err
	}
	if st.Mode() != e.Mode {
		return fmt.Errorf("its mode is %s, not %s", st.Mode(), e.Mode)
	}
	if e.Mode.IsRegular() && st.Size() != e.Size {
		return fmt.Errorf("its size is %d, not %d", st.Size(), e.Size)
	}
	if e.Link != "" {
		if to, err := os.Readlink(path.Join(root.Name(), e.Path)); err != nil || to != e.Link {
			return errors.Join(fmt.Errorf("it links to %q, not %q", to, e.Link), err)
		}
	}
	return nil
}

// VerifyEntry compares one entry of the tree at root, content included.
func VerifyEntry(root *os.Root, e Entry) error {
	if err := checkEntry(root, e); err != nil || e.Sum == "" {
		return err
	}
	f, err := root.Open(e.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return err
	}
	if sum := hex.EncodeToString(h.Sum(nil)); sum != e.Sum {
		return fmt.Errorf("its SHA-256 is %s, not %s", sum, e.Sum)
	}
	return nil
}

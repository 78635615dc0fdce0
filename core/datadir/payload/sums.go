package payload

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Entry is one path of the payload tree.
type Entry struct {
	Path string      // slash-separated, relative, clean
	Mode fs.FileMode // type bits and permissions
	Size int64       // regular files
	Sum  string      // regular files: SHA-256, lower-case hex
	Link string      // symbolic links: the target, relative
}

// EncodeSums renders a tree's list of checksums. Each line is one of
//
//	f <mode> <size> <sha256> <path>
//	d <mode> - - <path>
//	l - - <target> <path>
//
// sorted by path, so that equal trees have equal lists. Paths and targets
// contain neither spaces nor line breaks.
func EncodeSums(entries []Entry) []byte {
	sorted := slices.SortedFunc(slices.Values(entries), func(a, b Entry) int { return strings.Compare(a.Path, b.Path) })
	var b bytes.Buffer
	for _, e := range sorted {
		switch {
		case e.Mode.IsDir():
			fmt.Fprintf(&b, "d %04o - - %s\n", e.Mode.Perm(), e.Path)
		case e.Mode.Type() == fs.ModeSymlink:
			fmt.Fprintf(&b, "l - - %s %s\n", e.Link, e.Path)
		default:
			fmt.Fprintf(&b, "f %04o %d %s %s\n", e.Mode.Perm(), e.Size, e.Sum, e.Path)
		}
	}
	return b.Bytes()
}

// ParseSums is the inverse of [EncodeSums]. It refuses paths and link targets
// that leave the tree, and lists that are not sorted or name a path twice.
func ParseSums(data []byte) ([]Entry, error) {
	var out []Entry
	for i, line := range strings.Split(strings.TrimSuffix(string(data), "\n"), "\n") {
		e, err := parseLine(line)
		if err != nil {
			return nil, fmt.Errorf("sums line %d: %w", i+1, err)
		}
		if len(out) > 0 && out[len(out)-1].Path >= e.Path {
			return nil, fmt.Errorf("sums line %d: %s is out of order", i+1, e.Path)
		}
		out = append(out, e)
	}
	return out, nil
}

func parseLine(line string) (Entry, error) {
	f := strings.Split(line, " ")
	if len(f) != 5 {
		return Entry{}, fmt.Errorf("%q has %d fields, not 5", line, len(f))
	}
	e := Entry{Path: f[4]}
	if !fs.ValidPath(e.Path) || e.Path == "." {
		return Entry{}, fmt.Errorf("path %q leaves the tree", e.Path)
	}
	if f[0] == "l" {
		e.Mode, e.Link = fs.ModeSymlink|0o777, f[3]
		if to := path.Join(path.Dir(e.Path), e.Link); e.Link == "" || path.IsAbs(e.Link) || !fs.ValidPath(to) {
			return Entry{}, fmt.Errorf("link %s → %q leaves the tree", e.Path, e.Link)
		}
		return e, nil
	}
	mode, err := strconv.ParseUint(f[1], 8, 9)
	if err != nil {
		return Entry{}, fmt.Errorf("mode of %s: %w", e.Path, err)
	}
	e.Mode = fs.FileMode(mode)
	switch f[0] {
	case "d":
		e.Mode |= fs.ModeDir
	case "f":
		if b, err := hex.DecodeString(f[3]); err != nil || len(b) != 32 {
			return Entry{}, fmt.Errorf("checksum of %s: %q is not a SHA-256", e.Path, f[3])
		}
		size, err := strconv.ParseInt(f[2], 10, 64)
		if err != nil || size < 0 {
			return Entry{}, fmt.Errorf("size of %s: %q is not a number of bytes", e.Path, f[2])
		}
		e.Sum, e.Size = f[3], size
	default:
		return Entry{}, fmt.Errorf("unknown kind %q of %s", f[0], e.Path)
	}
	return e, nil
}

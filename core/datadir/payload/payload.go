// Package payload is the format in which the launcher carries the compressed
// payload behind its own ELF image:
//
//	[ELF][zstd frame]…[zstd frame][index, JSON][index length, 8 bytes LE][magic, 8 bytes]
//
// The frames are independent, so they are decoded on all cores; joined they
// are one valid .tar.zst of the payload tree. Nothing is read but the index
// until the payload must be extracted, so it costs no resident memory.
//
// Invariants: the frames are contiguous and in the order of the tar stream;
// Index.SHA256 names the content and hence the version's folder; Index.Sums
// pins the tree's own list of checksums.
//
// A File may be used by several goroutines at once.
package payload

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

const (
	magic = "KELSONP1"
	// footerLen is the length of what follows the index.
	footerLen = 8 + int64(len(magic))
	maxIndex  = 1 << 20
	maxFrame  = 256 << 20
	// SumsFile lists every file, link and folder of the tree; see [ParseSums].
	SumsFile = "sums"
)

// ErrNone says that a file carries no payload.
var ErrNone = errors.New("the file carries no payload")

// Frame is one independently compressed piece of the tar stream.
type Frame struct {
	Length int64 `json:"length"` // compressed
	Size   int64 `json:"size"`   // uncompressed
}

// Index describes an appended payload.
type Index struct {
	SHA256 string  `json:"sha256"` // of the uncompressed tar, lower-case hex
	Sums   string  `json:"sums"`   // SHA-256 of the tree's sums file
	Size   int64   `json:"size"`   // uncompressed
	Frames []Frame `json:"frames"`
}

// Length is the compressed size of all frames.
func (x Index) Length() int64 {
	var n int64
	for _, f := range x.Frames {
		n += f.Length
	}
	return n
}

// Validate reports whether the index is coherent. It does not look at frames.
func (x Index) Validate() error {
	for _, h := range []string{x.SHA256, x.Sums} {
		if b, err := hex.DecodeString(h); err != nil || len(b) != 32 || hex.EncodeToString(b) != h {
			return fmt.Errorf("payload index: %q is not a SHA-256", h)
		}
	}
	var size int64
	for i, f := range x.Frames {
		if f.Length <= 0 || f.Size <= 0 || f.Length > maxFrame || f.Size > maxFrame {
			return fmt.Errorf("payload index: frame %d has impossible sizes %d, %d", i, f.Length, f.Size)
		}
		size += f.Size
	}
	if size != x.Size {
		return fmt.Errorf("payload index: frames add up to %d bytes, not %d", size, x.Size)
	}
	return nil
}

// AppendIndex writes the index and the footer. The frames that it describes
// must be the last thing written before it.
func AppendIndex(w io.Writer, x Index) error {
	if err := x.Validate(); err != nil {
		return err
	}
	b, err := json.Marshal(x)
	if err != nil {
		return fmt.Errorf("encode payload index: %w", err)
	}
	length := uint64(len(b))
	b = binary.LittleEndian.AppendUint64(b, length)
	b = append(b, magic...)
	if _, err := w.Write(b); err != nil {
		return fmt.Errorf("write payload index: %w", err)
	}
	return nil
}

// File is an opened payload.
type File struct {
	Index
	path    string
	r       io.ReaderAt
	closer  io.Closer
	offsets []int64 // of each frame in r
}

// Open opens the payload appended to the file at path; [ErrNone] if there is
// none. The caller closes it.
func Open(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open payload: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open payload: %w", err)
	}
	p, err := Read(f, st.Size())
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open payload %s: %w", path, err)
	}
	p.path, p.closer = path, f
	return p, nil
}

// Read reads the index of a payload that ends at size.
func Read(r io.ReaderAt, size int64) (*File, error) {
	if size < footerLen {
		return nil, ErrNone
	}
	foot := make([]byte, footerLen)
	if _, err := r.ReadAt(foot, size-footerLen); err != nil {
		return nil, fmt.Errorf("read footer: %w", err)
	}
	if string(foot[8:]) != magic {
		return nil, ErrNone
	}
	n := binary.LittleEndian.Uint64(foot)
	if n > maxIndex || int64(n) > size-footerLen {
		return nil, fmt.Errorf("payload index of %d bytes is impossible", n)
	}
	start := size - footerLen - int64(n)
	raw := make([]byte, n)
	if _, err := r.ReadAt(raw, start); err != nil {
		return nil, fmt.Errorf("read payload index: %w", err)
	}
	p := &File{r: r}
	if err := json.Unmarshal(raw, &p.Index); err != nil {
		return nil, fmt.Errorf("read payload index: %w", err)
	}
	if err := p.Validate(); err != nil {
		return nil, err
	}
	off := start - p.Length()
	if off < 0 {
		return nil, fmt.Errorf("payload index: frames of %d bytes do not fit before it", p.Length())
	}
	for _, f := range p.Frames {
		p.offsets = append(p.offsets, off)
		off += f.Length
	}
	return p, nil
}

// Close closes the underlying file, if [Open] opened it.
func (p *File) Close() error {
	if p.closer == nil {
		return nil
	}
	return p.closer.Close()
}

// readFrame reads the compressed bytes of frame i into buf, growing it.
func (p *File) readFrame(i int, buf []byte) ([]byte, error) {
	n := p.Frames[i].Length
	if int64(cap(buf)) < n {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	if _, err := p.r.ReadAt(buf, p.offsets[i]); err != nil {
		return nil, fmt.Errorf("read payload frame %d: %w", i, err)
	}
	return buf, nil
}

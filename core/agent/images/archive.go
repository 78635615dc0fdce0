package images

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// extensions that an archive may have.
func isArchive(name string) bool {
	name = filepath.Base(name)
	return !strings.HasPrefix(name, ".") &&
		slices.ContainsFunc([]string{".tar", ".tar.gz", ".tgz", ".tar.zst"}, func(ext string) bool { return strings.HasSuffix(name, ext) })
}

// archivesIn lists the archives of a folder, the pause image first: nothing
// runs before it.
func archivesIn(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []string
	for _, entry := range entries {
		if isArchive(entry.Name()) && !entry.IsDir() {
			out = append(out, filepath.Join(dir, entry.Name()))
		}
	}
	slices.SortStableFunc(out, func(a, b string) int { return pauseRank(a) - pauseRank(b) })
	return out, nil
}

func pauseRank(path string) int {
	if strings.HasPrefix(filepath.Base(path), "pause") {
		return 0
	}
	return 1
}

// openArchive returns the uncompressed tar stream of a file, told by its first
// bytes rather than its name.
func openArchive(path string) (io.ReadCloser, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	buffered := bufio.NewReaderSize(file, 1<<20)
	magic, err := buffered.Peek(4)
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	switch {
	case magic[0] == 0x1f && magic[1] == 0x8b:
		stream, err := gzip.NewReader(buffered)
		if err != nil {
			_ = file.Close()
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		return stack{stream, []io.Closer{stream, file}}, nil
	case string(magic) == "\x28\xb5\x2f\xfd":
		stream, err := zstd.NewReader(buffered)
		if err != nil {
			_ = file.Close()
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		return stack{stream, []io.Closer{stream.IOReadCloser(), file}}, nil
	}
	return stack{buffered, []io.Closer{file}}, nil
}

// stack is a reader over others that are closed with it.
type stack struct {
	io.Reader
	closers []io.Closer
}

func (s stack) Close() error {
	var first error
	for _, c := range s.closers {
		if err := c.Close(); err != nil && first == nil {
			first = err
		}
	}
	return first
}

func digestFile(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

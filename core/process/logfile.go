package process

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
)

const (
	tailBytes = 4 << 10
	tailLines = 3
)

// logFile is the output of a child, which the child itself appends to. The zero
// path means none.
type logFile struct {
	path    string
	max     int64
	backups int
	began   atomic.Int64 // size when the present run began; only its output is the tail's
}

// output is an open log file, or nothing.
type output struct{ *os.File }

func (o output) Close() {
	if o.File != nil {
		_ = o.File.Close() // the child has its own descriptor
	}
}

// open rotates if due and opens the file for the next run.
func (l *logFile) open() (output, error) {
	if l.path == "" {
		return output{}, nil
	}
	if err := os.MkdirAll(filepath.Dir(l.path), 0o700); err != nil {
		return output{}, fmt.Errorf("make log folder: %w", err)
	}
	if err := l.rotate(); err != nil {
		return output{}, err
	}
	// Append mode, so that the child goes on at the start after a truncation.
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return output{}, fmt.Errorf("open log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return output{}, fmt.Errorf("open log: %w", err)
	}
	l.began.Store(info.Size())
	return output{f}, nil
}

// rotate copies the file away and truncates it once it is larger than allowed.
func (l *logFile) rotate() error {
	if l.path == "" {
		return nil
	}
	info, err := os.Stat(l.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("rotate log: %w", err)
	}
	if info.Size() <= l.max {
		return nil
	}
	for i := l.backups; i > 1; i-- {
		err := os.Rename(l.backup(i-1), l.backup(i))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("rotate log: %w", err)
		}
	}
	if err := copyTruncate(l.path, l.backup(1)); err != nil {
		return fmt.Errorf("rotate log: %w", err)
	}
	l.began.Store(0)
	return nil
}

func (l *logFile) backup(i int) string { return fmt.Sprintf("%s.%d", l.path, i) }

// copyTruncate copies until the end is reached and truncates at once.
func copyTruncate(from, to string) (err error) {
	src, err := os.OpenFile(from, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err = io.Copy(dst, src); err == nil {
		err = src.Truncate(0)
	}
	return errors.Join(err, dst.Close())
}

// last returns the last lines of the present run, joined by " | ".
func (l *logFile) last() string {
	lines := strings.Split(strings.TrimSpace(l.tail(tailBytes)), "\n")
	return strings.Join(lines[max(0, len(lines)-tailLines):], " | ")
}

// tail returns the last bytes of the present run, as far as they can be read.
func (l *logFile) tail(limit int64) string {
	if l.path == "" {
		return ""
	}
	f, err := os.Open(l.path)
	if err != nil {
		return ""
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return ""
	}
	data, err := io.ReadAll(io.NewSectionReader(f, max(l.began.Load(), info.Size()-limit, 0), limit))
	if err != nil {
		return ""
	}
	return string(data)
}

package runner

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/kelson-io/kelson/core/datadir"
)

// maxLog is the size beyond which the log of a running plugin is moved away.
const maxLog = 16 << 20

// openLog moves an earlier run's log away and opens a new one.
func openLog(path string) (*os.File, error) {
	if err := makeDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	if err := os.Rename(path, path+".1"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("rotate log: %w", err)
	}
	// Append mode, so that the plugin goes on at the start after a truncation.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return f, nil
}

// shrinkLog copies the end of a log that has grown too large away and empties it.
func shrinkLog(path string) (err error) {
	info, err := os.Lstat(path)
	if err != nil || info.Size() <= maxLog {
		return nil
	}
	src, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("rotate log: %w", err)
	}
	defer src.Close()
	dst, err := os.OpenFile(path+".1", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("rotate log: %w", err)
	}
	_, err = io.Copy(dst, io.NewSectionReader(src, info.Size()-maxLog, maxLog))
	if err == nil {
		err = src.Truncate(0)
	}
	if err = errors.Join(err, dst.Close()); err != nil {
		return fmt.Errorf("rotate log: %w", err)
	}
	return nil
}

// lastLines returns the last n lines of a log.
func lastLines(path string, n int, redact redactor) []string {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil
	}
	raw, err := io.ReadAll(io.NewSectionReader(f, max(info.Size()-maxRing, 0), maxRing))
	if err != nil || len(raw) == 0 {
		return nil
	}
	lines := strings.Split(strings.TrimRight(redact.replace(string(raw)), "\n"), "\n")
	return lines[max(0, len(lines)-n):]
}

func makeDir(path string) error { return datadir.MkdirAll(path, 0o700) }

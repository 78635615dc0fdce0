package podnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Tools runs userspace programs such as nft from one search path, with no other
// environment than that path. The zero value finds nothing.
type Tools struct {
	Path string // as in $PATH
}

// Find returns the path of a program, or "" if the search path has none.
func (t Tools) Find(name string) string {
	for dir := range strings.SplitSeq(t.Path, ":") {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path
		}
	}
	return ""
}

// Run runs a program with stdin and returns its standard output; the error
// carries the last line of its standard error.
func (t Tools) Run(ctx context.Context, stdin, name string, args ...string) (string, error) {
	path := t.Find(name)
	if path == "" {
		return "", fmt.Errorf("%s: %w in %s", name, exec.ErrNotFound, t.Path)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{"PATH=" + t.Path}
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = errors.Join(err, context.Cause(ctx))
		}
		return stdout.String(), fmt.Errorf("%s %s: %w%s", name, strings.Join(args, " "), err, lastLine(stderr.String()))
	}
	return stdout.String(), nil
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	if s == "" {
		return ""
	}
	return ": " + s[strings.LastIndexByte(s, '\n')+1:]
}

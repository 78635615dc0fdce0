package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Tools runs the userspace programs of a node (nft, iptables, modprobe, …)
// from one search path. The zero value finds nothing.
type Tools struct {
	Path string // as in $PATH
}

// SearchPath composes the path that every child of the node gets: the payload's
// own programs, then the host's, then the bundled fallbacks; with preferBundled
// the fallbacks come before the host's. base is the host's $PATH.
func SearchPath(bin, base string, preferBundled bool) string {
	if base == "" {
		base = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	aux := filepath.Join(bin, "aux")
	rest := []string{bin}
	host := strings.Split(base, ":")
	if preferBundled {
		rest = append(append(rest, aux), host...)
	} else {
		rest = append(append(rest, host...), aux)
	}
	var out []string
	for _, dir := range rest {
		if dir != "" && !slices.Contains(out, dir) {
			out = append(out, dir)
		}
	}
	return strings.Join(out, ":")
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
		return "", fmt.Errorf("%s: %w", name, exec.ErrNotFound)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "PATH="+t.Path)
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

package catalog

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kelson-io/kelson/sdk/manifest"
)

const (
	// probeTime bounds one run of a plugin's program while it is looked at.
	probeTime = 10 * time.Second
	maxAnswer = 4 << 20
	nobody    = 65534

	cookie = "KELSON_PLUGIN=kelson.plugin.v1"
)

// description is what `PROGRAM describe` prints.
type description struct {
	Kind         string          `json:"kind"`
	Name         string          `json:"name"`
	Version      string          `json:"version"`
	Summary      string          `json:"summary"`
	Protocols    []uint32        `json:"protocols"`
	Capabilities []string        `json:"capabilities"`
	ConfigSchema json.RawMessage `json:"configSchema"`
}

// describe runs `PROGRAM describe` and compares the answer with the manifest.
// The program runs as nobody, without network where the kernel allows, with
// nothing of the host's environment.
func describe(ctx context.Context, f *os.File, m manifest.Manifest) error {
	out, err := answer(ctx, f, append(slices.Clone(m.Args), "describe"))
	e := &Refused{Step: "describe", File: f.Name()}
	if err != nil {
		e.Err, e.Remedy = err, "run it by hand with the argument describe; ask the plugin's author"
		return e
	}
	var d description
	if err := json.Unmarshal(out, &d); err != nil {
		e.Expected, e.Found, e.Remedy = "a JSON object", fmt.Sprintf("%.60q: %v", out, err), "the program must print what it is: use the SDK's serve.Main, or print it yourself"
		return e
	}
	e.Remedy = "the manifest and the program must agree: build both anew, write the manifest with 'PROGRAM manifest'"
	for _, pair := range []struct {
		what        string
		want, found any
	}{
		{"kind", m.Kind, d.Kind},
		{"name", m.Name, d.Name},
		{"version", m.Version, d.Version},
		{"protocols", sorted(m.Protocols), sorted(d.Protocols)},
		{"capabilities", sorted(m.Capabilities), sorted(d.Capabilities)},
	} {
		bundled := m.APIVersion == "" // the catalog does not name its capabilities
		if bundled && pair.what == "capabilities" {
			continue
		}
		if !reflect.DeepEqual(pair.want, pair.found) {
			e.Expected, e.Found = fmt.Sprintf("%s %v by the manifest", pair.what, pair.want), fmt.Sprint(pair.found)
			return e
		}
	}
	if len(d.ConfigSchema) > 0 && len(m.ConfigSchema) > 0 && !sameJSON(d.ConfigSchema, m.ConfigSchema) {
		e.Expected, e.Found = "the configSchema of the manifest", "another one"
		return e
	}
	return nil
}

func sorted[T uint32 | string](list []T) []T {
	out := append([]T{}, list...)
	slices.Sort(out)
	return out
}

func sameJSON(a, b []byte) bool {
	var x, y any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}

// command executes the opened file, not its path.
func command(ctx context.Context, f *os.File, args, env []string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/proc/self/fd/3", args...)
	cmd.Args[0] = filepath.Base(f.Name())
	cmd.ExtraFiles = []*os.File{f}
	cmd.Dir = "/"
	cmd.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	return cmd
}

// answer is what the program prints, run without privileges.
func answer(ctx context.Context, f *os.File, args []string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	runtime.LockOSThread() // the death signal is for the thread that forks
	defer runtime.UnlockOSThread()
	for _, apart := range []uintptr{unix.CLONE_NEWNET | unix.CLONE_NEWIPC, 0} {
		var out, notes bounded
		cmd := command(ctx, f, args, nil)
		cmd.Stdout, cmd.Stderr = &out, &notes
		if os.Geteuid() == 0 {
			cmd.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
			cmd.SysProcAttr.Cloneflags = apart
		}
		if err := cmd.Start(); errors.Is(err, unix.EPERM) && apart != 0 {
			continue // namespaces are not allowed here
		} else if err != nil {
			return nil, err
		}
		err := cmd.Wait()
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what it left behind
		switch {
		case ctx.Err() != nil:
			return nil, fmt.Errorf("no answer within %v", probeTime)
		case err != nil:
			return nil, fmt.Errorf("%w: %s", err, lastLine(notes.kept.Bytes()))
		}
		return out.kept.Bytes(), nil
	}
	return nil, errors.ErrUnsupported
}

// bounded keeps what is written to it, up to a limit.
type bounded struct{ kept bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if b.kept.Len()+len(p) > maxAnswer {
		return 0, fmt.Errorf("more than %d bytes", maxAnswer)
	}
	return b.kept.Write(p)
}

func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return fmt.Sprintf("%.200s", lines[len(lines)-1])
}

// handshake starts the program as the host does, waits for its first line and
// ends it. It is not configured, so it does nothing.
func handshake(ctx context.Context, f *os.File, args []string) (detail string, err error) {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	dir, err := os.MkdirTemp("", "kelson-plugin-")
	if err != nil {
		return "", fmt.Errorf("start: %w", err)
	}
	defer os.RemoveAll(dir)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var notes bounded
	cmd := command(ctx, f, args, []string{cookie, "PLUGIN_PROTOCOL_VERSIONS=1", "PLUGIN_UNIX_SOCKET_DIR=" + dir, "KELSON_PLUGIN_LIFETIME=host"})
	cmd.Stderr = &notes
	in, err := cmd.StdinPipe() // its end is the host's
	if err != nil {
		return "", fmt.Errorf("start: %w", err)
	}
	defer in.Close()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return "", fmt.Errorf("start: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	line, readErr := bufio.NewReader(io.LimitReader(stdout, 4096)).ReadString('\n')
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	_ = cmd.Wait()
	parts := strings.Split(strings.TrimSpace(line), "|")
	switch {
	case ctx.Err() != nil:
		return "", fmt.Errorf("no handshake within %v: %s", probeTime, lastLine(notes.kept.Bytes()))
	case readErr != nil:
		return "", fmt.Errorf("ended before its handshake: %s", lastLine(notes.kept.Bytes()))
	case len(parts) < 5 || parts[0] != "1" || parts[1] != "1" || parts[2] != "unix" || parts[4] != "grpc":
		return "", fmt.Errorf("expected the handshake 1|1|unix|SOCKET|grpc, found %.100q", strings.TrimSpace(line))
	}
	return "handshake " + strings.Join(slices.Concat(parts[:3], []string{"…"}, parts[4:5]), "|"), nil
}

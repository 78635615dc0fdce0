package delegate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
)

const (
	maxOutput = 1 << 20
	waitDelay = time.Second // for the output of what a killed plugin started
)

// runner executes plugins for libcni. Other than libcni's own it gives them no
// environment of ours, kills their whole process group, bounds what they say,
// and never sleeps.
type runner struct {
	version.PluginDecoder

	path string
}

var _ invoke.Exec = (*runner)(nil)

// FindInPath implements invoke.Exec.
func (*runner) FindInPath(plugin string, paths []string) (string, error) {
	return invoke.FindInPath(plugin, paths)
}

// ExecPlugin implements invoke.Exec.
func (r *runner) ExecPlugin(ctx context.Context, program string, stdin []byte, environ []string) ([]byte, error) {
	// The kernel ends the child with the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var stdout, stderr bounded
	c := exec.CommandContext(ctx, program)
	c.Env = r.environment(environ)
	c.Stdin, c.Stdout, c.Stderr = bytes.NewReader(stdin), &stdout, &stderr
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	c.WaitDelay = waitDelay
	if err := c.Run(); err != nil {
		return nil, failure(err, stdout.buffer.Bytes(), stderr.buffer.Bytes())
	}
	return stdout.buffer.Bytes(), nil
}

func (r *runner) environment(from []string) []string {
	out := []string{"PATH=" + r.path}
	for _, e := range from {
		if strings.HasPrefix(e, "CNI_") {
			out = append(out, e)
		}
	}
	return out
}

// failure is the error object that the plugin printed, or what can be said
// without one.
func failure(err error, stdout, stderr []byte) error {
	object := &types.Error{}
	if json.Unmarshal(stdout, object) == nil && object.Msg != "" {
		return object
	}
	if text := strings.TrimSpace(string(stderr[:min(len(stderr), 1<<10)])); text != "" {
		return fmt.Errorf("%w: %s", err, text)
	}
	return err
}

// bounded is a buffer that takes a megabyte.
type bounded struct{ buffer bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if b.buffer.Len()+len(p) > maxOutput {
		return 0, errors.New("plugin says more than 1 MiB")
	}
	return b.buffer.Write(p)
}

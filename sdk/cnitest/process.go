package cnitest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/kelson-io/kelson/sdk/plugintest"
	"github.com/kelson-io/kelson/sdk/serve"
)

// process is one incarnation of the program, in the node's namespace.
type process struct {
	cmd    *exec.Cmd
	stdin  *os.File // open while the host is there
	stdout *os.File
	output output
	conn   *grpc.ClientConn
	socket string
	ended  chan struct{}
}

// output collects what a process prints.
type output struct {
	mu   sync.Mutex
	data bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.data.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.data.String()
}

// startProcess starts the program as the host does and reads the handshake.
func startProcess(program plugintest.Program, node *namespace, dir string) (*process, error) {
	p := &process{cmd: exec.Command(program.Path, program.Args...), ended: make(chan struct{})}
	p.cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), serve.CookieKey + "=" + serve.CookieValue, serve.SocketDirKey + "=" + dir, "PLUGIN_PROTOCOL_VERSIONS=1",
	}, program.Env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.cmd.Stderr = &p.output
	// What the program started may outlive it with the same standard error.
	p.cmd.WaitDelay = time.Second
	stdin, stdinW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer stdin.Close()
	stdout, stdoutW, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, stdinW.Close())
	}
	p.cmd.Stdin, p.cmd.Stdout, p.stdin, p.stdout = stdin, stdoutW, stdinW, stdout
	begun := make(chan error, 1)
	go func() {
		// The thread that starts a process may count as its parent: it waits.
		err := node.do(func() error {
			err := p.cmd.Start()
			begun <- err
			if err == nil {
				_ = p.cmd.Wait() // it is killed in the end
			}
			return nil
		})
		if err != nil {
			begun <- err
		}
		close(p.ended)
	}()
	err = <-begun
	stdoutW.Close() // so that its end is seen
	if err != nil {
		return nil, errors.Join(err, stdinW.Close(), stdout.Close())
	}
	if err := p.shake(); err != nil {
		p.kill()
		return nil, fmt.Errorf("%w; it printed:\n%s", err, p.output.String())
	}
	return p, nil
}

// shake reads the handshake line: 1|1|unix|PATH|grpc|.
func (p *process) shake() error {
	if err := p.stdout.SetReadDeadline(time.Now().Add(callTime)); err != nil {
		return err
	}
	r := bufio.NewReader(p.stdout)
	line, err := r.ReadString('\n')
	if err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	part := strings.Split(strings.TrimSpace(line), "|")
	if len(part) < 5 || part[0] != "1" || part[1] != "1" || part[2] != "unix" || part[4] != "grpc" {
		return fmt.Errorf("handshake line %q: want 1|1|unix|PATH|grpc|", line)
	}
	p.socket = part[3]
	if err := p.stdout.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	go io.Copy(&p.output, r) //nolint:errcheck // ends with the process
	return nil
}

// kill ends the process at once, and nothing else, as a crash would.
func (p *process) kill() {
	_ = p.cmd.Process.Signal(syscall.SIGKILL) // it may have ended
	<-p.ended
	if p.conn != nil {
		p.conn.Close()
	}
	p.stdin.Close()
	p.stdout.Close()
}

// descriptors is how many files the process has open.
func (p *process) descriptors() (int, error) {
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	return len(list), err
}

// connect is a gRPC connection, made when it is used.
func connect(t *testing.T, socket string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// call bounds one call, or a few.
func call(t *testing.T) (context.Context, context.CancelFunc) {
	t.Helper()
	return context.WithTimeout(t.Context(), callTime)
}

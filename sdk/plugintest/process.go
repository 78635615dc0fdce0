package plugintest

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
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/kelson-io/kelson/sdk/internal/wire"
	pluginv1 "github.com/kelson-io/kelson/sdk/proto/plugin/v1"
	"github.com/kelson-io/kelson/sdk/serve"
)

// How long a program may take, generously: these are limits, not budgets.
const (
	startTime = 10 * time.Second
	callTime  = 5 * time.Second
	endTime   = 10 * time.Second
)

// process is one incarnation of a program, started as the host starts it.
type process struct {
	*Conn

	dir   string // of its socket
	cmd   *exec.Cmd
	stdin *os.File
	// pipes are the reading ends of its output.
	pipes  []*os.File
	output output
	ended  chan struct{}
	why    error // of its end
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

// start launches the program and shakes hands. It is killed by kill at the
// latest, with all that it started.
func (p Program) start(dir string, env ...string) (*process, error) {
	pr := &process{dir: dir, ended: make(chan struct{})}
	pr.cmd = p.command(append([]string{
		serve.CookieKey + "=" + serve.CookieValue, serve.SocketDirKey + "=" + dir, "PLUGIN_PROTOCOL_VERSIONS=1",
	}, env...))
	stdinR, stdinW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	stdoutR, stdoutW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	stderrR, stderrW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	pr.stdin, pr.pipes = stdinW, []*os.File{stdoutR, stderrR}
	pr.cmd.Stdin, pr.cmd.Stdout, pr.cmd.Stderr = stdinR, stdoutW, stderrW
	err = pr.cmd.Start()
	for _, f := range []*os.File{stdinR, stdoutW, stderrW} {
		f.Close()
	}
	if err != nil {
		pr.closePipes()
		return nil, err
	}
	go func() {
		pr.why = pr.cmd.Wait()
		close(pr.ended)
	}()
	go io.Copy(&pr.output, stderrR) //nolint:errcheck // ends with the process or by closePipes
	if err := pr.shake(stdoutR); err != nil {
		pr.kill()
		return nil, fmt.Errorf("%w; it printed:\n%s", err, pr.output.String())
	}
	return pr, nil
}

// command is the program in a process group of its own, with an environment as
// scrubbed as the host's.
func (p Program) command(env []string) *exec.Cmd {
	cmd := exec.Command(p.Path, p.Args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, append(p.Env, env...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// shake reads the handshake line and connects.
func (pr *process) shake(stdout *os.File) error {
	line := make(chan string, 1)
	go func() {
		r := bufio.NewReader(stdout)
		first, _ := r.ReadString('\n')
		line <- strings.TrimSpace(first)
		io.WriteString(&pr.output, first) //nolint:errcheck // a buffer takes all
		io.Copy(&pr.output, r)            //nolint:errcheck // ends with the process or by closePipes
	}()
	var first string
	select {
	case first = <-line:
	case <-time.After(startTime):
		return fmt.Errorf("no handshake line within %v", startTime)
	}
	part := strings.Split(first, "|")
	if len(part) < 5 || part[0] != "1" || part[1] != "1" || part[2] != "unix" || part[4] != "grpc" {
		return fmt.Errorf("handshake line %q: want 1|1|unix|PATH|grpc|", first)
	}
	conn, err := grpc.NewClient("unix:"+part[3], grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(wire.MaxMessage), grpc.MaxCallSendMsgSize(4*wire.MaxMessage)))
	if err != nil {
		return err
	}
	pr.Conn = &Conn{ClientConn: conn, Plugin: pluginv1.NewPluginClient(conn), Socket: part[3]}
	return nil
}

// terminate sends SIGTERM and waits for the end.
func (pr *process) terminate() error {
	if err := pr.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return pr.awaitEnd()
}

func (pr *process) awaitEnd() error {
	select {
	case <-pr.ended:
		return nil
	case <-time.After(endTime):
		return fmt.Errorf("still running after %v", endTime)
	}
}

// alive says why the process does not answer.
func (pr *process) alive(ctx context.Context) error {
	select {
	case <-pr.ended:
		return fmt.Errorf("the process has ended: %w", pr.why)
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	_, err := pr.Plugin.Describe(ctx, &pluginv1.DescribeRequest{})
	return err
}

// kill ends the process and all that it started.
func (pr *process) kill() {
	if pr.Conn != nil {
		pr.Close()
	}
	_ = syscall.Kill(-pr.cmd.Process.Pid, syscall.SIGKILL)
	<-pr.ended
	pr.closePipes()
}

func (pr *process) closePipes() {
	pr.stdin.Close()
	for _, f := range pr.pipes {
		f.Close()
	}
}

package serve_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/kelson-io/kelson/sdk/internal/sample"
	"github.com/kelson-io/kelson/sdk/plugin"
	pluginv1 "github.com/kelson-io/kelson/sdk/proto/plugin/v1"
	"github.com/kelson-io/kelson/sdk/serve"
)

// roleKey makes this test binary the sample plugin, or its host.
const roleKey = "KELSON_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleKey) {
	case "plugin":
		os.Exit(sample.Run(serve.OS()))
	case "host":
		os.Exit(host())
	}
	os.Exit(m.Run())
}

// host starts the plugin with a standard input that says nothing of the host,
// and waits to be killed.
func host() int {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleKey+"=plugin")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return 1
	}
	fmt.Fprintf(os.Stdout, "pid %d\n", cmd.Process.Pid)
	if err := cmd.Wait(); err != nil {
		return 1
	}
	return 0
}

// child is a process in the role of a plugin or its host.
type child struct {
	*exec.Cmd

	dir    string
	lines  *bufio.Reader
	stderr *os.File // what it wrote to its standard error, read by Contents
	stdin  io.WriteCloser
}

func launch(t *testing.T, role string, stdin bool, env ...string) *child {
	t.Helper()
	dir, err := os.MkdirTemp("", "ks") //nolint:usetesting // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	c := &child{Cmd: exec.Command(os.Args[0], "ignored", "arguments"), dir: dir}
	c.Env = append(os.Environ(), append(env, roleKey+"="+role, serve.CookieKey+"="+serve.CookieValue, serve.SocketDirKey+"="+dir)...)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if c.stderr, err = os.Create(filepath.Join(t.TempDir(), "stderr")); err != nil {
		t.Fatal(err)
	}
	c.Stderr = c.stderr
	stdout, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.lines = bufio.NewReader(stdout)
	if stdin {
		if c.stdin, err = c.StdinPipe(); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
		_ = c.Wait()
		if t.Failed() {
			t.Logf("standard error:\n%s", c.contents(t))
		}
		c.stderr.Close()
		os.RemoveAll(dir)
	})
	return c
}

func (c *child) contents(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(c.stderr.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// line is the next line of the standard output.
func (c *child) line(t *testing.T) string {
	t.Helper()
	text, err := c.lines.ReadString('\n')
	if err != nil {
		t.Fatalf("standard output: %v\n%s", err, c.contents(t))
	}
	return strings.TrimSpace(text)
}

func (c *child) client(t *testing.T, line string) (pluginv1.PluginClient, *grpc.ClientConn) {
	t.Helper()
	part := strings.Split(line, "|")
	if len(part) != 6 || part[0] != "1" || part[1] != "1" || part[2] != "unix" || part[4] != "grpc" || part[5] != "" {
		t.Fatalf("handshake line %q", line)
	}
	conn, err := grpc.NewClient("unix:"+part[3], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return pluginv1.NewPluginClient(conn), conn
}

// ends waits for the process, whose exit code must be the given one.
func (c *child) ends(t *testing.T, code int) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		_ = c.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("it does not end")
	}
	if got := c.ProcessState.ExitCode(); got != code {
		t.Errorf("exit code %d, want %d (%v)", got, code, c.ProcessState)
	}
	if left, err := os.ReadDir(c.dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestServeUntilSIGTERM(t *testing.T) {
	c := launch(t, "plugin", true)
	client, _ := c.client(t, c.line(t))
	if _, err := client.Configure(t.Context(), &pluginv1.ConfigureRequest{Config: []byte(`{"greeting":"hi"}`)}); err != nil {
		t.Fatal(err)
	}
	// The host's terminal is not the plugin's.
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE} {
		if err := c.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := client.Describe(t.Context(), &pluginv1.DescribeRequest{}); err != nil {
		t.Fatal(err)
	}
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	c.ends(t, 0)
}

// TestShutdown: go-plugin's own shutdown call ends the program.
func TestShutdown(t *testing.T) {
	c := launch(t, "plugin", true)
	_, conn := c.client(t, c.line(t))
	// Its answer may be lost with the connection.
	_ = conn.Invoke(t.Context(), "/plugin.GRPCController/Shutdown", &emptypb.Empty{}, &emptypb.Empty{})
	c.ends(t, 0)
}

func TestEndsWithStdin(t *testing.T) {
	c := launch(t, "plugin", true)
	c.line(t)
	c.stdin.Close()
	c.ends(t, 0)
}

// TestEndsWithHost: where the standard input says nothing, the parent's death
// does, if it is of that lifetime.
func TestEndsWithHost(t *testing.T) {
	for lifetime, outlives := range map[string]bool{"": false, serve.LifetimeNode: true} {
		t.Run(lifetime, func(t *testing.T) {
			c := launch(t, "host", false, serve.LifetimeKey+"="+lifetime)
			var pid int
			first, second := c.line(t), c.line(t)
			if strings.HasPrefix(second, "pid ") {
				first, second = second, first
			}
			if _, err := fmt.Sscanf(first, "pid %d", &pid); err != nil {
				t.Fatal(err)
			}
			client, _ := c.client(t, second)
			if _, err := client.Describe(t.Context(), &pluginv1.DescribeRequest{}); err != nil {
				t.Fatal(err)
			}
			if err := c.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			if outlives {
				for range 20 {
					if _, err := client.Configure(t.Context(), &pluginv1.ConfigureRequest{Config: []byte(`{"greeting":"hi"}`)}); err != nil {
						t.Fatal(err)
					}
				}
				if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
					t.Fatal(err)
				}
			}
			// It writes to the same standard output, whose end shows its own.
			gone := make(chan error, 1)
			go func() {
				_, err := io.Copy(io.Discard, c.lines)
				gone <- err
			}()
			deadline := time.After(20 * time.Second)
			select {
			case <-gone:
			case <-deadline:
				t.Fatal("it does not end")
			}
			for {
				left, err := os.ReadDir(c.dir)
				if err == nil && len(left) == 0 {
					return
				}
				select {
				case <-deadline:
					t.Fatalf("left behind: %v, %v", left, err)
				case <-time.After(10 * time.Millisecond):
				}
			}
		})
	}
}

// TestStdoutIsReleased: what is printed there after the handshake goes to the
// standard error, so that a host that reads one line blocks nobody.
func TestStdoutIsReleased(t *testing.T) {
	c := launch(t, "plugin", true)
	c.line(t)
	rest := make(chan []byte, 1)
	go func() {
		all, _ := io.ReadAll(c.lines)
		rest <- all
	}()
	select {
	case all := <-rest:
		if len(all) > 0 {
			t.Errorf("more on the standard output: %s", all)
		}
	case <-time.After(20 * time.Second):
		t.Error("the standard output is still open")
	}
}

func TestPanicIsReported(t *testing.T) {
	c := launch(t, "plugin", true)
	client, _ := c.client(t, c.line(t))
	_, err := client.Configure(t.Context(), &pluginv1.ConfigureRequest{Config: []byte(`{"greeting":"hi","crash":true}`)})
	if plugin.ReasonOf(err) != plugin.ReasonPanic {
		t.Errorf("got %v", err)
	}
	if _, err := client.Describe(t.Context(), &pluginv1.DescribeRequest{}); err != nil {
		t.Errorf("after a panic: %v", err)
	}
	report := c.contents(t)
	for _, want := range []string{`"@level":"error"`, "panic in /kelson.plugin.v1.Plugin/Configure: runtime error: index out of range", "sample.go"} {
		if !strings.Contains(report, want) {
			t.Errorf("no %q in the report", want)
		}
	}
}

func TestMemoryIsProtected(t *testing.T) {
	c := launch(t, "plugin", true)
	c.line(t)
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", c.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(limits)) {
		if strings.HasPrefix(line, "Max core file size") && strings.Fields(line)[4] == "0" && strings.Fields(line)[5] == "0" {
			return
		}
	}
	t.Errorf("core files are allowed:\n%s", limits)
}

func TestDrainIsBounded(t *testing.T) {
	c := launch(t, "plugin", true, sample.FaultKey+"="+string(sample.FaultDrain))
	c.line(t)
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	c.ends(t, 0)
	if !strings.Contains(c.contents(t), "drain: not done in time") {
		t.Error("nothing is said about it")
	}
}

// TestRefusals: what the host must not ask for ends the program at once.
func TestRefusals(t *testing.T) {
	tests := []struct{ env, want string }{
		{"PLUGIN_CLIENT_CERT=x", "AutoMTLS"},
		{"PLUGIN_MULTIPLEX_GRPC=true", "multiplexing"},
		{serve.SocketDirKey + "=/tmp/" + strings.Repeat("x", 90), "at most 107"},
		{sample.FaultKey + "=" + string(sample.FaultName), `name "Sample!"`},
	}
	for _, tt := range tests {
		key, value, _ := strings.Cut(tt.env, "=")
		var out, stderr bytes.Buffer
		code := sample.Run(serve.Process{
			Getenv: func(k string) string {
				return map[string]string{serve.CookieKey: serve.CookieValue, key: value}[k]
			},
			Stdin: strings.NewReader(""), Stdout: &out, Stderr: &stderr,
		})
		if code != 1 || out.Len() > 0 || !strings.Contains(stderr.String(), tt.want) {
			t.Errorf("%s: code %d, %q, %q", tt.env, code, out.String(), stderr.String())
		}
	}
}

func TestNoSocketDir(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleKey+"=plugin", serve.CookieKey+"="+serve.CookieValue, serve.SocketDirKey+"=/does/not/exist")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "make a socket in /does/not/exist: ") || !strings.Contains(string(out), "no such file") {
		t.Errorf("%v: %s", err, out)
	}
}

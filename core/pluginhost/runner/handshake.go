package runner

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	gorunner "github.com/hashicorp/go-plugin/runner"

	"github.com/kelson-io/kelson/core/config"
)

// maxHandshake bounds the line that a plugin begins with.
const maxHandshake = 4 << 10

// goPlugin shows a launch to go-plugin as a runner.
type goPlugin launch

var _ gorunner.Runner = (*goPlugin)(nil)

// Start executes the program.
func (g *goPlugin) Start(context.Context) error {
	first := make(chan error, 1)
	go (*launch)(g).live(first)
	return <-first
}

// Diagnose has nothing to add: the host words its own errors.
func (g *goPlugin) Diagnose(context.Context) string { return "" }

// Stdout holds the handshake line, then ends.
func (g *goPlugin) Stdout() io.ReadCloser { return g.line }

// Stderr is empty, always: go-plugin's reader of it can be made to panic.
func (g *goPlugin) Stderr() io.ReadCloser { return io.NopCloser(strings.NewReader("")) }

// Name is for go-plugin's log, which is off.
func (g *goPlugin) Name() string { return g.spec.Program.String() }

// Wait returns when the process is gone or let go of.
func (g *goPlugin) Wait(context.Context) error {
	<-g.process.done
	return nil
}

// Kill is called by go-plugin when the handshake fails.
func (g *goPlugin) Kill(context.Context) error { return (*launch)(g).end(g.process) }

// ID is the process number.
func (g *goPlugin) ID() string { return strconv.Itoa(g.process.PID()) }

// HostToPlugin leaves addresses as they are.
func (g *goPlugin) HostToPlugin(network, addr string) (string, string, error) {
	return network, addr, nil
}

// PluginToHost lets a plugin name a socket in its own folder and nothing else.
func (g *goPlugin) PluginToHost(network, addr string) (string, string, error) {
	err := func() error {
		if network != "unix" {
			return fmt.Errorf("it listens on %s %s, expected is a Unix socket", network, addr)
		}
		if filepath.Dir(addr) != g.dir {
			return fmt.Errorf("it listens on %s, expected is a socket in %s", addr, g.dir)
		}
		info, err := os.Lstat(addr)
		if err != nil {
			return fmt.Errorf("it listens nowhere: %w", err)
		}
		if info.Mode().Type() != os.ModeSocket {
			return fmt.Errorf("it listens on %s, which is no socket", addr)
		}
		return nil
	}()
	if err != nil {
		(*launch)(g).refuse(config.Hinted(err, "the plugin's author makes the socket in the folder of "+envSocketDir))
	}
	return network, addr, err
}

func (l *launch) refuse(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.why == nil {
		l.why = err
	}
}

// offer judges the first line and hands it to go-plugin.
func (l *launch) offer(line string) {
	if err := checkHandshake(line); err != nil {
		l.refuse(err)
	}
	l.line.put(line)
}

func checkHandshake(line string) error {
	const form = "1|1|unix|<socket>|grpc"
	parts := strings.Split(strings.TrimSpace(line), "|")
	if len(line) > maxHandshake || len(parts) < 5 {
		return config.Hinted(fmt.Errorf("its first line is %q, expected is the handshake %s", printable(line, 200), form),
			"a plugin prints nothing on its standard output before the handshake")
	}
	for i, want := range []string{strconv.Itoa(coreProtocol), strconv.Itoa(appProtocol), "unix", "", "grpc"} {
		if want != "" && parts[i] != want {
			return config.Hinted(fmt.Errorf("field %d of its handshake is %q, expected is %s", i+1, printable(parts[i], 100), form),
				"the plugin was built for another host: install a version for this one")
		}
	}
	if len(parts) > 5 && parts[5] != "" {
		return errors.New("it wants TLS on its socket, which the host does not speak")
	}
	return nil
}

// errNoLine is the end of the output without a line.
var errNoLine = errors.New("no line")

// lineReader yields one line, once it is known, and then the end.
type lineReader struct {
	ready chan struct{}
	once  sync.Once
	mu    sync.Mutex
	rest  []byte
	err   error
}

func newLineReader() *lineReader { return &lineReader{ready: make(chan struct{})} }

func (r *lineReader) put(line string) {
	r.once.Do(func() {
		r.rest = []byte(line[:min(len(line), maxHandshake)] + "\n")
		close(r.ready)
	})
}

// end says that no line will come.
func (r *lineReader) end() {
	r.once.Do(func() {
		r.err = errNoLine
		close(r.ready)
	})
}

// Err is errNoLine when the stream ended without a line.
func (r *lineReader) Err() error {
	select {
	case <-r.ready:
		return r.err
	default:
		return nil
	}
}

func (r *lineReader) Read(b []byte) (int, error) {
	<-r.ready
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func (r *lineReader) Close() error { return nil }

// firstLine reads up to the end of the first line; ok is false without one. What
// lies beyond the limit stays unread.
func firstLine(r *bufio.Reader) (line string, ok bool) {
	var b strings.Builder
	for b.Len() <= maxHandshake {
		c, err := r.ReadByte()
		if err != nil {
			return b.String(), false
		}
		if c == '\n' {
			return b.String(), true
		}
		b.WriteByte(c)
	}
	return b.String(), true
}

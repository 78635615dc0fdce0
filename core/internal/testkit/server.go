package testkit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kelson-io/kelson/core/datadir"
)

// ServerConfig describes a server. Bin and Net are needed.
type ServerConfig struct {
	Bin  string   // the shipped file
	Net  *Network // where it runs
	Data string   // data dir; default: a new folder, removed with the server
	Env  []string // added to the environment
	Args []string // added to every start

	// Borrowed makes this server use, and not own, another one's data dir.
	Borrowed *Server
}

// Server is one `kelson server` on a data dir of its own. It can be started
// and stopped many times; what it leaves is removed and checked at the end of
// the test.
type Server struct {
	Bin  string
	Net  *Network
	Base string // the test's own folder: log, kubeconfig of the test, resolv.conf
	Data string
	Log  string // all starts append to it

	env, args []string
	residue   *residue

	runDir     string
	kubeconfig string

	mu      sync.Mutex
	process *running
	offset  int64 // of the last start in the log
}

// running is one start of the process.
type running struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // of Wait; read after done
}

// Binary is the file named by an environment variable.
func Binary(t testing.TB, variable string) string {
	t.Helper()
	path := os.Getenv(variable)
	if path == "" {
		t.Fatalf("%s is not set: it names the built file, see `make help`", variable)
	}
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return path
}

// NewServer prepares a server; Start runs it.
func NewServer(t testing.TB, cfg ServerConfig) *Server {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root: it makes network namespaces and starts containers")
	}
	base, err := os.MkdirTemp("/tmp", "kt-") //nolint:usetesting // t.TempDir is too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{
		Bin: cfg.Bin, Net: cfg.Net, Base: base, Data: cfg.Data, Log: filepath.Join(base, "server.log"),
		env: cfg.Env, args: cfg.Args,
	}
	if s.Data == "" {
		s.Data = filepath.Join(base, "d")
	}
	if cfg.Borrowed != nil {
		s.Data = cfg.Borrowed.Data
		t.Cleanup(func() {
			if s.Alive() {
				s.Kill(t)
			}
			_ = os.RemoveAll(base)
		})
		return s
	}
	layout, err := datadir.New(s.Data, "")
	if err != nil {
		t.Fatal(err)
	}
	s.runDir = layout.Run
	s.residue = newResidue([]string{s.Data, s.runDir}, []string{base, s.Data, s.runDir}, cfg.Net.path(cfg.Net.node))
	t.Cleanup(func() { s.remove(t) })
	resolv := fmt.Sprintf("nameserver %s\n", cfg.Net.OutsideAddr())
	if err := os.WriteFile(s.path("resolv.conf"), []byte(resolv), 0o644); err != nil {
		t.Fatal(err)
	}
	s.args = append([]string{"--resolv-conf", s.path("resolv.conf")}, s.args...)
	return s
}

// observe notes what the server holds before a part of it ends.
func (s *Server) observe() {
	if s.residue != nil {
		s.residue.observe()
	}
}

func (s *Server) path(name string) string { return filepath.Join(s.Base, name) }

// Kubeconfig is the admin's kubeconfig.
func (s *Server) Kubeconfig() string {
	if s.kubeconfig != "" {
		return s.kubeconfig
	}
	return filepath.Join(s.Data, "etc", "kelson.yaml")
}

// SetKubeconfig makes later starts write the admin's kubeconfig to path.
func (s *Server) SetKubeconfig(path string) {
	s.kubeconfig = path
	s.args = append(s.args, "--write-kubeconfig", path)
}

// Start runs `kelson server` with the server's and the given arguments and
// returns at once.
func (s *Server) Start(t testing.TB, args ...string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil && !s.process.ended() {
		t.Fatal("the server runs already")
	}
	log, err := os.OpenFile(s.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if s.offset, err = log.Seek(0, io.SeekEnd); err != nil {
		t.Fatal(err)
	}
	argv := append([]string{"server", "--data-dir", s.Data}, append(s.args, args...)...)
	cmd := s.Net.Command(context.Background(), s.Bin, argv...)
	cmd.Env = append(os.Environ(), s.env...)
	cmd.Stdout, cmd.Stderr = log, log
	// Signals of the terminal are the test's, not the server's.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start server: %v", err)
	}
	p := &running{cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	s.process = p
}

func (p *running) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// SetEnv adds to the environment of later starts and commands.
func (s *Server) SetEnv(env ...string) { s.env = append(s.env, env...) }

// PID is the process of the last start: launcher first, then the host.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return 0
	}
	return s.process.cmd.Process.Pid
}

// Alive tells whether the last start still runs.
func (s *Server) Alive() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.process != nil && !s.process.ended()
}

// Signal sends sig to the host process only.
func (s *Server) Signal(t testing.TB, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(s.PID(), sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Fatalf("signal server: %v", err)
	}
}

// Stop sends SIGTERM, waits, and returns how long the server took. It fails t
// when the server does not end in time or not with exit code 0.
func (s *Server) Stop(t testing.TB, within time.Duration) time.Duration {
	t.Helper()
	s.observe()
	begun := time.Now()
	s.Signal(t, syscall.SIGTERM)
	if code := s.WaitExit(t, within); code != 0 {
		t.Errorf("exit code %d after SIGTERM\n%s", code, s.Tail(30))
	}
	return time.Since(begun)
}

// Kill sends SIGKILL to the host process only and waits for it.
func (s *Server) Kill(t testing.TB) {
	t.Helper()
	s.observe()
	s.Signal(t, syscall.SIGKILL)
	s.WaitExit(t, 10*time.Second)
}

// WaitExit waits for the last start to end and returns its exit code; -1 means
// that a signal ended it.
func (s *Server) WaitExit(t testing.TB, within time.Duration) int {
	t.Helper()
	s.mu.Lock()
	p := s.process
	s.mu.Unlock()
	select {
	case <-p.done:
	case <-time.After(within):
		t.Fatalf("server still runs after %v\n%s", within, s.Tail(40))
	}
	return p.cmd.ProcessState.ExitCode()
}

// Output is what the last start has written so far.
func (s *Server) Output() string {
	s.mu.Lock()
	offset := s.offset
	s.mu.Unlock()
	f, err := os.Open(s.Log)
	if err != nil {
		return ""
	}
	defer f.Close()
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return ""
	}
	text, _ := io.ReadAll(f)
	return string(text)
}

// Tail is the end of Output.
func (s *Server) Tail(lines int) string {
	all := strings.Split(strings.TrimRight(s.Output(), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// WaitLog waits until the last start has written text.
func (s *Server) WaitLog(t testing.TB, within time.Duration, text string) {
	t.Helper()
	Eventually(t, within, fmt.Sprintf("log line with %q", text), func(context.Context) error {
		if strings.Contains(s.Output(), text) {
			return nil
		}
		if !s.Alive() {
			return fmt.Errorf("the server has ended:\n%s", s.Tail(15))
		}
		return fmt.Errorf("last lines:\n%s", s.Tail(5))
	})
}

// Processes are the server's processes, its containers' included.
func (s *Server) Processes(t testing.TB) []Process {
	t.Helper()
	all, err := family(s.residue.marks)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// Child finds the server's process whose arguments hold every given word, by
// base name for the first.
func (s *Server) Child(t testing.TB, words ...string) (Process, bool) {
	t.Helper()
next:
	for _, p := range s.Processes(t) {
		if filepath.Base(p.Args[0]) != words[0] {
			continue
		}
		line := strings.Join(p.Args, " ")
		for _, w := range words[1:] {
			if !strings.Contains(line, w) {
				continue next
			}
		}
		return p, true
	}
	return Process{}, false
}

// remove ends and removes everything and fails t if something stays.
func (s *Server) remove(t testing.TB) {
	t.Helper()
	if t.Failed() {
		t.Logf("end of %s:\n%s", s.Log, s.Tail(60))
		s.keepLogs(t)
	}
	s.residue.observe()
	if s.Alive() {
		s.Signal(t, syscall.SIGTERM)
		s.mu.Lock()
		p := s.process
		s.mu.Unlock()
		select {
		case <-p.done:
		case <-time.After(15 * time.Second):
			t.Errorf("server did not stop within 15s of SIGTERM\n%s", s.Tail(40))
		}
	}
	if err := s.residue.purge(); err != nil {
		t.Error(err)
	}
	left, err := s.residue.remains()
	if err != nil {
		t.Error(err)
	}
	for _, l := range left {
		t.Errorf("left behind: %s", l)
	}
	for _, dir := range []string{s.Base, s.Data, s.runDir} {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove %s: %v", dir, err)
		}
	}
}

// Reset ends what runs and empties the data dir: the next start is a first one.
func (s *Server) Reset(t testing.TB) {
	t.Helper()
	if err := s.residue.purge(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(s.Data); err != nil {
		t.Fatal(err)
	}
}

// keepLogs copies the logs of a failed test to $KELSON_ARTIFACTS.
func (s *Server) keepLogs(t testing.TB) {
	t.Helper()
	to := os.Getenv("KELSON_ARTIFACTS")
	if to == "" {
		return
	}
	to = filepath.Join(to, strings.ReplaceAll(t.Name(), "/", "-"))
	if err := os.MkdirAll(to, 0o755); err != nil {
		t.Log(err)
		return
	}
	if s.residue == nil {
		return
	}
	logs, _ := filepath.Glob(filepath.Join(s.Data, "agent", "*", "*.log"))
	more, _ := filepath.Glob(filepath.Join(s.Data, "agent", "*.log"))
	for _, from := range append(append(logs, more...), s.Log) {
		text, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(filepath.Join(to, filepath.Base(from)), text, 0o644)
		}
		if err != nil {
			t.Log(err)
		}
	}
}

package testkit

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// Result is what a command line gave.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Kelson runs one verb of the shipped file on the server's data dir, in the
// node's namespace.
func (s *Server) Kelson(t testing.TB, args ...string) Result {
	t.Helper()
	return s.Run(t, "", append([]string{s.Bin}, args...)...)
}

// Run runs a program with stdin in the node's namespace. The exit code is
// given back; t fails only when the program cannot be run at all.
func (s *Server) Run(t testing.TB, stdin string, argv ...string) Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := s.Command(ctx, argv...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", strings.Join(argv, " "), err)
	}
	return Result{Stdout: out.String(), Stderr: errs.String(), Code: cmd.ProcessState.ExitCode()}
}

// Command is a program in the node's namespace that finds this server's data
// dir and cluster by environment.
func (s *Server) Command(ctx context.Context, argv ...string) *exec.Cmd {
	cmd := s.Net.Command(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "KELSON_DATA_DIR="+s.Data, "KUBECONFIG="+s.Kubeconfig())
	cmd.Env = append(cmd.Env, s.env...)
	return cmd
}

// Kubectl runs `kelson kubectl` and returns its output; a failure fails t.
func (s *Server) Kubectl(t testing.TB, args ...string) string {
	t.Helper()
	r := s.Kelson(t, append([]string{"kubectl"}, args...)...)
	if r.Code != 0 {
		t.Fatalf("kubectl %s: exit code %d\n%s%s", strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// Apply applies manifests with kubectl.
func (s *Server) Apply(t testing.TB, manifests string) {
	t.Helper()
	r := s.Run(t, manifests, s.Bin, "kubectl", "apply", "-f", "-")
	if r.Code != 0 {
		t.Fatalf("kubectl apply: exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
}

// Exec runs a command in a pod and returns its standard output; a failure
// fails t.
func (s *Server) Exec(t testing.TB, namespace, pod string, argv ...string) string {
	t.Helper()
	return s.Kubectl(t, append([]string{"exec", "-n", namespace, pod, "--"}, argv...)...)
}

// TryExec runs a command in a pod and hands failure back, for polling.
func (s *Server) TryExec(t testing.TB, namespace, pod string, argv ...string) Result {
	t.Helper()
	return s.Kelson(t, append([]string{"kubectl", "exec", "-n", namespace, pod, "--"}, argv...)...)
}

package process

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
)

// TestMain lets the test binary be the processes that the tests run: the first
// argument after "play" names the role.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "play" {
		os.Exit(play(os.Args[2], os.Args[3:]))
	}
	os.Exit(m.Run())
}

func play(role string, args []string) int {
	switch role {
	case "sleep": // until it is told to end
		sig := make(chan os.Signal, 1)
		signal.Notify(sig, syscall.SIGTERM, syscall.SIGINT)
		fmt.Println("sleeping as", os.Args[0]) // from here on the tests may signal
		fmt.Println("got", <-sig)
		return 0
	case "stubborn": // deaf to signals
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("ignoring")
		<-time.After(10 * time.Minute)
		return 0
	case "fail":
		fmt.Println("first line")
		fmt.Fprintln(os.Stderr, "cannot open database")
		code, _ := strconv.Atoi(args[0])
		return code
	case "env":
		fmt.Println(strings.Join(os.Environ(), "\n"))
		return 1
	case "shim": // starts a process that is meant to outlive it
		cmd := exec.Command(self(), "play", "sleep")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			fmt.Println(err)
			return 1
		}
		writeFile(args[0], strconv.Itoa(cmd.Process.Pid))
		return play("sleep", nil)
	case "host": // runs a child, leaves its pid, and waits for its own violent end
		spec := Spec{Name: "child", Path: self(), Args: []string{"play", "stubborn"}, PIDFile: args[1], LogFile: args[2]}
		if args[3] != "" {
			n, _ := strconv.Atoi(args[3])
			spec.DeathSignal = syscall.Signal(n)
		}
		c := New(spec, hclog.NewNullLogger())
		if err := c.Start(context.Background()); err != nil {
			fmt.Println(err)
			return 1
		}
		writeFile(args[0], strconv.Itoa(c.PID()))
		return play("sleep", nil)
	case "spam": // writes lines until it is told to end
		for i := 0; ; i++ {
			fmt.Printf("line %06d\n", i)
			if i%100 == 0 {
				<-time.After(time.Millisecond)
			}
		}
	}
	return 99
}

func self() string {
	exe, err := os.Executable()
	if err != nil {
		return os.Args[0]
	}
	return exe
}

// writeFile makes content appear at once, as the test polls for it.
func writeFile(path, content string) {
	if err := os.WriteFile(path+".tmp", []byte(content), 0o600); err == nil {
		_ = os.Rename(path+".tmp", path)
	}
}

// player returns the Spec of a role.
func player(t *testing.T, role string, args ...string) Spec {
	t.Helper()
	return Spec{
		Name: "test-child", Path: self(), Args: append([]string{"play", role}, args...),
		LogFile: filepath.Join(t.TempDir(), "log", "child.log"),
		Restart: Policy{Min: time.Millisecond, Max: 20 * time.Millisecond},
	}
}

// eventually polls until ok returns "", and reports its last answer otherwise.
func eventually(t *testing.T, what string, ok func() string) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		reason := ok()
		if reason == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %s", what, reason)
		}
		<-tick.C
	}
}

func contains(path, want string) func() string {
	return func() string {
		data, err := os.ReadFile(path)
		if err != nil {
			return err.Error()
		}
		if !strings.Contains(string(data), want) {
			return fmt.Sprintf("%s holds %q, not %q", path, data, want)
		}
		return ""
	}
}

func pidIn(t *testing.T, path string) int {
	t.Helper()
	eventually(t, "pid file", contains(path, ""))
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(string(data))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// running says whether pid is a live process; a zombie is not.
func running(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

func gone(pid int) func() string {
	return func() string {
		if running(pid) {
			return fmt.Sprintf("pid %d is running", pid)
		}
		return ""
	}
}

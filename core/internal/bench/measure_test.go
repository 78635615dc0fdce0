package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kelson-io/kelson/core/internal/testkit"
)

const patience = 3 * time.Minute

// until polls finely enough for a figure in hundredths of a second.
func until(b *testing.B, what string, cond func(context.Context) error) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	last := errors.New("never tried")
	for {
		err := cond(ctx)
		if err == nil {
			return
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			b.Fatalf("%s: %v", what, last)
		case <-tick.C:
		}
	}
}

// apiReady asks the API server's own readiness.
func apiReady(api func() (*testkit.API, error)) func(context.Context) error {
	return withAPI(api, func(ctx context.Context, a *testkit.API) error {
		_, err := a.Do(ctx, "GET", "/readyz", "", nil)
		return err
	})
}

// nodeReady wants a Ready condition that was written after the start, and is
// not the one seen before. Beats have whole seconds.
func nodeReady(api func() (*testkit.API, error), beat string, begun time.Time) func(context.Context) error {
	return withAPI(api, func(ctx context.Context, a *testkit.API) error {
		node, err := a.Node(ctx)
		if err != nil {
			return err
		}
		at, err := time.Parse(time.RFC3339, heartbeat(node))
		if err == nil && (heartbeat(node) == beat || at.Before(begun.Truncate(time.Second))) {
			err = errors.New("status of before the start")
		}
		return err
	})
}

func heartbeat(n testkit.Node) string {
	for _, c := range n.Status.Conditions {
		if c.Type == "Ready" {
			return c.Beat
		}
	}
	return ""
}

// createPod retries until admission lets the pod in.
func createPod(api func() (*testkit.API, error), body string) func(context.Context) error {
	return withAPI(api, func(ctx context.Context, a *testkit.API) error {
		_, err := a.Do(ctx, "POST", "/api/v1/namespaces/default/pods", "application/json", []byte(body))
		return err
	})
}

func podRunning(api func() (*testkit.API, error), name string) func(context.Context) error {
	return withAPI(api, func(ctx context.Context, a *testkit.API) error {
		var p testkit.Pod
		if err := a.Get(ctx, "/api/v1/namespaces/default/pods/"+name, &p); err != nil {
			return err
		}
		if p.Status.Phase != "Running" {
			return fmt.Errorf("pod is %s", p.Status.Phase)
		}
		return nil
	})
}

// keep makes one client of the first that can be made: a handshake a poll would
// load what is measured.
func keep(api func() (*testkit.API, error)) func() (*testkit.API, error) {
	var mu sync.Mutex
	var kept *testkit.API
	return func() (a *testkit.API, err error) {
		mu.Lock()
		defer mu.Unlock()
		if kept == nil {
			kept, err = api()
		}
		return kept, err
	}
}

func withAPI(api func() (*testkit.API, error), cond func(context.Context, *testkit.API) error) func(context.Context) error {
	return func(ctx context.Context) error {
		a, err := api()
		if err != nil {
			return err
		}
		return cond(ctx, a)
	}
}

// podJSON is a pod that starts at once even while the node is not Ready.
func podJSON(name, command string) string {
	return fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":%q},"spec":{"terminationGracePeriodSeconds":0,
"tolerations":[{"operator":"Exists"}],"containers":[{"name":"main","image":"docker.io/kelson/busybox:1.35.0","command":["sh","-c",%q]}]}}`, name, command)
}

// usage is what a set of processes has used so far.
type usage struct {
	cpu     time.Duration
	written int64 // bytes handed to a device
}

func usageOf(b *testing.B, pids []int) usage {
	b.Helper()
	var u usage
	for _, pid := range pids {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			b.Fatal(err)
		}
		f := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
		ticks := number(b, f[11]) + number(b, f[12])
		u.cpu += time.Duration(ticks) * time.Second / 100
		u.written += field(b, fmt.Sprintf("/proc/%d/io", pid), "write_bytes:")
	}
	return u
}

// memory returns PSS and RSS of a process in MB.
func memory(b *testing.B, pid int) (pss, rss float64) {
	b.Helper()
	file := fmt.Sprintf("/proc/%d/smaps_rollup", pid)
	return float64(field(b, file, "Pss:")) / 1000 * 1.024, float64(field(b, file, "Rss:")) / 1000 * 1.024
}

// field reads the number behind a name in a /proc file.
func field(b *testing.B, file, name string) int64 {
	b.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		b.Fatal(err)
	}
	lines := bufio.NewScanner(bytes.NewReader(raw))
	for lines.Scan() {
		if f := strings.Fields(lines.Text()); len(f) > 1 && f[0] == name {
			return number(b, f[1])
		}
	}
	b.Fatalf("%s has no %s", file, name)
	return 0
}

// deviceWritten is what the device below path has been written, in bytes.
func deviceWritten(b *testing.B, path string) int64 {
	b.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		b.Fatal(err)
	}
	raw, err := os.ReadFile(fmt.Sprintf("/sys/dev/block/%d:%d/stat", unix.Major(st.Dev), unix.Minor(st.Dev)))
	if err != nil {
		b.Logf("no device statistics: %v", err)
		return 0
	}
	return number(b, strings.Fields(string(raw))[6]) * 512
}

func number(b *testing.B, text string) int64 {
	b.Helper()
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// role names the part of the system that a process is, "" for shims and what
// runs in containers.
func role(p testkit.Process, core []int) string {
	name := filepath.Base(p.Args[0])
	if slices.Contains(core, p.PID) {
		return "core"
	}
	switch {
	case name == "containerd":
		return "containerd"
	case name == "kelson-host" && len(p.Args) > 1 && p.Args[1] == "node", name == "kubelet", name == "kube-proxy":
		return "node"
	default:
		return ""
	}
}

// idle measures memory now, and CPU and writes over a while.
func idle(b *testing.B, f figures, all []testkit.Process, core []int, disk string, span time.Duration) {
	b.Helper()
	var pids []int
	sums := map[string]float64{}
	for _, p := range all {
		r := role(p, core)
		if r == "" {
			continue
		}
		pids = append(pids, p.PID)
		pss, rss := memory(b, p.PID)
		sums[r] += pss
		sums["pss"] += pss
		sums["rss"] += rss
	}
	before, device, begun := usageOf(b, pids), deviceWritten(b, disk), time.Now()
	<-time.After(span)
	after, elapsed := usageOf(b, pids), time.Since(begun)
	perHour := float64(time.Hour) / float64(elapsed) / 1e6
	f.add(pssAll, "MB", sums["pss"])
	f.add(rssAll, "MB", sums["rss"])
	f.add(pssCore, "MB", sums["core"])
	f.add(pssNode, "MB", sums["node"])
	f.add(pssRuntime, "MB", sums["containerd"])
	f.add(cpuIdle, "%", 100*float64(after.cpu-before.cpu)/float64(elapsed))
	f.add(writesIdle, "MB/h", float64(after.written-before.written)*perHour)
	f.add(writesTotal, "MB/h", float64(deviceWritten(b, disk)-device)*perHour)
}

package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// build builds the shim as it ships.
func build(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kelson-cni")
	c := exec.Command("go", "build", "-ldflags", "-s -w", "-o", path, ".")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return path
}

func (n *node) exec(program, id, command string) ([]byte, error) {
	c := exec.Command(program)
	c.Env = append(env(command), "CNI_CONTAINERID="+id)
	c.Stdin = bytes.NewReader(n.conf())
	return c.Output()
}

// TestProgram runs the program 32 times at once, with few file descriptors.
func TestProgram(t *testing.T) {
	program := build(t)
	n := newNode(t)
	n.listen()
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			c := exec.Command("/bin/sh", "-c", "ulimit -n 6 -c 0 -s 256; exec "+program)
			c.Env = append(env("ADD"), fmt.Sprint("CNI_CONTAINERID=c", i))
			c.Stdin = bytes.NewReader(n.conf())
			if out, err := c.Output(); err != nil || string(out) != okResult+"\n" {
				t.Errorf("ADD %d: %v, %s", i, err, out)
			}
		})
	}
	wg.Wait()
	if list := n.in(n.records); len(list) != 32 {
		t.Errorf("%d records", len(list))
	}
	info, err := os.Stat(program)
	if err != nil {
		t.Fatal(err)
	}
	if t.Logf("%d bytes", info.Size()); info.Size() > 3<<20 {
		t.Errorf("the shim has %d bytes, at most 3 MiB", info.Size())
	}
}

// TestSmall keeps heavy packages out.
func TestSmall(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for pkg := range strings.FieldsSeq(string(out)) {
		for _, heavy := range []string{"net", "fmt", "encoding/json", "google.golang.org/grpc"} {
			if pkg == heavy {
				t.Errorf("the shim links %s", pkg)
			}
		}
	}
}

// BenchmarkExec is exec to reply. ADD includes the record's fsync.
func BenchmarkExec(b *testing.B) {
	program := build(b)
	for _, command := range []string{"STATUS", "ADD", "DEL"} {
		b.Run(command, func(b *testing.B) {
			n := newNode(b)
			n.listen()
			var took []time.Duration
			for b.Loop() {
				began := time.Now()
				if out, err := n.exec(program, "c1", command); err != nil {
					b.Fatalf("%v: %s", err, out)
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
		})
	}
}

package bench

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kelson-io/kelson/core/internal/testkit"
)

var (
	quick    = flag.Bool("quick", false, "one boot each and a short idle span")
	boots    = flag.Int("boots", 5, "cold and warm boots each, without -quick")
	subjects = flag.String("subjects", "kelson,stock", "what is measured")
)

// plan is how much is measured.
type plan struct {
	boots        int
	settle, idle time.Duration
}

func chosen() plan {
	if *quick {
		return plan{boots: 1, settle: 5 * time.Second, idle: 10 * time.Second}
	}
	return plan{boots: *boots, settle: 60 * time.Second, idle: 2 * time.Minute}
}

// BenchmarkBudgets measures both subjects once, whatever b.N is, and prints
// the table.
var budgetsOnce sync.Once

func BenchmarkBudgets(b *testing.B) {
	budgetsOnce.Do(func() {
		p, kelson, stock := chosen(), figures{}, figures{}
		if strings.Contains(*subjects, "kelson") {
			b.Run("kelson", func(b *testing.B) { once(b, kelson, func() { measureKelson(b, p, kelson) }) })
		}
		if strings.Contains(*subjects, "stock") {
			b.Run("stock", func(b *testing.B) { once(b, stock, func() { measureStock(b, p, stock) }) })
		}
		printTable(os.Stdout, kelson, stock)
	})
}

// once keeps the framework from repeating a run of minutes.
func once(b *testing.B, f figures, run func()) {
	b.Helper()
	if len(f) == 0 {
		b.ResetTimer()
		run()
	}
}

func measureKelson(b *testing.B, p plan, f figures) {
	b.Helper()
	bin := testkit.Binary(b, "KELSON")
	info, err := os.Stat(bin)
	if err != nil {
		b.Fatal(err)
	}
	f.add(fileSize, "MiB", float64(info.Size())/(1<<20))
	for range p.boots {
		b.Run("cold", func(b *testing.B) {
			s := testkit.NewServer(b, testkit.ServerConfig{Bin: bin, Net: testkit.NewNetwork(b, testkit.NetworkConfig{})})
			coldBoot(b, s, f)
		})
	}
	s := testkit.NewServer(b, testkit.ServerConfig{Bin: bin, Net: testkit.NewNetwork(b, testkit.NetworkConfig{})})
	s.Start(b)
	s.WaitNode(b, patience)
	s.WaitPods(b, patience, "kube-system", "", 3)
	for i := range p.boots {
		warmBoot(b, s, f, i)
	}
	s.WaitPods(b, patience, "kube-system", "", 3)
	<-time.After(p.settle)
	idle(b, f, s.Processes(b), []int{s.PID()}, s.Data, p.idle)
}

func coldBoot(b *testing.B, s *testkit.Server, f figures) {
	b.Helper()
	// The pod calls back as soon as a lookup succeeds: no poll blurs the figure.
	l := s.Net.Listen(b, "tcp", net.JoinHostPort(s.Net.Addr().String(), "9999"))
	answered := make(chan time.Time, 1)
	go func() {
		if c, err := l.Accept(); err == nil {
			answered <- time.Now()
			c.Close()
		}
	}()
	api := keep(s.API)
	begun := time.Now()
	s.Start(b)
	until(b, coldAPI, apiReady(api))
	f.took(coldAPI, time.Since(begun))
	var rest sync.WaitGroup
	rest.Go(func() {
		until(b, coldNode, nodeReady(api, "", begun))
		f.took(coldNode, time.Since(begun))
	})
	until(b, "create pod", createPod(api, podJSON("first", "exec sleep 86400")))
	until(b, coldPod, podRunning(api, "first"))
	pod := time.Since(begun)
	// A lost query is sent again after a tenth of a second, not after the usual 2.5.
	lookup := fmt.Sprintf("until nslookup -timeout=1 -retry=10 kubernetes.default.svc.cluster.local; do sleep 0.05; done; echo | nc %s 9999; exec sleep 86400", s.Net.Addr())
	until(b, "create lookup", createPod(api, podJSON("lookup", lookup)))
	rest.Wait()
	f.took(coldPod, pod)
	select {
	case at := <-answered:
		f.took(coldDNS, at.Sub(begun))
	case <-time.After(patience):
		b.Fatalf("no DNS answer\n%s", s.Tail(40))
	}
}

func warmBoot(b *testing.B, s *testkit.Server, f figures, round int) {
	b.Helper()
	beat := ""
	s.Await(b, patience, "node", func(ctx context.Context, a *testkit.API) error {
		node, err := a.Node(ctx)
		beat = heartbeat(node)
		return err
	})
	f.took(stopTime, s.Stop(b, 20*time.Second))
	api := keep(s.API)
	begun := time.Now()
	s.Start(b)
	until(b, warmAPI, apiReady(api))
	f.took(warmAPI, time.Since(begun))
	name := fmt.Sprintf("warm-%d", round)
	var rest sync.WaitGroup
	rest.Go(func() {
		until(b, warmNode, nodeReady(api, beat, begun))
		f.took(warmNode, time.Since(begun))
	})
	until(b, "create pod", createPod(api, podJSON(name, "exec sleep 86400")))
	until(b, warmPod, podRunning(api, name))
	pod := time.Since(begun)
	rest.Wait()
	f.took(warmPod, pod)
	s.Kubectl(b, "delete", "pod", name, "--wait=true")
}

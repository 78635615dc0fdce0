package cnitest

import (
	"errors"
	"net/netip"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kelson-io/kelson/sdk/cni"
	"github.com/kelson-io/kelson/sdk/cni/record"
	cniv1 "github.com/kelson-io/kelson/sdk/proto/cni/v1"
)

// throughShim is the container runtime's way.
func throughShim(t *testing.T, k *kit) {
	for _, version := range cni.Versions() {
		p := k.newPod(t, version)
		if out, err := k.shim(p, "STATUS", ""); err != nil || len(out) != 0 {
			t.Errorf("STATUS: %v: %s", err, out)
		}
		if err := k.add(p, true); err != nil {
			t.Fatalf("ADD: %v", err)
		}
		records := record.Dir(k.path("attachments"))
		if r, err := records.Get(p.id, ifname); err != nil || r.Plugin != plugName || r.Socket != k.setup.GetSocket() {
			t.Errorf("record %+v, %v", r, err)
		}
		k.reaches(t, p, k.gateways()...)
		if out, err := k.shim(p, "CHECK", p.path()); err != nil || len(out) != 0 {
			t.Errorf("CHECK: %v: %s", err, out)
		}
		for range 3 {
			if out, err := k.shim(p, "DEL", p.path()); err != nil || len(out) != 0 {
				t.Errorf("DEL: %v: %s", err, out)
			}
		}
		for _, dir := range []string{"attachments", "journal"} {
			if left, err := record.Dir(k.path(dir)).List(); err != nil || len(left) != 0 {
				t.Errorf("%s: %v, %v", dir, left, err)
			}
		}
		k.eventually(t, func() error { return k.holds() })
	}
}

// statusWhileStopped asks a plugin that hangs.
func statusWhileStopped(t *testing.T, k *kit) {
	p := k.newPod(t, latest)
	k.process.stopped(t, func() {
		began := time.Now()
		out, err := k.shim(p, "STATUS", "")
		took := time.Since(began)
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || errorCode(out) != cni.CodeNotAvailable {
			t.Errorf("STATUS: %v: %s", err, out)
		}
		if took > 2*statusTime { // twice, for a machine that is busy
			t.Errorf("STATUS took %v", took)
		}
	})
	k.statusByFrame(t)
}

// journal detaches while the plugin is dead.
func journal(t *testing.T, k *kit) {
	k.drop(t, k.attached(t))
	links, err := k.links()
	if err != nil {
		t.Fatal(err)
	}
	keep := k.attached(t)
	p := k.newPod(t, latest)
	if err := k.add(p, true); err != nil {
		t.Fatal(err)
	}
	k.kill()
	if out, err := k.shim(p, "DEL", p.path()); err != nil {
		t.Errorf("DEL of a dead plugin: %v: %s", err, out)
	}
	p.close()
	entries := record.Dir(k.path("journal"))
	if r, err := entries.Get(p.id, ifname); err != nil || r.Plugin != plugName {
		t.Errorf("journal: %+v, %v", r, err)
	}
	k.launch(t)
	k.begin(t)
	err = entries.Replay(func(record.Record) error {
		k.collect(t, keep)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	k.eventually(t, func() error { return k.holds(keep) })
	k.reaches(t, keep, k.gateways()...)
	k.drop(t, keep)
	k.eventually(t, func() error { return k.clean(links) })
}

// restartKeepsPods kills the plugin while pods talk.
func restartKeepsPods(t *testing.T, k *kit) {
	one, two := k.attached(t), k.attached(t)
	targets := append(k.gateways(), two.addresses...)
	k.reaches(t, one, targets...)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for _, to := range targets {
		wg.Go(func() { pingUntil(t, one, to, stop) })
	}
	for range 3 {
		k.again(t)
	}
	close(stop)
	wg.Wait()
	for _, p := range []*pod{one, two} {
		if err := k.del(p, p.path()); err != nil {
			t.Errorf("DEL of a pod that the plugin before attached: %v", err)
		}
		if left, err := p.interfaces(); err != nil || slices.Contains(left, ifname) {
			t.Errorf("its interface is left: %v, %v", left, err)
		}
		p.close()
	}
	k.eventually(t, func() error { return k.holds() })
}

// pingUntil tolerates no lost answer.
func pingUntil(t *testing.T, from *pod, to netip.Addr, stop <-chan struct{}) {
	t.Helper()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for sequence := uint16(1000); ; sequence++ {
		if err := from.ping(to, sequence, settleTime); err != nil {
			t.Errorf("during a restart: %v", err)
			return
		}
		select {
		case <-stop:
			return
		case <-tick.C:
		}
	}
}

// crashLeaksNothing kills the plugin at different moments of many ADDs.
func crashLeaksNothing(t *testing.T, k *kit) {
	k.drop(t, k.attached(t))
	links, err := k.links()
	if err != nil {
		t.Fatal(err)
	}
	keep := k.attached(t)
	for _, after := range []int32{0, 1, 3, 6} {
		pods := make([]*pod, 8)
		for i := range pods {
			pods[i] = k.newPod(t, latest)
		}
		var attached atomic.Int32
		kill := time.AfterFunc(settleTime, k.process.kill)
		if after == 0 {
			kill.Reset(10 * time.Millisecond)
		}
		all(pods, func(p *pod) {
			if err := k.add(p, false); err != nil {
				if p.raw != nil {
					t.Errorf("ADD: %v", err)
				}
				return // with the plugin's end
			}
			if attached.Add(1) == after {
				kill.Reset(0)
			}
		})
		kill.Stop()
		k.again(t)
		var done []*pod
		for i, p := range pods {
			switch {
			case p.raw != nil:
				done = append(done, p)
			case i%2 == 0:
				p.close() // as the runtime does, before or after the host collects
			}
		}
		t.Logf("killed after %d: %d of %d attached", after, len(done), len(pods))
		k.collect(t, append(done, keep)...)
		k.eventually(t, func() error { return k.holds(append(done, keep)...) })
		for i, p := range pods {
			if p.raw != nil || i%2 == 0 {
				continue
			}
			if left, err := p.interfaces(); err != nil || slices.Contains(left, ifname) {
				t.Errorf("a collected pod still has its interface: %v, %v", left, err)
			}
			p.close()
		}
		for _, p := range done {
			k.reaches(t, p, k.gateways()...)
		}
		k.drop(t, done...)
	}
	k.reaches(t, keep, k.gateways()...)
	k.drop(t, keep)
	k.eventually(t, func() error { return k.clean(links) })
}

// teardown leaves the node as it was, and can be followed by a start.
func teardown(t *testing.T, k *kit) {
	p := k.attached(t)
	ctx, cancel := call(t)
	defer cancel()
	if _, err := k.network.Teardown(ctx, &cniv1.TeardownRequest{}); err != nil {
		t.Errorf("Teardown: %v", err)
	}
	k.reaches(t, p, k.gateways()...)
	if err := k.del(p, p.path()); err != nil {
		t.Errorf("DEL after a Teardown that leaves what pods need: %v", err)
	}
	p.close()
	tearDown := func() {
		if _, err := k.network.Teardown(ctx, &cniv1.TeardownRequest{All: true}); err != nil {
			t.Errorf("Teardown of all: %v", err)
		}
		k.eventually(t, func() error { return difference(k.before, k.snapshot(t)) })
	}
	tearDown()
	tearDown() // nothing left to remove
	k.begin(t)
	k.drop(t, k.attached(t))
	tearDown()
	if err := k.holds(); err != nil {
		t.Error(err)
	}
}

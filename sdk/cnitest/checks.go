package cnitest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kelson-io/kelson/sdk/cni"
	"github.com/kelson-io/kelson/sdk/cni/frame"
	cniv1 "github.com/kelson-io/kelson/sdk/proto/cni/v1"
)

func preflight(t *testing.T, k *kit) {
	ctx, cancel := call(t)
	defer cancel()
	reply, err := k.network.Preflight(ctx, &cniv1.PreflightRequest{Node: k.setup.GetNode()})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range reply.GetProblems() {
		if p.GetSummary() == "" {
			t.Error("a problem without a summary")
		}
		if p.GetWarning() {
			t.Logf("warning: %s (%s)", p.GetSummary(), p.GetHint())
			continue
		}
		t.Errorf("the plugin cannot run here: %s (%s)", p.GetSummary(), p.GetHint())
	}
	if err := difference(k.before, k.snapshot(t)); err != nil {
		t.Errorf("Preflight: %v", err)
	}
}

func start(t *testing.T, k *kit) {
	ctx, cancel := call(t)
	defer cancel()
	if k.process != nil {
		if _, err := k.network.Start(ctx, &cniv1.StartRequest{}); err == nil {
			t.Error("Start succeeds before Setup")
		}
	}
	if _, err := k.network.Setup(ctx, k.setup); err != nil {
		t.Fatal(err)
	}
	if err := difference(k.before, k.snapshot(t)); err != nil {
		t.Errorf("Setup: %v", err)
	}
	if _, err := os.Lstat(k.setup.GetSocket()); err == nil {
		t.Error("the attachment socket is there before Start")
	}
	reply := k.begin(t)
	if reply.GetMtu() == 0 || reply.GetMtu() > k.setup.GetMtu() {
		t.Errorf("MTU %d with an uplink of %d", reply.GetMtu(), k.setup.GetMtu())
	}
	info, err := os.Lstat(k.setup.GetSocket())
	if err != nil {
		t.Fatalf("after Start: %v", err)
	}
	if info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("the attachment socket has mode %v", info.Mode())
	}
	status, err := k.network.Status(ctx, &cniv1.StatusRequest{})
	if err != nil || !status.GetReady() || status.GetCode() != 0 {
		t.Errorf("Status after Start: %v, %v", status, err)
	}
	before := k.snapshot(t)
	k.begin(t)
	if err := difference(before, k.snapshot(t)); err != nil {
		t.Errorf("a second Start: %v", err)
	}
}

func topology(t *testing.T, k *kit) {
	ctx, cancel := call(t)
	defer cancel()
	stream, err := k.network.Topology(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := stream.Send(&cniv1.TopologyRequest{Complete: true}); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatalf("a cluster of one node: %v", err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Error(err)
	}
}

// attachAndDetach is every verb in one version, and DEL in all circumstances.
func attachAndDetach(t *testing.T, k *kit, version string) {
	warm := k.attached(t) // what the first pod makes stays
	k.drop(t, warm)
	k.eventually(t, func() error { return k.holds() })
	links, err := k.links()
	if err != nil {
		t.Fatal(err)
	}
	if reply, err := k.ask(&frame.Request{Verb: frame.Status, Stdin: k.conf(version, nil)}); err != nil || reply.Failed {
		t.Errorf("STATUS: %v, %+v", err, reply)
	}
	for name, del := range map[string]func(*pod) error{
		"three times": func(p *pod) error {
			return errors.Join(k.del(p, p.path()), k.del(p, p.path()), k.del(p, p.path()))
		},
		"without CNI_NETNS": func(p *pod) error { return k.del(p, "") },
		"without prevResult": func(p *pod) error {
			p.raw = nil
			return k.del(p, p.path())
		},
		"after the namespace has gone": func(p *pod) error {
			path := p.path()
			p.close()
			return errors.Join(k.del(p, path), k.del(p, path))
		},
	} {
		p := k.newPod(t, version)
		if err := k.add(p, false); err != nil {
			t.Fatalf("ADD: %v", err)
		}
		k.reaches(t, p, k.gateways()...)
		if reply, err := k.operate(p, frame.Check, p.path()); err != nil || reply.Failed {
			t.Errorf("CHECK: %v, %+v", err, reply)
		}
		if err := del(p); err != nil {
			t.Errorf("DEL %s: %v", name, err)
		}
		p.close()
		k.eventually(t, func() error { return k.clean(links) })
	}
	never := k.newPod(t, version)
	if err := k.del(never, never.path()); err != nil {
		t.Errorf("DEL of what was never attached: %v", err)
	}
}

func checkFindsDamage(t *testing.T, k *kit) {
	p := k.attached(t)
	defer k.drop(t, p)
	if out, err := k.run(p.namespace, "ip", "addr", "flush", "dev", ifname); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if reply, err := k.operate(p, frame.Check, p.path()); err != nil || !reply.Failed {
		t.Errorf("CHECK of a pod without its addresses: %v, %+v", err, reply)
	}
	if out, err := k.run(p.namespace, "ip", "link", "del", ifname); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if reply, err := k.operate(p, frame.Check, p.path()); err != nil || !reply.Failed {
		t.Errorf("CHECK of a pod without its interface: %v, %+v", err, reply)
	}
	if err := k.del(p, p.path()); err != nil {
		t.Errorf("DEL of a damaged pod: %v", err)
	}
}

func refuses(t *testing.T, k *kit) {
	p := k.newPod(t, latest)
	good := frame.Request{Verb: frame.Add, Deadline: callTime, Env: p.env("ADD", p.path()), Stdin: k.conf(latest, nil)}
	for name, c := range map[string]struct {
		change func(*frame.Request)
		want   cni.Code
	}{
		"old version":       {func(r *frame.Request) { r.Stdin = k.conf("0.4.0", nil) }, cni.CodeVersion},
		"no JSON":           {func(r *frame.Request) { r.Stdin = []byte("{") }, cni.CodeDecoding},
		"no namespace":      {func(r *frame.Request) { r.Env[3] = "CNI_NETNS=" }, cni.CodeEnvironment},
		"no container":      {func(r *frame.Request) { r.Env[1] = "CNI_CONTAINERID=" }, cni.CodeEnvironment},
		"path as container": {func(r *frame.Request) { r.Env[1] = "CNI_CONTAINERID=../../x" }, cni.CodeEnvironment},
		"path as interface": {func(r *frame.Request) { r.Env[2] = "CNI_IFNAME=../x" }, cni.CodeEnvironment},
		"wrong namespace":   {func(r *frame.Request) { r.Env[3] = "CNI_NETNS=/dev/null" }, 0},
		"CHECK without prevResult": {func(r *frame.Request) {
			r.Verb, r.Env[0] = frame.Check, "CNI_COMMAND=CHECK"
		}, cni.CodeConfig},
	} {
		r := good
		r.Env = slices.Clone(good.Env)
		c.change(&r)
		reply, err := k.ask(&r)
		switch {
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case !reply.Failed:
			t.Errorf("%s: succeeds", name)
		case c.want != 0 && errorCode(reply.JSON) != c.want:
			t.Errorf("%s: code %d, want %d: %s", name, errorCode(reply.JSON), c.want, reply.JSON)
		case errorCode(reply.JSON) == 0:
			t.Errorf("%s: no error object with a code: %s", name, reply.JSON)
		}
	}
	k.drop(t, p)
	k.collect(t) // what was refused must not be in the way
	k.eventually(t, func() error { return k.holds() })
	for name, raw := range map[string][]byte{
		"other version": {0, 0, 0, 8, 9, 1, 0, 0, 0, 0, 0, 0},
		"other verb":    {0, 0, 0, 8, 1, 99, 0, 0, 0, 0, 0, 0},
		"too long":      {0xff, 0xff, 0xff, 0xff},
		"torn strings":  {0, 0, 0, 10, 1, 1, 0, 0, 0, 0, 0, 1, 0xff, 0xff},
	} {
		// The connection may be closed without an answer.
		if reply, err := k.send(raw); err == nil && !reply.Failed {
			t.Errorf("frame with %s: succeeds", name)
		}
	}
	k.statusByFrame(t)
}

func (k *kit) statusByFrame(t *testing.T) {
	t.Helper()
	reply, err := k.ask(&frame.Request{Verb: frame.Status, Deadline: callTime, Stdin: k.conf(latest, nil)})
	if err == nil {
		err = failed(reply)
	}
	if err != nil {
		t.Errorf("STATUS: %v", err)
	}
}

// silentClients connects and says nothing.
func silentClients(t *testing.T, k *kit) {
	for range 20 {
		conn, err := net.Dial("unix", k.setup.GetSocket())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	k.statusByFrame(t)
	k.drop(t, k.attached(t))
}

func parallel(t *testing.T, k *kit) {
	k.drop(t, k.attached(t))
	links, err := k.links()
	if err != nil {
		t.Fatal(err)
	}
	files := k.descriptors(t)
	pods := make([]*pod, podsAtOnce)
	for i := range pods {
		pods[i] = k.newPod(t, latest)
	}
	all(pods, func(p *pod) {
		if err := k.add(p, true); err != nil {
			t.Errorf("ADD: %v", err)
		}
	})
	owners := map[netip.Addr]*pod{}
	for _, p := range pods {
		for _, a := range p.addresses {
			if owners[a] != nil {
				t.Errorf("address %s belongs to two pods", a)
			}
			owners[a] = p
		}
	}
	if !t.Failed() {
		for i, p := range pods {
			k.reaches(t, p, append(k.gateways(), pods[(i+1)%len(pods)].addresses...)...)
		}
	}
	all(pods, func(p *pod) {
		if err := k.detach(p); err != nil {
			t.Errorf("DEL: %v", err)
		}
		p.close()
	})
	k.eventually(t, func() error { return k.clean(links) })
	k.eventually(t, func() error {
		if now := k.descriptors(t); now > files+4 {
			return fmt.Errorf("the plugin has %d files open, %d before", now, files)
		}
		return nil
	})
}

func (k *kit) descriptors(t *testing.T) int {
	t.Helper()
	if k.process == nil {
		return 0
	}
	n, err := k.process.descriptors()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func all(pods []*pod, f func(*pod)) {
	var wg sync.WaitGroup
	for _, p := range pods {
		wg.Go(func() { f(p) })
	}
	wg.Wait()
}

// collect has attachments that are valid no longer, with and without namespace.
func collect(t *testing.T, k *kit) {
	k.drop(t, k.attached(t))
	links, err := k.links()
	if err != nil {
		t.Fatal(err)
	}
	keep, gone, torn := k.attached(t), k.attached(t), k.attached(t)
	torn.close()
	removed := k.collect(t, keep)
	for _, p := range []*pod{gone, torn} {
		if !slices.Contains(removed, p.attachment()) {
			t.Errorf("%s is not among what was removed: %v", p.id[56:], removed)
		}
	}
	if slices.Contains(removed, keep.attachment()) {
		t.Error("a valid attachment was removed")
	}
	k.eventually(t, func() error { return k.holds(keep) })
	if left, err := gone.interfaces(); err != nil || slices.Contains(left, ifname) {
		t.Errorf("the collected pod still has its interface: %v, %v", left, err)
	}
	k.reaches(t, keep, k.gateways()...)
	if again := k.collect(t, keep); len(again) != 0 {
		t.Errorf("collected twice: %v", again)
	}
	// The same by the CNI operation.
	valid := []map[string]string{{"containerID": keep.id, "ifname": ifname}}
	other := k.attached(t)
	gc := &frame.Request{Verb: frame.GC, Deadline: callTime, Stdin: k.conf(latest, map[string]any{"cni.dev/valid-attachments": valid})}
	if reply, err := k.ask(gc); err != nil || reply.Failed {
		t.Errorf("GC: %v, %+v", err, reply)
	}
	k.eventually(t, func() error { return k.holds(keep) })
	k.reaches(t, keep, k.gateways()...)
	other.close()
	gone.close()
	k.drop(t, keep)
	k.eventually(t, func() error { return k.clean(links) })
}

func sameNames(before, after []string) error {
	var errs []error
	for _, name := range after {
		if !slices.Contains(before, name) {
			errs = append(errs, fmt.Errorf("link %s is left", name))
		}
	}
	for _, name := range before {
		if !slices.Contains(after, name) {
			errs = append(errs, fmt.Errorf("link %s is gone", name))
		}
	}
	return errors.Join(errs...)
}

// stopped runs f while the process is stopped.
func (p *process) stopped(t *testing.T, f func()) {
	t.Helper()
	if err := p.cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.cmd.Process.Signal(unix.SIGCONT); err != nil {
			t.Error(err)
		}
	}()
	// The signal is on its way; the last thread stops a moment later.
	if err := unix.Waitid(unix.P_PID, p.cmd.Process.Pid, nil, unix.WSTOPPED|unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	f()
}

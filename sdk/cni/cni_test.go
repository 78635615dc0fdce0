package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kelson-io/kelson/sdk/cni/frame"
	cniv1 "github.com/kelson-io/kelson/sdk/proto/cni/v1"
)

func TestOrderAndValues(t *testing.T) {
	n := &scripted{}
	var changes []Topology
	n.topology = func(c Topology) error { changes = append(changes, c); return nil }
	s := serve(t, n, Options{})
	ctx := t.Context()
	if _, err := s.Start(ctx, &cniv1.StartRequest{}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("start before setup: %v", err)
	}
	bad := s.request()
	bad.Node.PodCidrs = []string{"10.42.0.0"}
	if _, err := s.Setup(ctx, bad); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "pod CIDRs") {
		t.Errorf("bad CIDR: %v", err)
	}
	bad = s.request()
	bad.Socket = "relative"
	if _, err := s.Setup(ctx, bad); status.Code(err) != codes.InvalidArgument {
		t.Errorf("relative socket: %v", err)
	}
	pre, err := s.Preflight(ctx, &cniv1.PreflightRequest{Node: s.request().Node})
	if err != nil || len(pre.Problems) != 1 || pre.Problems[0].Summary != "node n1" || !pre.Problems[0].Warning {
		t.Errorf("preflight: %v, %v", pre, err)
	}
	if _, err := s.Setup(ctx, s.request()); err != nil {
		t.Fatal(err)
	}
	if n.setup.MTU != 1500 || n.setup.Node.PodCIDRs[1] != netip.MustParsePrefix("fd00::/64") || !n.setup.NFTables {
		t.Errorf("setup %+v", n.setup)
	}
	if _, err := os.Lstat(s.socket); err == nil {
		t.Error("socket exists before start")
	}
	started, err := s.Start(ctx, &cniv1.StartRequest{})
	if err != nil || started.Mtu != 1450 || started.Published["mac"] != "02::" {
		t.Fatalf("start: %v, %v", started, err)
	}
	info, err := os.Lstat(s.socket)
	if err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("socket %v, %v", info, err)
	}
	stream, err := s.Topology(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&cniv1.TopologyRequest{Complete: true, Nodes: []*cniv1.Node{{Name: "n2", Addresses: []string{"192.0.2.2"}}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	if len(changes) != 1 || !changes[0].Complete || changes[0].Nodes[0].Addresses[0] != netip.MustParseAddr("192.0.2.2") {
		t.Errorf("topology %+v", changes)
	}
	if _, err := s.Teardown(ctx, &cniv1.TeardownRequest{}); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(s.socket); err != nil {
		t.Errorf("a partial teardown still serves detachments: %v", err)
	}
	if _, err := s.Teardown(ctx, &cniv1.TeardownRequest{All: true}); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(filepath.Dir(s.socket)); err != nil || len(left) != 1 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestStartFailsWithoutSocket(t *testing.T) {
	n := &scripted{start: func() (Started, error) { return Started{}, Errorf(CodeConfig, "no such backend") }}
	s := serve(t, n, Options{})
	if _, err := s.Setup(t.Context(), s.request()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Start(t.Context(), &cniv1.StartRequest{}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("start: %v", err)
	}
	n.start = func() (Started, error) {
		return Started{Published: map[string]string{"k": strings.Repeat("x", 1024)}}, nil
	}
	if _, err := s.Start(t.Context(), &cniv1.StartRequest{}); status.Code(err) != codes.Internal {
		t.Errorf("too much published: %v", err)
	}
	if _, err := os.Lstat(s.socket); err == nil {
		t.Error("socket exists")
	}
}

func TestStaleAndMovedSocket(t *testing.T) {
	s := serve(t, &scripted{}, Options{})
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.socket})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	s.begin(t)
	if got := code(t, s.ask(t, frame.Request{Verb: frame.Add, Env: env("a")})); got != 0 {
		t.Fatalf("over a stale socket: code %d", got)
	}
	before, _ := os.Lstat(s.socket)
	s.begin(t)
	if after, err := os.Lstat(s.socket); err != nil || !os.SameFile(before, after) {
		t.Error("a second start changed an intact socket")
	}
	if err := os.Remove(s.socket); err != nil {
		t.Fatal(err)
	}
	s.begin(t)
	if got := code(t, s.ask(t, frame.Request{Verb: frame.Add, Env: env("a")})); got != 0 {
		t.Fatalf("over a removed socket: code %d", got)
	}
	old := s.socket
	s.socket += "2"
	s.begin(t)
	if got := code(t, s.ask(t, frame.Request{Verb: frame.Add, Env: env("a")})); got != 0 {
		t.Fatalf("at another path: code %d", got)
	}
	if _, err := os.Lstat(old); err == nil {
		t.Error("old socket is left")
	}
}

func TestAttach(t *testing.T) {
	n := &scripted{}
	var got *Request
	n.add = func(ctx context.Context, r *Request) (*Result, error) {
		got = r
		if end, ok := ctx.Deadline(); !ok || time.Until(end) > 7*time.Second {
			t.Errorf("deadline %v, %v", end, ok)
		}
		return &Result{CNIVersion: "1.1.0", Interfaces: []*types100.Interface{{Name: "eth0", Mtu: 1450}}}, nil
	}
	s := serve(t, n, Options{})
	s.begin(t)
	conf := `{"cniVersion":"1.0.0","name":"kelson","runtimeConfig":{"portMappings":[{"hostPort":80}]}}`
	reply := s.ask(t, frame.Request{Verb: frame.Add, Deadline: 7 * time.Second, Env: env("c1"), Stdin: []byte(conf)})
	if reply.Failed {
		t.Fatalf("add: %s", reply.JSON)
	}
	result, err := types100.NewResult(reply.JSON)
	if err != nil || result.Version() != "1.0.0" {
		t.Errorf("result %s: %v", reply.JSON, err)
	}
	ns, name := got.Pod()
	if got.ContainerID != "c1" || got.IfName != "eth0" || got.Netns != "/run/netns/x" || ns != "ns" || name != "pod" ||
		string(got.RuntimeConfig) != `{"portMappings":[{"hostPort":80}]}` || string(got.Config) != conf || got.CNIVersion != "1.0.0" {
		t.Errorf("request %+v", got)
	}
	check := fmt.Sprintf(`{"cniVersion":"1.1.0","name":"kelson","prevResult":%s}`, strings.Replace(string(reply.JSON), "1.0.0", "1.1.0", 1))
	if r := s.ask(t, frame.Request{Verb: frame.Check, Env: env("c1"), Stdin: []byte(check)}); r.Failed || len(r.JSON) != 0 {
		t.Errorf("check: %s", r.JSON)
	}
	if r := s.ask(t, frame.Request{Verb: frame.Del, Env: slices.Delete(env("c1"), 2, 3)}); r.Failed {
		t.Errorf("del without netns: %s", r.JSON)
	}
	if r := s.ask(t, frame.Request{Verb: frame.GetInfo}); !strings.Contains(string(r.JSON), `"supportedVersions":["1.0.0","1.1.0"]`) {
		t.Errorf("version: %s", r.JSON)
	}
}

func TestErrorsBecomeCodes(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want Code
		rpc  codes.Code
	}{
		"plain":     {errors.New("x"), CodeInternal, codes.Internal},
		"coded":     {fmt.Errorf("add: %w", Errorf(CodeConfig, "x")), CodeConfig, codes.InvalidArgument},
		"own":       {Errorf(123, "x"), 123, codes.Internal},
		"delegate":  {fmt.Errorf("add: %w", &types.Error{Code: 8, Msg: "x", Details: "d"}), 8, codes.Internal},
		"time":      {fmt.Errorf("add: %w", context.DeadlineExceeded), CodeTryAgain, codes.DeadlineExceeded},
		"try again": {Errorf(CodeTryAgain, "x"), CodeTryAgain, codes.Unavailable},
		"status":    {status.Error(codes.AlreadyExists, "x"), CodeInternal, codes.AlreadyExists},
	} {
		t.Run(name, func(t *testing.T) {
			if got := CodeOf(c.err); got != c.want {
				t.Errorf("code %d, want %d", got, c.want)
			}
			if got := status.Code(rpc(c.err)); got != c.rpc {
				t.Errorf("rpc %v, want %v", got, c.rpc)
			}
			var e types.Error
			if err := json.Unmarshal(object(c.err, "1.1.0"), &e); err != nil || Code(e.Code) != c.want {
				t.Errorf("object %+v, %v", e, err)
			}
		})
	}
	long := object(errors.New(strings.Repeat("\xff", maxMessage+10)), "")
	if len(long) > 16*maxMessage || !json.Valid(long) {
		t.Errorf("long message: %d bytes", len(long))
	}
}

func TestRefusedRequests(t *testing.T) {
	n := &scripted{add: func(context.Context, *Request) (*Result, error) { panic("boom") }}
	n.status = func() error { return errors.New("no route") }
	s := serve(t, n, Options{})
	s.begin(t)
	secret := `{"cniVersion":"1.1.0","runtimeConfig":"s3cret`
	for name, c := range map[string]struct {
		r    frame.Request
		want Code
	}{
		"panic":           {frame.Request{Verb: frame.Add, Env: env("a")}, CodeInternal},
		"status":          {frame.Request{Verb: frame.Status}, CodeNotAvailable},
		"version":         {frame.Request{Verb: frame.Add, Env: env("a"), Stdin: []byte(`{"cniVersion":"0.4.0"}`)}, CodeVersion},
		"no JSON":         {frame.Request{Verb: frame.Add, Env: env("a"), Stdin: []byte(secret)}, CodeDecoding},
		"path as id":      {frame.Request{Verb: frame.Del, Env: env("../a")}, CodeEnvironment},
		"no id":           {frame.Request{Verb: frame.Del}, CodeEnvironment},
		"no netns":        {frame.Request{Verb: frame.Add, Env: slices.Delete(env("a"), 2, 3)}, CodeEnvironment},
		"no prevResult":   {frame.Request{Verb: frame.Check, Env: env("a")}, CodeConfig},
		"bad prevResult":  {frame.Request{Verb: frame.Check, Env: env("a"), Stdin: []byte(`{"cniVersion":"1.0.0","prevResult":5}`)}, CodeDecoding},
		"GC without list": {frame.Request{Verb: frame.GC}, CodeConfig},
	} {
		t.Run(name, func(t *testing.T) {
			r := s.ask(t, c.r)
			if got := code(t, r); got != c.want {
				t.Errorf("code %d, want %d: %s", got, c.want, r.JSON)
			}
			if strings.Contains(string(r.JSON), "s3cret") {
				t.Error("the error repeats the configuration")
			}
		})
	}
	if got := code(t, s.raw(t, []byte{0, 0, 0, 1, 9})); got != CodeIO {
		t.Errorf("malformed frame: code %d", got)
	}
	n.status = func() error { return Errorf(CodeLimited, "tunnel is down") }
	if got := code(t, s.ask(t, frame.Request{Verb: frame.Status})); got != CodeLimited {
		t.Errorf("status: code %d", got)
	}
	reply, err := s.Status(t.Context(), &cniv1.StatusRequest{})
	if err != nil || reply.Ready || reply.Code != 51 || reply.Message != "tunnel is down" {
		t.Errorf("status: %v, %v", reply, err)
	}
}

// TestOnlyRoot connects as another user, from a thread of its own.
func TestOnlyRoot(t *testing.T) {
	var added atomic.Int32
	n := &scripted{add: func(context.Context, *Request) (*Result, error) {
		added.Add(1)
		return &Result{CNIVersion: "1.0.0"}, nil
	}}
	s := serve(t, n, Options{})
	s.begin(t)
	for _, path := range []string{s.socket, filepath.Dir(s.socket)} {
		if err := os.Chmod(path, 0o777); err != nil { // as if someone had loosened it
			t.Fatal(err)
		}
	}
	raw, err := (&frame.Request{Verb: frame.Add, Env: env("a"), Stdin: []byte(plainConf)}).Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); errno != 0 {
			result <- nil
			t.Error(errno)
			return
		}
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err == nil {
			defer unix.Close(fd)
			err = unix.Connect(fd, &unix.SockaddrUnix{Name: s.socket})
		}
		if err != nil {
			t.Errorf("connect: %v", err)
		}
		_, _ = unix.Write(fd, raw)
		n, err := unix.Read(fd, make([]byte, 100))
		if n > 0 {
			err = fmt.Errorf("%d bytes answered", n)
		} else if errors.Is(err, unix.ECONNRESET) {
			err = nil
		}
		result <- err
	}()
	if err := <-result; err != nil {
		t.Error(err)
	}
	if added.Load() != 0 {
		t.Error("an attachment was made for another user")
	}
}

func TestConcurrency(t *testing.T) {
	const parallel = 3
	var running, most, sameRunning, collecting atomic.Int32
	work := func(id string) {
		if collecting.Load() != 0 {
			t.Error("attachment during collect")
		}
		for now := running.Add(1); ; {
			m := most.Load()
			if now <= m || most.CompareAndSwap(m, now) {
				break
			}
		}
		if id == "same" && sameRunning.Add(1) > 1 {
			t.Error("one container twice at once")
		}
		runtime.Gosched()
		time.Sleep(time.Millisecond)
		if id == "same" {
			sameRunning.Add(-1)
		}
		running.Add(-1)
	}
	n := &scripted{
		add: func(_ context.Context, r *Request) (*Result, error) {
			work(r.ContainerID)
			return &Result{CNIVersion: "1.0.0"}, nil
		},
		del: func(_ context.Context, r *Request) error { work(r.ContainerID); return nil },
		collect: func([]Attachment) ([]Attachment, error) {
			collecting.Add(1)
			defer collecting.Add(-1)
			if running.Load() != 0 {
				t.Error("collect during an attachment")
			}
			time.Sleep(2 * time.Millisecond)
			return []Attachment{{"gone", "eth0"}}, nil
		},
	}
	s := serve(t, n, Options{Parallel: parallel})
	s.begin(t)
	var wg sync.WaitGroup
	for i := range 40 {
		id, verb := fmt.Sprint("c", i), frame.Add
		if i%4 == 0 {
			id = "same"
		}
		if i%3 == 0 {
			verb = frame.Del
		}
		wg.Go(func() {
			raw, err := (&frame.Request{Verb: verb, Env: env(id), Stdin: []byte(plainConf)}).Append(nil)
			if err != nil {
				t.Error(err)
			}
			if r, err := s.try(raw); err != nil || r.Failed {
				t.Errorf("%s %v: %v, %v", id, verb, r, err)
			}
		})
		if i%10 == 0 {
			wg.Go(func() {
				reply, err := s.Collect(t.Context(), &cniv1.CollectRequest{})
				if err != nil || len(reply.Removed) != 1 || reply.Removed[0].ContainerId != "gone" {
					t.Errorf("collect: %v, %v", reply, err)
				}
			})
		}
	}
	wg.Wait()
	if most.Load() > parallel || most.Load() < 2 {
		t.Errorf("%d at once, at most %d wanted and more than one", most.Load(), parallel)
	}
}

// TestQueueHasDeadlines holds the only slot: who waits is told to try again,
// STATUS does not wait, and Collect gives up with its own deadline.
func TestQueueHasDeadlines(t *testing.T) {
	hold, held := make(chan struct{}), make(chan struct{})
	n := &scripted{add: func(context.Context, *Request) (*Result, error) {
		close(held)
		<-hold
		return &Result{CNIVersion: "1.0.0"}, nil
	}}
	s := serve(t, n, Options{Parallel: 1})
	s.begin(t)
	raw, _ := (&frame.Request{Verb: frame.Add, Env: env("a"), Stdin: []byte(plainConf)}).Append(nil)
	first := make(chan error, 1)
	go func() {
		r, err := s.try(raw)
		if err == nil && r.Failed {
			err = errors.New(string(r.JSON))
		}
		first <- err
	}()
	<-held
	for _, id := range []string{"a", "b"} { // same container; other container, no slot
		r := s.ask(t, frame.Request{Verb: frame.Del, Deadline: 20 * time.Millisecond, Env: env(id)})
		if got := code(t, r); got != CodeTryAgain {
			t.Errorf("%s: code %d", id, got)
		}
	}
	if r := s.ask(t, frame.Request{Verb: frame.Status}); r.Failed {
		t.Errorf("status: %s", r.JSON)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Collect(ctx, &cniv1.CollectRequest{}); err == nil {
		t.Error("collect did not wait for the attachment")
	}
	close(hold)
	if err := <-first; err != nil {
		t.Error(err)
	}
	if r := s.ask(t, frame.Request{Verb: frame.Del, Env: env("a")}); r.Failed {
		t.Errorf("afterwards: %s", r.JSON)
	}
	gc := `{"cniVersion":"1.1.0","cni.dev/valid-attachments":[{"containerID":"v","ifname":"eth0"}]}`
	var valid []Attachment
	n.collect = func(v []Attachment) ([]Attachment, error) { valid = v; return nil, nil }
	if r := s.ask(t, frame.Request{Verb: frame.GC, Stdin: []byte(gc)}); r.Failed || !slices.Equal(valid, []Attachment{{"v", "eth0"}}) {
		t.Errorf("GC: %s, valid %v", r.JSON, valid)
	}
}

package python

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/kelson-io/kelson/sdk/cni/frame"
	cniv1 "github.com/kelson-io/kelson/sdk/proto/cni/v1"
	pluginv1 "github.com/kelson-io/kelson/sdk/proto/plugin/v1"
)

const tools = "/usr/sbin:/usr/bin:/sbin:/bin"

// standardPlugins is the folder with bridge, host-local and portmap.
func standardPlugins(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../../../dist/payload/cni")
	if err != nil {
		t.Fatal(err)
	}
	if payload := os.Getenv("KELSON_PAYLOAD"); payload != "" {
		dir = filepath.Join(payload, "cni")
	}
	if _, err := os.Stat(filepath.Join(dir, "bridge")); err != nil {
		t.Skipf("needs the standard CNI plugins (make build): %v", err)
	}
	return dir
}

// inside runs the test again in a process with a network namespace of its own.
func inside(t *testing.T) bool {
	t.Helper()
	if os.Getenv("KELSON_TEST_INNER") == t.Name() {
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for _, tool := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
	program(t)         // skips
	standardPlugins(t) // skips
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=3m")
	cmd.Env = append(os.Environ(), "KELSON_TEST_INNER="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
	return false
}

// instance is a running plugin.
type instance struct {
	t     *testing.T
	dir   string // of the socket
	cmd   *exec.Cmd
	base  pluginv1.PluginClient
	cni   cniv1.NetworkClient
	setup *cniv1.SetupRequest
}

func launch(t *testing.T, state string) *instance {
	t.Helper()
	p := &instance{t: t, dir: socketDir(t), cmd: exec.Command(program(t))}
	p.cmd.Env = []string{
		"PATH=" + tools, "KELSON_PLUGIN=kelson.plugin.v1", "KELSON_PLUGIN_LIFETIME=node",
		"PLUGIN_PROTOCOL_VERSIONS=1", "PLUGIN_UNIX_SOCKET_DIR=" + p.dir,
	}
	p.cmd.Stderr = t.Output()
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.cmd.Process.Kill(); _ = p.cmd.Wait() })
	var socket string
	if _, err := fmt.Fscanf(stdout, "1|1|unix|%s\n", &socket); err != nil {
		t.Fatalf("handshake: %v", err)
	}
	socket = strings.TrimSuffix(socket, "|grpc|")
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	p.base, p.cni = pluginv1.NewPluginClient(conn), cniv1.NewNetworkClient(conn)
	p.setup = &cniv1.SetupRequest{
		Node:         &cniv1.Node{Name: "a", PodCidrs: []string{"10.99.0.0/24", "fd99::/64"}},
		ClusterCidrs: []string{"10.99.0.0/16", "fd99::/48"}, ServiceCidrs: []string{"10.98.0.0/16"},
		Mtu: 1400, Socket: filepath.Join(state, "a.sock"), IpamDir: filepath.Join(state, "ipam"),
		BinDirs: []string{standardPlugins(t)}, CacheDir: filepath.Join(state, "cache"), Path: tools, Nftables: true,
	}
	return p
}

// start brings it to where it serves attachments.
func (p *instance) start() {
	p.t.Helper()
	ctx := p.ctx()
	if _, err := p.base.Configure(ctx, &pluginv1.ConfigureRequest{Generation: 1}); err != nil {
		p.t.Fatalf("configure: %v", err)
	}
	if _, err := p.cni.Setup(ctx, p.setup); err != nil {
		p.t.Fatalf("setup: %v", err)
	}
	started, err := p.cni.Start(ctx, &cniv1.StartRequest{})
	if err != nil {
		p.t.Fatalf("start: %v", err)
	}
	if started.GetMtu() != p.setup.GetMtu() {
		p.t.Errorf("MTU %d, the node's is %d", started.GetMtu(), p.setup.GetMtu())
	}
}

func (p *instance) ctx() context.Context {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	p.t.Cleanup(cancel)
	return ctx
}

// ask sends one frame. The configuration is what the runtime would give.
func (p *instance) ask(verb frame.Verb, pod, netns string, extra map[string]any) frame.Reply {
	conf := map[string]any{"cniVersion": "1.1.0", "name": "kelson", "type": "kelson-cni"}
	maps.Copy(conf, extra)
	stdin, err := json.Marshal(conf)
	if err != nil {
		p.t.Error(err)
	}
	request := frame.Request{Verb: verb, Deadline: deadline, Stdin: stdin, Env: []string{
		"CNI_COMMAND=" + verb.String(), "CNI_CONTAINERID=" + pod, "CNI_IFNAME=eth0", "CNI_NETNS=" + netns,
	}}
	reply, err := p.exchange(&request)
	if err != nil {
		p.t.Errorf("%s %s: %v", verb, pod, err)
		return frame.Reply{Failed: true}
	}
	return *reply
}

func (p *instance) exchange(request *frame.Request) (*frame.Reply, error) {
	raw, err := request.Append(nil)
	if err != nil {
		return nil, err
	}
	return p.send(raw)
}

func (p *instance) send(raw []byte) (*frame.Reply, error) {
	conn, err := net.Dial("unix", p.setup.GetSocket())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(deadline)); err != nil {
		return nil, err
	}
	if _, err := conn.Write(raw); err != nil {
		return nil, err
	}
	return frame.ReadReply(conn)
}

// run executes a tool and returns what it prints.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// pod makes a network namespace.
func pod(t *testing.T, name string) (netns string) {
	t.Helper()
	name = fmt.Sprintf("kp%d-%s", os.Getpid(), name)
	run(t, "ip", "netns", "add", name)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() })
	return "/run/netns/" + name
}

func in(t *testing.T, netns string, args ...string) string {
	t.Helper()
	return run(t, "nsenter", append([]string{"--net=" + netns, "--"}, args...)...)
}

// listing is what could be left behind. portmap keeps its empty table.
func listing(t *testing.T) string {
	t.Helper()
	return run(t, "ip", "-o", "link", "show") + run(t, "ip", "route", "show", "table", "all") + run(t, "nft", "list", "tables")
}

func leases(t *testing.T, p *instance) (files []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(p.setup.GetIpamDir(), "*", "*[.:]*"))
	if err != nil {
		t.Fatal(err)
	}
	kept := files[:0]
	for _, f := range files {
		if !strings.HasPrefix(filepath.Base(f), "last_reserved_ip") {
			kept = append(kept, f)
		}
	}
	return kept
}

// TestNetwork is the life of a network: pods that reach each other, a plugin
// that is killed and started anew, what it must clean up, and its end.
func TestNetwork(t *testing.T) {
	if !inside(t) {
		return
	}
	run(t, "ip", "link", "set", "lo", "up")
	before := listing(t)
	state := socketDir(t)
	p := launch(t, state)
	if _, err := p.cni.Start(p.ctx(), &cniv1.StartRequest{}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("Start before Setup: %v", err)
	}
	p.start()
	a, b := pod(t, "a"), pod(t, "b")
	first := p.add(t, "a", a)
	second := p.add(t, "b", b)
	server := in(t, a, "ip", "-o", "address", "show", "eth0")
	for _, ip := range first.IPs {
		if !strings.Contains(server, ip.Address.String()) {
			t.Errorf("the pod has no %s:\n%s", &ip.Address, server)
		}
	}
	reach(t, b, first, a)
	reach(t, a, second, b)
	p.check(t, "a", a, first, false)

	// A new process knows what the old one attached.
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = p.cmd.Wait()
	reach(t, b, first, a)
	p = launch(t, state)
	p.start()
	p.check(t, "a", a, first, false)
	for range 2 { // the second time there is nothing left to do
		if reply := p.ask(frame.Del, "a", a, nil); reply.Failed {
			t.Errorf("DEL: %s", reply.JSON)
		}
	}
	p.check(t, "a", a, first, true)
	collected, err := p.cni.Collect(p.ctx(), &cniv1.CollectRequest{})
	if err != nil || len(collected.GetRemoved()) != 1 || collected.GetRemoved()[0].GetContainerId() != "b" {
		t.Errorf("collect: %v, removed %v; want b", err, collected.GetRemoved())
	}
	if left := leases(t, p); len(left) > 0 {
		t.Errorf("addresses are left: %v", left)
	}
	p.add(t, "c", pod(t, "c"))
	p.end(t)
	if after := listing(t); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// end tears everything down, drains, and waits for the process.
func (p *instance) end(t *testing.T) {
	t.Helper()
	if _, err := p.cni.Teardown(p.ctx(), &cniv1.TeardownRequest{All: true}); err != nil {
		t.Errorf("teardown: %v", err)
	}
	if _, err := p.base.Drain(p.ctx(), &pluginv1.DrainRequest{}); err != nil {
		t.Errorf("drain: %v", err)
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
	for _, dir := range []string{p.dir, filepath.Dir(p.setup.GetSocket())} {
		if sockets, _ := filepath.Glob(filepath.Join(dir, "*sock*")); len(sockets) > 0 {
			t.Errorf("sockets are left: %v", sockets)
		}
	}
}

func (p *instance) add(t *testing.T, name, netns string) *types100.Result {
	t.Helper()
	reply := p.ask(frame.Add, name, netns, nil)
	var result types100.Result
	if err := json.Unmarshal(reply.JSON, &result); reply.Failed || err != nil || len(result.IPs) != 2 {
		t.Fatalf("ADD %s: %v %s", name, err, reply.JSON)
	}
	return &result
}

func (p *instance) check(t *testing.T, name, netns string, prev *types100.Result, fails bool) {
	t.Helper()
	if reply := p.ask(frame.Check, name, netns, map[string]any{"prevResult": prev}); reply.Failed != fails {
		t.Errorf("CHECK %s: failed is %v: %s", name, reply.Failed, reply.JSON)
	}
}

// reach connects from one pod to an address of another; nothing listens there,
// so that being refused is the answer of that pod.
func reach(t *testing.T, from string, to *types100.Result, name string) {
	t.Helper()
	for _, ip := range to.IPs {
		family := "socket.AF_INET"
		if ip.Address.IP.To4() == nil {
			family = "socket.AF_INET6"
		}
		script := `import errno, socket, sys, time
for _ in range(100):  # duplicate address detection takes its time
    s = socket.socket(` + family + `); s.settimeout(2)
    answer = s.connect_ex((sys.argv[1], 9))
    if answer == errno.ECONNREFUSED: sys.exit(0)
    time.sleep(0.1)
sys.exit(f"{sys.argv[1]}: {errno.errorcode.get(answer, answer)}")`
		out, err := exec.Command("nsenter", "--net="+from, "--", interpreter, "-c", script, ip.Address.IP.String()).CombinedOutput()
		if err != nil {
			t.Errorf("%s does not answer: %v %s", name, err, out)
		}
	}
}

// TestPods attaches many at once; no address may be given twice.
func TestPods(t *testing.T) {
	if !inside(t) {
		return
	}
	p := launch(t, socketDir(t))
	p.start()
	const pods = 24
	var group sync.WaitGroup
	results := make([]frame.Reply, pods)
	for i := range pods {
		netns := pod(t, fmt.Sprint(i))
		group.Go(func() { results[i] = p.ask(frame.Add, fmt.Sprint("c", i), netns, nil) })
	}
	group.Wait()
	given := map[string]bool{}
	for i, reply := range results {
		var result types100.Result
		if err := json.Unmarshal(reply.JSON, &result); reply.Failed || err != nil {
			t.Errorf("ADD %d: %v %s", i, err, reply.JSON)
			continue
		}
		for _, ip := range result.IPs {
			if given[ip.Address.String()] {
				t.Errorf("%s given twice", &ip.Address)
			}
			given[ip.Address.String()] = true
		}
	}
	metrics, err := p.base.Metrics(p.ctx(), &pluginv1.MetricsRequest{})
	if want := fmt.Sprintf(`pybridge_operations_total{verb="ADD",result="ok"} %d`, pods); err != nil || !strings.Contains(string(metrics.GetText()), want) {
		t.Errorf("metrics: %v, want %s in %s", err, want, metrics.GetText())
	}
	p.end(t)
}

// TestHostPort delegates to portmap when the runtime asks for it.
func TestHostPort(t *testing.T) {
	if !inside(t) {
		return
	}
	p := launch(t, socketDir(t))
	p.start()
	netns := pod(t, "a")
	ports := map[string]any{"runtimeConfig": map[string]any{"portMappings": []map[string]any{{"hostPort": 18080, "containerPort": 80, "protocol": "tcp"}}}}
	if reply := p.ask(frame.Add, "a", netns, ports); reply.Failed {
		t.Fatalf("ADD: %s", reply.JSON)
	}
	const rule = "tcp dport 18080 dnat"
	if rules := run(t, "nft", "list", "ruleset"); !strings.Contains(rules, rule) {
		t.Errorf("no %q in\n%s", rule, rules)
	}
	if reply := p.ask(frame.Del, "a", netns, ports); reply.Failed {
		t.Fatalf("DEL: %s", reply.JSON)
	}
	if rules := run(t, "nft", "list", "ruleset"); strings.Contains(rules, rule) {
		t.Errorf("%q is left in\n%s", rule, rules)
	}
}

// TestBadFrames is what a shim would never send.
func TestBadFrames(t *testing.T) {
	if !inside(t) {
		return
	}
	p := launch(t, socketDir(t))
	p.start()
	good, err := (&frame.Request{Verb: frame.Status, Stdin: []byte(`{"cniVersion":"1.1.0"}`)}).Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	with := func(at int, b ...byte) []byte {
		bad := bytes.Clone(good)
		copy(bad[at:], b)
		return bad
	}
	for name, tt := range map[string]struct {
		raw  []byte
		code float64
	}{
		"too long":       {with(0, 0x7f, 0xff, 0xff, 0xff), 5},
		"version 2":      {with(4, 2), 5},
		"verb 9":         {with(5, 9), 5},
		"many strings":   {with(10, 0xff, 0xff), 5},
		"long string":    {with(10, 0, 1), 5},
		"no head":        {[]byte{0, 0, 0, 2, 1, 4}, 5},
		"no JSON":        {with(12, 'x'), 6},
		"CNI 0.4.0":      {bytes.Replace(good, []byte("1.1.0"), []byte("0.4.0"), 1), 1},
		"no container":   {with(5, byte(frame.Add)), 4},
		"GC without set": {with(5, byte(frame.GC)), 7},
	} {
		reply, err := p.send(tt.raw)
		var object map[string]any
		if err == nil {
			err = json.Unmarshal(reply.JSON, &object)
		}
		if err != nil || !reply.Failed || object["code"] != tt.code {
			t.Errorf("%s: %v, %v; want CNI error %v", name, err, object, tt.code)
		}
	}
	if reply, err := p.send(good); err != nil || reply.Failed {
		t.Errorf("STATUS afterwards: %v %+v", err, reply)
	}
	reply := p.ask(frame.Add, "a", "/run/netns/none", nil)
	if !reply.Failed || len(leases(t, p)) > 0 {
		t.Errorf("ADD without a namespace: %s, addresses left: %v", reply.JSON, leases(t, p))
	}
	if _, err := os.Stat(p.setup.GetSocket()); errors.Is(err, os.ErrNotExist) {
		t.Error("the socket is gone")
	}
}

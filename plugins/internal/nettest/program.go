package nettest

import (
	"bufio"
	"context"
	"encoding/json"
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
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/kelson-io/kelson/sdk/cni/frame"
	cniv1 "github.com/kelson-io/kelson/sdk/proto/cni/v1"
	pluginv1 "github.com/kelson-io/kelson/sdk/proto/plugin/v1"
)

// Build builds cmd/kelson-plugins as it is shipped.
func Build(t *testing.T) string {
	t.Helper()
	return build(t, "kelson-plugins")
}

// BuildShim builds cmd/kelson-cni as it is shipped.
func BuildShim(t *testing.T) string {
	t.Helper()
	return build(t, "kelson-cni")
}

func build(t *testing.T, command string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), command)
	cmd := exec.Command("go", "build", "-o", out, "github.com/kelson-io/kelson/cmd/"+command)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, text)
	}
	return out
}

// BinDir is the folder of the standard CNI plugins; without it the test is
// skipped.
func BinDir(t *testing.T) string {
	t.Helper()
	bin := os.Getenv("KELSON_TEST_BIN")
	if bin == "" {
		t.Skip("KELSON_TEST_BIN names no built payload")
	}
	dir := filepath.Join(filepath.Dir(bin), "cni")
	if _, err := os.Stat(filepath.Join(dir, "bridge")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Node is a namespace with a network plugin in it.
type Node struct {
	Namespace
	Dir     string // what outlives the plugin
	Setup   *cniv1.SetupRequest
	Base    pluginv1.PluginClient
	Network cniv1.NetworkClient
	Log     *Log

	binary, plugin string
	cmd            *exec.Cmd
}

// Log is what a plugin printed.
type Log struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *Log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// NewNode makes the value of a node; Launch starts its plugin.
func NewNode(t *testing.T, n Namespace, binary, plugin string, node *cniv1.Node, cluster []string) *Node {
	t.Helper()
	dir, err := os.MkdirTemp("", "kn") //nolint:usetesting // a test's own folder has too long a path for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, sub := range []string{"run", "state", "networks", "cache"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return &Node{
		Namespace: n, Dir: dir, Log: &Log{}, binary: binary, plugin: plugin,
		Setup: &cniv1.SetupRequest{
			Node: node, ClusterCidrs: cluster, Mtu: 1500,
			Socket: filepath.Join(dir, "cni.sock"), IpamDir: filepath.Join(dir, "networks"), BinDirs: []string{BinDir(t)},
			CacheDir: filepath.Join(dir, "cache"), Path: Path(), Nftables: true,
		},
	}
}

// As is the same node with another plugin beside the present one.
func (n *Node) As(plugin string) *Node {
	other := *n
	other.plugin, other.cmd, other.Log = plugin, nil, &Log{}
	other.Setup = proto.CloneOf(n.Setup)
	other.Setup.Socket = filepath.Join(n.Dir, plugin+".sock")
	return &other
}

// Launch starts the plugin's process and configures it.
func (n *Node) Launch(config string) {
	n.t.Helper()
	cmd := n.Command(context.Background(), n.binary, "cni", n.plugin)
	cmd.Env = []string{"KELSON_PLUGIN=kelson.plugin.v1", "KELSON_PLUGIN_LIFETIME=node", "PLUGIN_UNIX_SOCKET_DIR=" + filepath.Join(n.Dir, "run")}
	cmd.Stderr = n.Log
	out, err := cmd.StdoutPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.cmd = cmd
	n.t.Cleanup(n.Kill)
	line, err := bufio.NewReader(out).ReadString('\n')
	parts := strings.Split(strings.TrimSpace(line), "|")
	if err != nil || len(parts) < 5 {
		n.t.Fatalf("handshake %q: %v\n%s", line, err, n.Log)
	}
	conn, err := grpc.NewClient("unix:"+parts[3], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { conn.Close() })
	n.Base, n.Network = pluginv1.NewPluginClient(conn), cniv1.NewNetworkClient(conn)
	_, err = n.Base.Configure(n.Context(), &pluginv1.ConfigureRequest{
		Config: []byte(config), Generation: 1, Host: &pluginv1.HostInfo{NodeName: n.Setup.GetNode().GetName(), StateDir: filepath.Join(n.Dir, "state"), RunDir: filepath.Join(n.Dir, "run")},
	})
	if err != nil {
		n.t.Fatalf("configure: %v", err)
	}
}

// Start launches the plugin and starts the network, as the host does.
func (n *Node) Start(config string) *cniv1.StartResponse {
	n.t.Helper()
	n.Launch(config)
	flight, err := n.Network.Preflight(n.Context(), &cniv1.PreflightRequest{Node: n.Setup.GetNode()})
	if err != nil {
		n.t.Fatalf("preflight: %v", err)
	}
	for _, p := range flight.GetProblems() {
		n.t.Errorf("preflight: %v", p)
	}
	return n.Restart()
}

// Restart calls Setup and Start.
func (n *Node) Restart() *cniv1.StartResponse {
	n.t.Helper()
	if _, err := n.Network.Setup(n.Context(), n.Setup); err != nil {
		n.t.Fatalf("setup: %v", err)
	}
	started, err := n.Network.Start(n.Context(), &cniv1.StartRequest{})
	if err != nil {
		n.t.Fatalf("start: %v\n%s", err, n.Log)
	}
	return started
}

// Context bounds one call.
func (n *Node) Context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), commandDeadline)
	n.t.Cleanup(cancel)
	return ctx
}

// Tell sends one change of the topology and waits until it has been applied.
func (n *Node) Tell(change *cniv1.TopologyRequest) {
	n.t.Helper()
	stream, err := n.Network.Topology(n.Context())
	if err == nil {
		err = stream.Send(change)
	}
	if err == nil {
		_, err = stream.Recv()
	}
	if err != nil {
		n.t.Fatalf("topology: %v", err)
	}
	if err := stream.CloseSend(); err != nil {
		n.t.Fatal(err)
	}
}

// Health is the plugin's present condition.
func (n *Node) Health() *pluginv1.HealthResponse {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandDeadline)
	defer cancel()
	stream, err := n.Base.Health(ctx, &pluginv1.HealthRequest{})
	if err != nil {
		n.t.Fatal(err)
	}
	got, err := stream.Recv()
	if err != nil {
		n.t.Fatal(err)
	}
	return got
}

// RSS is the resident size of the plugin's process in KiB.
func (n *Node) RSS() string {
	n.t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.cmd.Process.Pid))
	if err != nil {
		n.t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

// Kill ends the plugin with SIGKILL.
func (n *Node) Kill() {
	if n.cmd == nil {
		return
	}
	_ = n.cmd.Process.Signal(syscall.SIGKILL)
	_ = n.cmd.Wait()
	n.cmd = nil
}

// Teardown removes the network from the node.
func (n *Node) Teardown(all bool) {
	n.t.Helper()
	if _, err := n.Network.Teardown(n.Context(), &cniv1.TeardownRequest{All: all}); err != nil {
		n.t.Fatalf("teardown: %v\n%s", err, n.Log)
	}
}

// CNI does one operation on the attachment socket, as the shim does.
func (n *Node) CNI(verb frame.Verb, container string, netns string, extra map[string]any) (*types100.Result, error) {
	conf := map[string]any{"cniVersion": "1.1.0", "name": "kelson", "type": "kelson-cni"}
	maps.Copy(conf, extra)
	stdin, err := json.Marshal(conf)
	if err != nil {
		return nil, err
	}
	request := frame.Request{
		Verb: verb, Deadline: commandDeadline, Stdin: stdin,
		Env: []string{"CNI_CONTAINERID=" + container, "CNI_IFNAME=eth0", "CNI_NETNS=" + netns, "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=" + container},
	}
	raw, err := request.Append(nil)
	if err != nil {
		return nil, err
	}
	conn, err := net.Dial("unix", n.Setup.GetSocket())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(commandDeadline)); err != nil {
		return nil, err
	}
	if _, err := conn.Write(raw); err != nil {
		return nil, err
	}
	reply, err := frame.ReadReply(conn)
	if err != nil {
		return nil, err
	}
	if reply.Failed {
		return nil, fmt.Errorf("%s: %s", verb, reply.JSON)
	}
	if len(reply.JSON) == 0 {
		return nil, nil
	}
	result := &types100.Result{}
	return result, json.Unmarshal(reply.JSON, result)
}

// Pod is a namespace that hangs on a node's network.
type Pod struct {
	Namespace
	IPs []string
	ID  string
}

// AddPod makes a pod and attaches it; it is detached when the test ends, unless
// the plugin is gone then.
func (n *Node) AddPod(id string, runtime map[string]any) Pod {
	n.t.Helper()
	pod := Pod{Namespace: New(n.t, "p"), ID: id}
	extra := map[string]any{}
	if runtime != nil {
		extra["runtimeConfig"] = runtime
	}
	result, err := n.CNI(frame.Add, id, pod.File(), extra)
	if err != nil {
		n.t.Fatalf("add: %v\n%s", err, n.Log)
	}
	for _, ip := range result.IPs {
		pod.IPs = append(pod.IPs, ip.Address.IP.String())
	}
	pod.Echo()
	return pod
}

// DelPod detaches a pod.
func (n *Node) DelPod(pod Pod) {
	n.t.Helper()
	if _, err := n.CNI(frame.Del, pod.ID, pod.File(), nil); err != nil {
		n.t.Errorf("del: %v", err)
	}
}

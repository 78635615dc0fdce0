package agent

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kelson-io/kelson/core/agent/kernel"
	"github.com/kelson-io/kelson/core/boot"
	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/datadir"
	"github.com/kelson-io/kelson/core/process"
)

// identityPeriod is how often a running node looks whether it still has the
// addresses that it was started with.
const identityPeriod = 15 * time.Second

// NodeDeps is what NewNodeChild needs.
type NodeDeps struct {
	Layout      datadir.Layout
	Node        config.Node
	Network     config.Network
	Logging     config.Log
	Credentials Credentials
	Path        string                   // executable: <bin>/kelson-host
	Search      string                   // $PATH of the child, see kernel.SearchPath
	Facts       func() kernel.Facts      // of the host, known when Start is called
	Info        func() (NodeInfo, error) // asked again before every start and every 15 s: addresses may change
	WaitHealthy bool                     // Ready waits for kubelet's healthz, not only for the launch
	Log         hclog.Logger
}

// NodeChild runs kubelet and kube-proxy in one supervised child, because stock
// code of both ends its process (node deleted, addresses changed, port taken).
// It is restarted with back-off for ever; pods run on meanwhile.
type NodeChild struct {
	deps   NodeDeps
	period time.Duration // between looks at the addresses

	mu     sync.Mutex
	child  *process.Child
	info   NodeInfo
	reason string // why the child last ended
	cancel context.CancelFunc
	done   chan struct{}
}

var _ boot.Step = (*NodeChild)(nil)

// NewNodeChild returns the step. It does no I/O.
func NewNodeChild(deps NodeDeps) *NodeChild { return &NodeChild{deps: deps, period: identityPeriod} }

// Name implements boot.Step.
func (n *NodeChild) Name() string { return "node" }

// Start writes the configurations and launches the child.
func (n *NodeChild) Start(ctx context.Context) error {
	info, err := n.deps.Info()
	if err != nil {
		return fmt.Errorf("identify node: %w", err)
	}
	if err := n.launch(ctx, info); err != nil {
		return err
	}
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	n.mu.Lock()
	n.cancel, n.done = cancel, make(chan struct{})
	n.mu.Unlock()
	go n.follow(life)
	return nil
}

// launch writes what info asks for and starts a child that reads it.
func (n *NodeChild) launch(ctx context.Context, info NodeInfo) error {
	path, err := n.configure(info)
	if err != nil {
		return fmt.Errorf("configure node: %w", err)
	}
	l := n.deps.Layout
	n.warnOfPorts()
	child := process.New(process.Spec{
		Name: "node", Path: n.deps.Path, Args: []string{"node", "--config", path},
		Env:     append(withoutPath(os.Environ()), "PATH="+n.deps.Search),
		LogFile: l.Agent("node.log"), LogMaxBytes: 50 << 20,
		PIDFile: l.RunPath("node.pid"),
		OnExit:  n.exited,
	}, n.deps.Log)
	n.mu.Lock()
	n.child, n.info = child, info
	n.mu.Unlock()
	return child.Start(ctx)
}

func withoutPath(environ []string) []string {
	var out []string
	for _, kv := range environ {
		if !strings.HasPrefix(kv, "PATH=") {
			out = append(out, kv)
		}
	}
	return out
}

// exited is called after each end of the child, before it is started again.
func (n *NodeChild) exited(err error) {
	reason := fmt.Sprint(err)
	if told := toldInLog(n.deps.Layout.Agent("node.log")); told != "" {
		reason = fmt.Sprintf("%s (%v)", told, err)
	}
	listens := []int{n.deps.Node.KubeletPort, 10248}
	if !n.deps.Node.DisableKubeProxy {
		listens = append(listens, 10249, 10256)
	}
	for _, port := range listens {
		if portTaken(port) {
			reason = fmt.Sprintf("port %d is taken by another process (%v)", port, err)
			break
		}
	}
	n.mu.Lock()
	n.reason = reason
	n.mu.Unlock()
	n.deps.Log.Warn("kubelet and kube-proxy ended, pods run on", "reason", reason, "log", n.deps.Layout.Agent("node.log"))
}

// toldInLog finds, in the last lines, what stock code logs before it ends its
// process.
func toldInLog(path string) string {
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return ""
	}
	const tail = 8 << 10
	raw, err := io.ReadAll(io.NewSectionReader(file, max(0, info.Size()-tail), tail))
	if err != nil {
		return ""
	}
	for _, known := range []struct{ logged, reason string }{
		{"Node is being deleted", "the Node object was deleted; it is registered again"},
		{"NodeIPs changed", "the addresses in the Node object changed"},
		{"PodCIDRs changed", "the pod CIDR in the Node object changed"},
	} {
		if strings.Contains(string(raw), known.logged) {
			return known.reason
		}
	}
	return ""
}

// warnOfPorts names what kube-proxy cannot serve: it goes on without.
func (n *NodeChild) warnOfPorts() {
	for port, use := range map[int]string{10249: "kube-proxy's metrics", 10256: "kube-proxy's health check"} {
		if !n.deps.Node.DisableKubeProxy && portTaken(port) {
			n.deps.Log.Warn("port is taken by another process", "port", port, "not-served", use)
		}
	}
}

func portTaken(port int) bool {
	listener, err := net.Listen("tcp", net.JoinHostPort("", strconv.Itoa(port)))
	if err != nil {
		return strings.Contains(err.Error(), syscall.EADDRINUSE.Error())
	}
	_ = listener.Close()
	return false
}

// follow restarts the child when the node's addresses have changed: neither
// kubelet nor kube-proxy take new ones while they run.
func (n *NodeChild) follow(ctx context.Context) {
	defer close(n.done)
	ticker := time.NewTicker(n.period)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		info, err := n.deps.Info()
		n.mu.Lock()
		child, have := n.child, n.info
		n.mu.Unlock()
		if err != nil || reflect.DeepEqual(info.IPs, have.IPs) {
			continue // an interface that is down for a moment is no new address
		}
		n.deps.Log.Warn("address of the node changed, restarting kubelet and kube-proxy", "from", join(have.IPs), "to", join(info.IPs))
		n.mu.Lock()
		n.reason = fmt.Sprintf("address changed from %s to %s", join(have.IPs), join(info.IPs))
		n.mu.Unlock()
		if err := child.Stop(ctx); err != nil {
			n.deps.Log.Error("stop node child", "err", err)
			continue
		}
		if ctx.Err() != nil {
			return
		}
		if err := n.launch(ctx, info); err != nil {
			n.deps.Log.Error("start node child", "err", err)
		}
	}
}

// configure writes the files of the child and returns the NodeFile's path.
func (n *NodeChild) configure(info NodeInfo) (string, error) {
	d, l, facts := n.deps, n.deps.Layout, n.deps.Facts()
	resolv := ChooseResolvConf(d.Node.ResolvConf, l.Agent("etc", "resolv.conf"))
	if resolv.Warning != "" {
		d.Log.Warn(resolv.Warning)
	}
	if facts.Cgroups.Version == 1 {
		d.Log.Warn("this host has cgroup version 1, which Kubernetes will stop supporting; boot it with version 2 when you can")
	}
	kubelet := KubeletSettings{
		Layout: l, Node: d.Node, Info: info, Network: d.Network, Credentials: d.Credentials, Facts: facts,
		ResolvConf: resolv.Path, CgroupRoot: CgroupRoot(l), LogFormat: d.Logging.Format, Verbosity: d.Logging.Verbose,
	}
	proxy := ProxySettings{
		Node: d.Node, Info: info, Network: d.Network, Credentials: d.Credentials, Facts: facts,
		LogFormat: d.Logging.Format, Verbosity: d.Logging.Verbose,
	}
	if err := kernel.PrepareCgroup(facts.Cgroups, kubelet.CgroupRoot); err != nil {
		return "", fmt.Errorf("make cgroup %s: %w", kubelet.CgroupRoot, err)
	}
	file := NodeFile{
		KubeletConfig: l.Agent("etc", "kubelet", "config.yaml"), KubeletArgs: KubeletArgs(kubelet),
		Verbosity: d.Logging.Verbose, LogFormat: logFormat(d.Logging.Format), Debug: d.Logging.Debug,
	}
	dirs := []string{filepath.Dir(file.KubeletConfig), l.Agent("pod-manifests"), l.Agent("kubelet")}
	if !d.Node.DisableKubeProxy {
		file.ProxyConfig = l.Agent("etc", "kube-proxy", "config.yaml")
		file.ProxyArgs = flags(d.Node.KubeProxyArgs)
		dirs = append(dirs, filepath.Dir(file.ProxyConfig))
	}
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return "", err
		}
	}
	if resolv.Content != "" {
		if err := datadir.WriteFile(resolv.Path, []byte(resolv.Content), 0o644); err != nil {
			return "", err
		}
	}
	if err := writeYAML(file.KubeletConfig, KubeletConfig(kubelet)); err != nil {
		return "", err
	}
	if file.ProxyConfig != "" {
		if err := writeYAML(file.ProxyConfig, ProxyConfig(proxy)); err != nil {
			return "", err
		}
	}
	path := l.Agent("etc", "node.json")
	return path, WriteNodeFile(path, file)
}

func writeYAML(path string, value any) error {
	raw, err := encodeYAML(value)
	if err != nil {
		return err
	}
	return datadir.WriteFile(path, raw, 0o600)
}

// Ready waits for kubelet's healthz if asked to, else returns at once.
func (n *NodeChild) Ready(ctx context.Context) error {
	if !n.deps.WaitHealthy {
		return nil
	}
	client := &http.Client{Timeout: 2 * time.Second}
	defer client.CloseIdleConnections()
	host := "127.0.0.1"
	n.mu.Lock()
	if len(n.info.IPs) > 0 && n.info.IPs[0].Is6() {
		host = "::1"
	}
	n.mu.Unlock()
	url := "http://" + net.JoinHostPort(host, "10248") + "/healthz"
	err := poll(ctx, 50*time.Millisecond, func(ctx context.Context) error { return n.healthy(ctx, client, url) })
	if err != nil {
		return fmt.Errorf("kubelet not healthy, see %s: %w", n.deps.Layout.Agent("node.log"), err)
	}
	return nil
}

func (n *NodeChild) healthy(ctx context.Context, client *http.Client, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		if reason := n.LastReason(); reason != "" {
			return fmt.Errorf("%w (last end: %s)", err, reason)
		}
		return err
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(response.Body, 256))
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s %s", url, response.Status, strings.TrimSpace(string(body)))
	}
	return nil
}

// LastReason says why the child last ended, "" if it never did.
func (n *NodeChild) LastReason() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.reason
}

// Restarts counts how often the child was started again after it ended.
func (n *NodeChild) Restarts() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.child == nil {
		return 0
	}
	return n.child.Restarts()
}

// Stop ends kubelet and kube-proxy; pods run on.
func (n *NodeChild) Stop(ctx context.Context) error {
	n.mu.Lock()
	cancel, done := n.cancel, n.done
	n.mu.Unlock()
	if cancel != nil {
		cancel()
		<-done
	}
	n.mu.Lock()
	child := n.child
	n.mu.Unlock()
	if child == nil {
		return nil
	}
	return child.Stop(ctx)
}

package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
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

// launchPause is how long the first pause after a failed launch is.
const launchPause = 250 * time.Millisecond

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
	// Known are the addresses that certificates were made for; nil for those of
	// the first launch.
	Known []netip.Addr
	// OnAddresses is told of other addresses, once for each change, while the old
	// child (if any) still runs and before one is started with them. The launch
	// waits for its return, so it must not wait for Stop. nil if nobody cares.
	OnAddresses func(NodeInfo)
	Log         hclog.Logger
}

// NodeChild runs kubelet and kube-proxy in one supervised child, because stock
// code of both ends its process (node deleted, addresses changed, port taken).
// It is restarted with back-off for ever; pods run on meanwhile. What keeps it
// from being launched is no error of Start: the launch is tried again, and
// LastReason and Ready tell why.
type NodeChild struct {
	deps   NodeDeps
	period time.Duration // between looks at the addresses
	known  []netip.Addr  // that OnAddresses need not be told of; used by one goroutine at a time

	mu      sync.Mutex
	child   *process.Child // the last one that was launched
	info    NodeInfo       // that it was launched with
	running bool           // the last launch succeeded
	stopped bool
	reason  string // why there is no child, or why it last ended
	cancel  context.CancelFunc
	done    chan struct{}
}

var _ boot.Step = (*NodeChild)(nil)

// NewNodeChild returns the step. It does no I/O.
func NewNodeChild(deps NodeDeps) *NodeChild {
	return &NodeChild{deps: deps, period: identityPeriod, known: deps.Known}
}

// Name implements boot.Step.
func (n *NodeChild) Name() string { return "node" }

// Start writes the configurations and launches the child, or leaves that to the
// next attempt. It is an error only to start twice or after Stop.
func (n *NodeChild) Start(ctx context.Context) error {
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	n.mu.Lock()
	if n.cancel != nil || n.stopped {
		n.mu.Unlock()
		cancel()
		return errors.New("start node: already started or stopped")
	}
	n.cancel, n.done = cancel, make(chan struct{})
	n.mu.Unlock()
	n.look(life)
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
	var child *process.Child
	child = process.New(process.Spec{
		Name: "node", Path: n.deps.Path, Args: []string{"node", "--config", path},
		Env:     append(withoutPath(os.Environ()), "PATH="+n.deps.Search),
		LogFile: l.Agent("node.log"), LogMaxBytes: 50 << 20,
		PIDFile: l.RunPath("node.pid"),
		OnExit:  func(err error) { n.exited(child, err) },
	}, n.deps.Log)
	if err := child.Start(ctx); err != nil {
		return err
	}
	n.mu.Lock()
	stopped := n.stopped
	n.child, n.info, n.running = child, info, true
	n.mu.Unlock()
	if stopped { // Stop did not wait for this launch
		return child.Stop(ctx)
	}
	return nil
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

// follow looks again from time to time, sooner while there is no child.
func (n *NodeChild) follow(ctx context.Context) {
	defer close(n.done)
	for pause := launchPause; ; {
		wait := n.period
		if n.launched() {
			pause = launchPause
		} else {
			wait, pause = min(pause, n.period), 2*pause
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		n.look(ctx)
	}
}

func (n *NodeChild) launched() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.running
}

// look launches the child if there is none, and again when the node's addresses
// have changed: neither kubelet nor kube-proxy take new ones while they run.
func (n *NodeChild) look(ctx context.Context) {
	info, err := n.deps.Info()
	n.mu.Lock()
	child, have, running := n.child, n.info, n.running
	n.mu.Unlock()
	switch {
	case err != nil && running:
		return // an interface that is down for a moment is no new address
	case err != nil:
		n.notLaunched(fmt.Errorf("identify node: %w", err))
		return
	case running && slices.Equal(info.IPs, have.IPs):
		return
	}
	n.tell(info)
	if running {
		n.deps.Log.Warn("address of the node changed, restarting kubelet and kube-proxy", "from", join(have.IPs), "to", join(info.IPs))
		n.note(fmt.Sprintf("address changed from %s to %s", join(have.IPs), join(info.IPs)))
		if err := child.Stop(ctx); err != nil {
			n.deps.Log.Error("stop node child", "err", err)
			return
		}
		n.mu.Lock()
		n.running = false
		n.mu.Unlock()
	}
	if ctx.Err() != nil {
		return
	}
	if err := n.launch(ctx, info); err != nil && ctx.Err() == nil {
		n.notLaunched(err)
	}
}

// tell calls OnAddresses if these are others than it knows of.
func (n *NodeChild) tell(info NodeInfo) {
	changed := n.known != nil && !slices.Equal(n.known, info.IPs)
	n.known = slices.Clone(info.IPs)
	if changed && n.deps.OnAddresses != nil {
		n.deps.OnAddresses(info)
	}
}

func (n *NodeChild) notLaunched(err error) {
	n.note(fmt.Sprintf("not launched: %v", err))
	n.deps.Log.Error("kubelet and kube-proxy not launched, trying again", "err", err)
}

// Ready waits for the launch and, if asked to, for kubelet's healthz.
func (n *NodeChild) Ready(ctx context.Context) error {
	err := poll(ctx, 20*time.Millisecond, func(context.Context) error {
		if !n.launched() {
			return fmt.Errorf("kubelet and kube-proxy: %s", n.LastReason())
		}
		return nil
	})
	if err != nil || !n.deps.WaitHealthy {
		return err
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
	err = poll(ctx, 50*time.Millisecond, func(ctx context.Context) error { return n.healthy(ctx, client, url) })
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

// LastReason says why the child could not be launched or last ended, "" if
// neither ever happened.
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

// Stop ends kubelet and kube-proxy; pods run on. When ctx ends they are killed.
func (n *NodeChild) Stop(ctx context.Context) error {
	n.mu.Lock()
	n.stopped = true
	cancel, done := n.cancel, n.done
	n.mu.Unlock()
	if cancel != nil {
		cancel()
		select {
		case <-done:
		case <-ctx.Done(): // a launch that is under way ends its child by itself
		}
	}
	n.mu.Lock()
	child := n.child
	n.mu.Unlock()
	if child == nil {
		return nil
	}
	return child.Stop(ctx)
}

package preflight

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/kelson-io/kelson/core/agent/kernel"
	"github.com/kelson-io/kelson/core/config"
)

// Status is the outcome of one check.
type Status string

// The outcomes, from good to bad. Only Failed keeps a node from working.
const (
	OK      Status = "ok"
	Info    Status = "info"
	Warning Status = "warning"
	Failed  Status = "failed"
)

// Result is what one check found.
type Result struct {
	Name   string `json:"name"` // stable kebab-case
	Status Status `json:"status"`
	Detail string `json:"detail"`
	Hint   string `json:"hint,omitempty"` // what to do, unless OK
}

// Port is a TCP port that must be free.
type Port struct {
	Number int
	Use    string // "kube-apiserver"
}

// Options says what is to be checked.
type Options struct {
	DataDir string // need not exist
	Search  string // $PATH for the tools, see kernel.SearchPath
	Ports   []Port // see ServerPorts; nil checks none
	NodeIP  bool   // the address is given: no default route is needed
	IPv6    bool   // the cluster has IPv6 ranges
	Agent   bool   // this host runs pods, not only the control plane
	Quick   bool   // only what can fail a boot
}

// ServerPorts are the ports of a server with the given settings.
func ServerPorts(cfg config.Server) []Port {
	ports := []Port{
		{cfg.API.Port, "kube-apiserver"},
		{cfg.Supervisor.Port, "join API"},
		{10257, "kube-controller-manager"},
		{10259, "kube-scheduler"},
	}
	if !cfg.Node.Disabled {
		ports = append(ports, Port{cfg.Node.KubeletPort, "kubelet"}, Port{10248, "kubelet healthz"})
		if !cfg.Node.DisableKubeProxy {
			ports = append(ports,
				Port{argPort(cfg.Node.KubeProxyArgs, "metrics-bind-address", 10249), "kube-proxy metrics"},
				Port{argPort(cfg.Node.KubeProxyArgs, "healthz-bind-address", 10256), "kube-proxy healthz"})
		}
	}
	return ports
}

// argPort is the port of the last argument "name=address:port", else otherwise.
func argPort(args []string, name string, otherwise int) int {
	for _, arg := range args {
		if address, ok := strings.CutPrefix(arg, name+"="); ok {
			if at, err := netip.ParseAddrPort(address); err == nil {
				otherwise = int(at.Port())
			}
		}
	}
	return otherwise
}

// check is one entry of the list. An empty status leaves it out of the results.
type check struct {
	name  string
	quick bool // can fail a boot
	agent bool // only where pods run
	run   func(context.Context, Options) (Status, string, string)
}

func checks() []check {
	return []check{
		{"root", true, false, root},
		{"kernel", false, false, kernelVersion},
		{"cgroups", true, true, cgroups},
		{"capabilities", true, true, capabilities},
		{"overlayfs", false, true, overlay},
		{"packet-filter", true, true, packetFilter},
		{"bridge-netfilter", false, true, bridgeNetfilter},
		{"conntrack", false, true, conntrack},
		{"ports", true, false, ports},
		{"data-dir", true, false, dataDir},
		{"default-route", false, true, defaultRoute},
		{"ipv6", true, true, ipv6},
		{"clock", false, false, clock},
		{"swap", false, true, swap},
		{"firewall", false, true, firewall},
		{"cloud-network", true, true, cloudNetwork},
		{"security-modules", false, true, securityModules},
		{"inotify", false, true, inotify},
	}
}

// Run performs the checks in a fixed order. ctx bounds all of them together.
func Run(ctx context.Context, opt Options) []Result {
	var out []Result
	for _, c := range checks() {
		if opt.Quick && !c.quick || c.agent && !opt.Agent {
			continue
		}
		limited, cancel := context.WithTimeout(ctx, 10*time.Second)
		status, detail, hint := c.run(limited, opt)
		cancel()
		if status == "" {
			continue
		}
		if status == OK {
			hint = ""
		}
		out = append(out, Result{Name: c.name, Status: status, Detail: detail, Hint: hint})
	}
	return out
}

// Err joins the failed results into one error with their remedies as hint; nil
// if none failed.
func Err(results []Result) error {
	var errs []error
	var hints []string
	for _, r := range results {
		if r.Status != Failed {
			continue
		}
		errs = append(errs, fmt.Errorf("%s: %s", r.Name, r.Detail))
		if r.Hint != "" {
			hints = append(hints, r.Hint)
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return config.Hinted(errors.Join(errs...), strings.Join(hints, "\n"))
}

func tools(opt Options) kernel.Tools { return kernel.Tools{Path: opt.Search} }

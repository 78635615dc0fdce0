package agent

import (
	"strings"
	"testing"

	proxyv1alpha1 "k8s.io/kube-proxy/config/v1alpha1"

	"github.com/kelson-io/kelson/core/config"
)

func TestProxyArgsReachTheConfiguration(t *testing.T) {
	for _, c := range []struct {
		arg string
		got func(*proxyv1alpha1.KubeProxyConfiguration) bool
	}{
		{"proxy-mode=iptables", func(c *proxyv1alpha1.KubeProxyConfiguration) bool { return c.Mode == "iptables" }},
		{"--proxy_mode=ipvs", func(c *proxyv1alpha1.KubeProxyConfiguration) bool { return c.Mode == "ipvs" }},
		{"cluster-cidr=10.1.0.0/16,fd00::/56", func(c *proxyv1alpha1.KubeProxyConfiguration) bool { return c.ClusterCIDR == "10.1.0.0/16,fd00::/56" }},
		{"metrics-bind-address=0.0.0.0:9", func(c *proxyv1alpha1.KubeProxyConfiguration) bool { return c.MetricsBindAddress == "0.0.0.0:9" }},
		{"healthz-bind-address=[::]:9", func(c *proxyv1alpha1.KubeProxyConfiguration) bool { return c.HealthzBindAddress == "[::]:9" }},
		{"bind-address=::", func(c *proxyv1alpha1.KubeProxyConfiguration) bool { return c.BindAddress == "::" }},
		{"nodeport-addresses=localhost,192.0.2.0/24", func(c *proxyv1alpha1.KubeProxyConfiguration) bool {
			return strings.Join(c.NodePortAddresses, " ") == "localhost 192.0.2.0/24"
		}},
		{"conntrack-max-per-core=7", func(c *proxyv1alpha1.KubeProxyConfiguration) bool { return *c.Conntrack.MaxPerCore == 7 }},
		{"conntrack-tcp-timeout-established=1h", func(c *proxyv1alpha1.KubeProxyConfiguration) bool {
			return c.Conntrack.TCPEstablishedTimeout.Hours() == 1
		}},
		{"conntrack-udp-timeout=2s", func(c *proxyv1alpha1.KubeProxyConfiguration) bool { return c.Conntrack.UDPTimeout.Seconds() == 2 }},
		{"detect-local-mode=BridgeInterface", func(c *proxyv1alpha1.KubeProxyConfiguration) bool { return c.DetectLocalMode == "BridgeInterface" }},
		{"masquerade-all", func(c *proxyv1alpha1.KubeProxyConfiguration) bool {
			return c.IPTables.MasqueradeAll && c.NFTables.MasqueradeAll
		}},
		{"iptables-localhost-nodeports=false", func(c *proxyv1alpha1.KubeProxyConfiguration) bool { return !*c.IPTables.LocalhostNodePorts }},
		{"oom-score-adj=-5", func(c *proxyv1alpha1.KubeProxyConfiguration) bool { return *c.OOMScoreAdj == -5 }},
		{"feature-gates=A=true,B=false", func(c *proxyv1alpha1.KubeProxyConfiguration) bool { return c.FeatureGates["A"] && !c.FeatureGates["B"] }},
		{"kube-api-qps=2.5", func(c *proxyv1alpha1.KubeProxyConfiguration) bool { return c.ClientConnection.QPS == 2.5 }},
	} {
		l, node, info, network := settingsFor("systemd-v2")
		node.KubeProxyArgs = []string{c.arg}
		cfg, err := ProxyConfig(ProxySettings{Node: node, Info: info, Network: network, Facts: nodeFacts(hosts()["systemd-v2"], l)})
		if err != nil || !c.got(cfg) {
			t.Errorf("%s has no effect: %v", c.arg, err)
		}
	}
}

func TestCheckProxyArgs(t *testing.T) {
	if err := CheckProxyArgs(nil); err != nil {
		t.Error(err)
	}
	for arg, want := range map[string][2]string{
		"proxy-mod=iptables":            {"kube-proxy-arg: proxy-mod is not supported", "supported are bind-address, "},
		"proxy-mode+=iptables":          {"proxy-mode+ is not supported", "supported are "},
		"hostname-override=x":           {"hostname-override is not supported", "--node-name"},
		"metrics-port=1":                {"metrics-port is not supported", "use metrics-bind-address"},
		"config=/x":                     {"config is not supported", "remove the argument"},
		"cleanup=true":                  {"cleanup is not supported", "remove the argument"},
		"v=4":                           {"v is not supported", "--v of Kelson"},
		"proxy-mode=userspace":          {"must be one of iptables, ipvs, nftables", "--proxy-mode"},
		"bind-address=here":             {"bind-address=here", "--bind-address"},
		"metrics-bind-address=0.0.0.0":  {"metrics-bind-address=0.0.0.0", "--metrics-bind-address"},
		"cluster-cidr=10.0.0.0":         {"cluster-cidr=10.0.0.0", "--cluster-cidr"},
		"nodeport-addresses=everywhere": {"nodeport-addresses=everywhere", "--nodeport-addresses"},
		"conntrack-min=many":            {"conntrack-min=many", "--conntrack-min"},
		"config-sync-period=5":          {"config-sync-period=5", "--config-sync-period"},
		"masquerade-all=perhaps":        {"masquerade-all=perhaps", "--masquerade-all"},
		"feature-gates=A":               {"not Name=true", "--feature-gates"},
	} {
		err := CheckProxyArgs([]string{"masquerade-all=true", arg})
		if err == nil || !strings.Contains(err.Error(), want[0]) || !strings.Contains(config.Hint(err), want[1]) {
			t.Errorf("%s: %v (%s)", arg, err, config.Hint(err))
		}
	}
}

package agent

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	logsapi "k8s.io/component-base/logs/api/v1"
	proxyv1alpha1 "k8s.io/kube-proxy/config/v1alpha1"

	"github.com/kelson-io/kelson/core/agent/kernel"
	"github.com/kelson-io/kelson/core/config"
)

// ProxySettings is what kube-proxy's configuration is made of.
type ProxySettings struct {
	Node        config.Node
	Info        NodeInfo
	Network     config.Network
	Credentials Credentials
	Facts       kernel.Facts
	LogFormat   string
	Verbosity   int
}

// ProxyConfig is kube-proxy's configuration for these settings, the user's
// arguments included. It is pure. It fails as CheckProxyArgs does.
func ProxyConfig(s ProxySettings) (*proxyv1alpha1.KubeProxyConfiguration, error) {
	cfg := &proxyv1alpha1.KubeProxyConfiguration{
		TypeMeta:           metav1.TypeMeta{APIVersion: "kubeproxy.config.k8s.io/v1alpha1", Kind: "KubeProxyConfiguration"},
		HostnameOverride:   s.Info.Name,
		BindAddress:        "0.0.0.0",
		HealthzBindAddress: "127.0.0.1:10256",
		MetricsBindAddress: "127.0.0.1:10249",
		Mode:               "nftables",
		ClusterCIDR:        cidrList(s.Network.ClusterCIDR),
		ConfigSyncPeriod:   metav1.Duration{Duration: 15 * time.Minute},
	}
	// Traffic of pods is told by the cluster's range: the node's own range would
	// make kube-proxy wait for it and exit when it changes.
	cfg.DetectLocalMode = "ClusterCIDR"
	cfg.ClientConnection.Kubeconfig = s.Credentials.ProxyKubeconfig
	// The first sync of a boot sees a burst of services; nothing waits a second.
	cfg.NFTables.MinSyncPeriod = metav1.Duration{Duration: 100 * time.Millisecond}
	cfg.IPTables.MinSyncPeriod = metav1.Duration{Duration: 100 * time.Millisecond}
	if !s.Facts.NFTables {
		cfg.Mode = "iptables"
	}
	if len(s.Info.IPs) > 0 && s.Info.IPs[0].Is6() {
		cfg.BindAddress = "::"
		cfg.HealthzBindAddress, cfg.MetricsBindAddress = "[::1]:10256", "[::1]:10249"
	}
	if !s.Facts.ConntrackWritable {
		// Not ours to set in this namespace: zero leaves the host's values.
		cfg.Conntrack.MaxPerCore, cfg.Conntrack.Min = new(int32(0)), new(int32(0))
		cfg.Conntrack.TCPEstablishedTimeout = &metav1.Duration{}
		cfg.Conntrack.TCPCloseWaitTimeout = &metav1.Duration{}
	}
	if !s.Facts.Resource {
		cfg.OOMScoreAdj = new(int32(0))
	}
	cfg.Logging = logsapi.LoggingConfiguration{Format: logFormat(s.LogFormat), Verbosity: logsapi.VerbosityLevel(s.Verbosity)}
	return cfg, applyProxyArgs(cfg, s.Node.KubeProxyArgs)
}

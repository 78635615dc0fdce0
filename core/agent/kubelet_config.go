package agent

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	logsapi "k8s.io/component-base/logs/api/v1"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
	"sigs.k8s.io/yaml"

	"github.com/kelson-io/kelson/core/agent/kernel"
	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/datadir"
)

// Credentials are the files that kubelet and kube-proxy identify themselves
// and others with.
type Credentials struct {
	ClientCA        string // who may call kubelet
	ServingCert     string
	ServingKey      string
	Kubeconfig      string // kubelet's
	ProxyKubeconfig string
}

// KubeletSettings is what kubelet's configuration and flags are made of.
type KubeletSettings struct {
	Layout      datadir.Layout
	Node        config.Node
	Info        NodeInfo
	Network     config.Network
	Credentials Credentials
	Facts       kernel.Facts
	ResolvConf  string
	CgroupRoot  string // "" for the root
	LogFormat   string // "text" or "json"
	Verbosity   int
}

// CgroupRoot is the group under which the node's pods live: the host's root for
// the default data dir, one of its own for others, since two kubelets that
// share a root end each other's pods. runID is the last element of the run dir.
func CgroupRoot(l datadir.Layout) string {
	id := l.Run[strings.LastIndexByte(l.Run, '/')+1:]
	if id == "default" || id == "" {
		return ""
	}
	return "/kelson-" + strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToLower(id))
}

// KubeletConfig is kubelet's configuration for these settings. It is pure.
func KubeletConfig(s KubeletSettings) *kubeletv1beta1.KubeletConfiguration {
	l := s.Layout
	cfg := &kubeletv1beta1.KubeletConfiguration{
		TypeMeta:                 metav1.TypeMeta{APIVersion: "kubelet.config.k8s.io/v1beta1", Kind: "KubeletConfiguration"},
		Address:                  "0.0.0.0",
		Port:                     int32(s.Node.KubeletPort),
		StaticPodPath:            l.Agent("pod-manifests"),
		ContainerRuntimeEndpoint: "unix://" + ContainerdSocket(l),
		TLSCertFile:              s.Credentials.ServingCert,
		TLSPrivateKeyFile:        s.Credentials.ServingKey,
		TLSMinVersion:            "VersionTLS12",
		HealthzBindAddress:       "127.0.0.1",
		HealthzPort:              new(int32(10248)),
		ClusterDomain:            s.Network.ClusterDomain,
		ClusterDNS:               texts(s.Network.ClusterDNS),
		ResolverConfig:           &s.ResolvConf,
		CgroupDriver:             s.Facts.Cgroups.Driver(),
		CgroupRoot:               s.CgroupRoot,
		FailCgroupV1:             new(s.Facts.Cgroups.Version != 1),
		CPUCFSQuota:              new(s.Facts.Cgroups.CFSQuota),
		FailSwapOn:               new(false),
		ProtectKernelDefaults:    s.Node.ProtectKernel,
		SeccompDefault:           new(true),
		SerializeImagePulls:      new(false),
		EvictionHard:             map[string]string{"imagefs.available": "5%", "nodefs.available": "5%", "memory.available": "100Mi"},
		EvictionMinimumReclaim:   map[string]string{"imagefs.available": "10%", "nodefs.available": "10%"},
		EnableProfilingHandler:   new(false),
		RegisterWithTaints:       taints(s.Node.Taints),
		VolumePluginDir:          l.Agent("kubelet-plugins", "volume", "exec"),
		// A restart of the host must not look like a shutdown of the node.
		ShutdownGracePeriod: metav1.Duration{}, ShutdownGracePeriodCriticalPods: metav1.Duration{},
		// Node objects are written once a minute when nothing changes; leases tell liveness.
		NodeStatusReportFrequency: metav1.Duration{Duration: 5 * time.Minute},
	}
	cfg.Authentication.Anonymous.Enabled = new(false)
	cfg.Authentication.Webhook.Enabled = new(true)
	cfg.Authentication.Webhook.CacheTTL = metav1.Duration{Duration: 2 * time.Minute}
	cfg.Authentication.X509.ClientCAFile = s.Credentials.ClientCA
	cfg.Authorization.Mode = kubeletv1beta1.KubeletAuthorizationModeWebhook
	if len(s.Info.IPs) > 0 && s.Info.IPs[0].Is6() {
		cfg.Address, cfg.HealthzBindAddress = "::", "::1"
	}
	if !s.Facts.Resource {
		cfg.OOMScoreAdj = new(int32(0))
	}
	if s.CgroupRoot != "" {
		cfg.PodLogsDir = l.Agent("pod-logs")
	}
	cfg.Logging = logsapi.LoggingConfiguration{Format: logFormat(s.LogFormat), Verbosity: logsapi.VerbosityLevel(s.Verbosity)}
	return cfg
}

// KubeletArgs are the settings that exist only as flags, then the user's.
func KubeletArgs(s KubeletSettings) []string {
	args := []string{
		"--kubeconfig=" + s.Credentials.Kubeconfig,
		"--root-dir=" + s.Layout.Agent("kubelet"),
		"--cert-dir=" + s.Layout.Agent("kubelet", "pki"),
		"--hostname-override=" + s.Info.Name,
		"--node-ip=" + strings.Join(texts(s.Info.IPs), ","),
	}
	if len(s.Node.Labels) > 0 {
		args = append(args, "--node-labels="+strings.Join(s.Node.Labels, ","))
	}
	return append(args, flags(s.Node.KubeletArgs)...)
}

// flags turns "name=value" or "name" into "--name=value".
func flags(args []string) []string {
	var out []string
	for _, arg := range args {
		out = append(out, "--"+strings.TrimLeft(arg, "-"))
	}
	return out
}

// taints parses key[=value]:Effect, which config has validated.
func taints(texts []string) []corev1.Taint {
	var out []corev1.Taint
	for _, text := range texts {
		rest, effect, _ := strings.Cut(text, ":")
		key, value, _ := strings.Cut(rest, "=")
		out = append(out, corev1.Taint{Key: key, Value: value, Effect: corev1.TaintEffect(effect)})
	}
	return out
}

func texts(addrs []netip.Addr) []string {
	var out []string
	for _, a := range addrs {
		out = append(out, a.String())
	}
	return out
}

func logFormat(format string) string {
	if format == "json" {
		return "json"
	}
	return "text"
}

func cidrList(prefixes []netip.Prefix) string {
	var out []string
	for _, p := range prefixes {
		out = append(out, p.String())
	}
	return strings.Join(out, ",")
}

func encodeYAML(value any) ([]byte, error) {
	raw, err := yaml.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("encode configuration: %w", err)
	}
	return raw, nil
}

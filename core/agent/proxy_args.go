package agent

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	proxyv1alpha1 "k8s.io/kube-proxy/config/v1alpha1"

	"github.com/kelson-io/kelson/core/config"
)

// CheckProxyArgs returns why arguments ("name=value") of kube-proxy cannot be
// taken, with a remedy.
func CheckProxyArgs(args []string) error {
	return applyProxyArgs(&proxyv1alpha1.KubeProxyConfiguration{}, args)
}

// applyProxyArgs sets what the arguments ask for. kube-proxy itself ignores
// flags beside a configuration file, so they are settings of the file here.
func applyProxyArgs(cfg *proxyv1alpha1.KubeProxyConfiguration, args []string) error {
	known := proxyFlags(cfg)
	for _, arg := range args {
		name, value, valued := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		name = strings.ReplaceAll(name, "_", "-")
		if !valued {
			value = "true"
		}
		set, ok := known[name]
		if !ok {
			return config.Hinted(fmt.Errorf("kube-proxy-arg: %s is not supported", name), proxyRemedy(name, slices.Sorted(maps.Keys(known))))
		}
		if err := set(value); err != nil {
			return config.Hinted(fmt.Errorf("kube-proxy-arg: %s=%s: %w", name, value, err), "give --"+name+" as kube-proxy documents it")
		}
	}
	return nil
}

// proxyRemedy says what to do instead of a flag that is not taken.
func proxyRemedy(name string, supported []string) string {
	switch strings.TrimRight(name, "+-") {
	case "hostname-override":
		return "name the node with --node-name"
	case "metrics-port", "healthz-port":
		return "use " + strings.TrimSuffix(name, "port") + "bind-address"
	case "v":
		return "use --v of Kelson itself"
	case "logging-format":
		return "use --log-format of Kelson itself"
	case "config", "kubeconfig", "master":
		return "Kelson writes this file itself; remove the argument"
	case "cleanup", "init-only", "write-config-to":
		return "kube-proxy would end after it; remove the argument"
	}
	return "supported are " + strings.Join(supported, ", ")
}

type setter func(value string) error

// proxyFlags are the flags of kube-proxy that have a place in its configuration.
func proxyFlags(cfg *proxyv1alpha1.KubeProxyConfiguration) map[string]setter {
	flags := map[string]setter{
		"bind-address":                    checked(&cfg.BindAddress, isAddress),
		"healthz-bind-address":            checked(&cfg.HealthzBindAddress, isAddressPort),
		"metrics-bind-address":            checked(&cfg.MetricsBindAddress, isAddressPort),
		"bind-address-hard-fail":          parsed(&cfg.BindAddressHardFail, strconv.ParseBool),
		"profiling":                       parsed(&cfg.EnableProfiling, strconv.ParseBool),
		"show-hidden-metrics-for-version": checked(&cfg.ShowHiddenMetricsForVersion, anything),
		"proxy-mode":                      checked(&cfg.Mode, oneOf("iptables", "ipvs", "nftables")),
		"detect-local-mode":               checked(&cfg.DetectLocalMode, oneOf("ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix")),
		"pod-bridge-interface":            checked(&cfg.DetectLocal.BridgeInterface, anything),
		"pod-interface-name-prefix":       checked(&cfg.DetectLocal.InterfaceNamePrefix, anything),
		"cluster-cidr":                    checked(&cfg.ClusterCIDR, areCIDRs),
		"nodeport-addresses":              parsed(&cfg.NodePortAddresses, nodePortAddresses),
		"config-sync-period":              parsed(&cfg.ConfigSyncPeriod, duration),
		"feature-gates":                   parsed(&cfg.FeatureGates, gates),
		"kube-api-content-type":           checked(&cfg.ClientConnection.ContentType, anything),
		"kube-api-burst":                  parsed(&cfg.ClientConnection.Burst, number),
		"kube-api-qps":                    parsed(&cfg.ClientConnection.QPS, fraction),
		"oom-score-adj":                   pointed(&cfg.OOMScoreAdj, number),
		"masquerade-all": func(value string) error {
			all, err := strconv.ParseBool(value)
			cfg.IPTables.MasqueradeAll, cfg.NFTables.MasqueradeAll = all, all
			return err
		},
	}
	maps.Copy(flags, conntrackFlags(&cfg.Conntrack))
	maps.Copy(flags, modeFlags(cfg))
	return flags
}

func conntrackFlags(c *proxyv1alpha1.KubeProxyConntrackConfiguration) map[string]setter {
	return map[string]setter{
		"conntrack-max-per-core":            pointed(&c.MaxPerCore, number),
		"conntrack-min":                     pointed(&c.Min, number),
		"conntrack-tcp-timeout-established": pointed(&c.TCPEstablishedTimeout, duration),
		"conntrack-tcp-timeout-close-wait":  pointed(&c.TCPCloseWaitTimeout, duration),
		"conntrack-tcp-be-liberal":          parsed(&c.TCPBeLiberal, strconv.ParseBool),
		"conntrack-udp-timeout":             parsed(&c.UDPTimeout, duration),
		"conntrack-udp-timeout-stream":      parsed(&c.UDPStreamTimeout, duration),
	}
}

func modeFlags(cfg *proxyv1alpha1.KubeProxyConfiguration) map[string]setter {
	return map[string]setter{
		"iptables-masquerade-bit":      pointed(&cfg.IPTables.MasqueradeBit, number),
		"iptables-localhost-nodeports": pointed(&cfg.IPTables.LocalhostNodePorts, strconv.ParseBool),
		"iptables-sync-period":         parsed(&cfg.IPTables.SyncPeriod, duration),
		"iptables-min-sync-period":     parsed(&cfg.IPTables.MinSyncPeriod, duration),
		"ipvs-sync-period":             parsed(&cfg.IPVS.SyncPeriod, duration),
		"ipvs-min-sync-period":         parsed(&cfg.IPVS.MinSyncPeriod, duration),
		"ipvs-scheduler":               checked(&cfg.IPVS.Scheduler, anything),
		"ipvs-exclude-cidrs":           parsed(&cfg.IPVS.ExcludeCIDRs, cidrTexts),
		"ipvs-strict-arp":              parsed(&cfg.IPVS.StrictARP, strconv.ParseBool),
		"ipvs-tcp-timeout":             parsed(&cfg.IPVS.TCPTimeout, duration),
		"ipvs-tcpfin-timeout":          parsed(&cfg.IPVS.TCPFinTimeout, duration),
		"ipvs-udp-timeout":             parsed(&cfg.IPVS.UDPTimeout, duration),
	}
}

func parsed[T any](field *T, parse func(string) (T, error)) setter {
	return func(text string) error {
		value, err := parse(text)
		if err == nil {
			*field = value
		}
		return err
	}
}

func pointed[T any](field **T, parse func(string) (T, error)) setter {
	return func(text string) error {
		value, err := parse(text)
		if err == nil {
			*field = &value
		}
		return err
	}
}

func checked[T ~string](field *T, check func(string) error) setter {
	return parsed(field, func(text string) (T, error) { return T(text), check(text) })
}

func anything(string) error { return nil }

func oneOf(values ...string) func(string) error {
	return func(text string) error {
		if slices.Contains(values, text) {
			return nil
		}
		return fmt.Errorf("must be one of %s", strings.Join(values, ", "))
	}
}

func isAddress(text string) error {
	_, err := netip.ParseAddr(text)
	return err
}

func isAddressPort(text string) error {
	_, err := netip.ParseAddrPort(text)
	return err
}

func areCIDRs(text string) error {
	_, err := cidrTexts(text)
	return err
}

func cidrTexts(text string) ([]string, error) {
	list := strings.Split(text, ",")
	for _, item := range list {
		if _, err := netip.ParsePrefix(item); err != nil {
			return nil, err
		}
	}
	return list, nil
}

func nodePortAddresses(text string) ([]string, error) {
	list := strings.Split(text, ",")
	for _, item := range list {
		if slices.Contains([]string{"all", "localhost", "primary"}, item) {
			continue
		}
		if _, err := netip.ParsePrefix(item); err != nil {
			return nil, err
		}
	}
	return list, nil
}

func duration(text string) (metav1.Duration, error) {
	d, err := time.ParseDuration(text)
	return metav1.Duration{Duration: d}, err
}

func number(text string) (int32, error) {
	n, err := strconv.ParseInt(text, 10, 32)
	return int32(n), err
}

func fraction(text string) (float32, error) {
	f, err := strconv.ParseFloat(text, 32)
	return float32(f), err
}

func gates(text string) (map[string]bool, error) {
	out := map[string]bool{}
	for item := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(item, "=")
		on, err := strconv.ParseBool(value)
		if err != nil || name == "" {
			return nil, fmt.Errorf("%q is not Name=true or Name=false", item)
		}
		out[name] = on
	}
	return out, nil
}

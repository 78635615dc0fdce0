package agent

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/kelson-io/kelson/core/agent/kernel"
	"github.com/kelson-io/kelson/core/datadir"
)

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
		cfg, err := ProxyConfig(proxy)
		if err != nil {
			return "", err
		}
		if err := writeYAML(file.ProxyConfig, cfg); err != nil {
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

package agent

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/kelson-io/kelson/core/datadir"
)

// NodeFile is what the node child is told: `kelson-host node --config FILE`
// reads it and runs kubelet and kube-proxy as it says. It is written by the
// host that launches the child; both are of one build, so it has no version.
type NodeFile struct {
	KubeletConfig string   `json:"kubeletConfig"`         // file with a KubeletConfiguration
	KubeletArgs   []string `json:"kubeletArgs"`           // flags "--name=value", stronger than the file
	ProxyConfig   string   `json:"proxyConfig,omitempty"` // file with a KubeProxyConfiguration, "" for no kube-proxy
	Verbosity     int      `json:"verbosity"`             // klog's -v
	LogFormat     string   `json:"logFormat"`             // "text" or "json"
	Debug         bool     `json:"debug"`                 // log level debug
}

// ReadNodeFile reads what WriteNodeFile wrote. Unknown fields are refused.
func ReadNodeFile(path string) (NodeFile, error) {
	file, err := os.Open(path)
	if err != nil {
		return NodeFile{}, err
	}
	defer file.Close()
	decoder := json.NewDecoder(file)
	decoder.DisallowUnknownFields()
	var node NodeFile
	if err := decoder.Decode(&node); err != nil {
		return NodeFile{}, fmt.Errorf("read %s: %w", path, err)
	}
	if node.KubeletConfig == "" {
		return NodeFile{}, fmt.Errorf("read %s: kubeletConfig is missing", path)
	}
	return node, nil
}

// WriteNodeFile writes the file durably, mode 0600.
func WriteNodeFile(path string, node NodeFile) error {
	raw, err := json.MarshalIndent(node, "", "  ")
	if err != nil {
		return err
	}
	return datadir.WriteFile(path, append(raw, '\n'), 0o600)
}

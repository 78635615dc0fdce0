package kube

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/pflag"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	cliflag "k8s.io/component-base/cli/flag"
	logsapi "k8s.io/component-base/logs/api/v1"
	proxyapp "k8s.io/kubernetes/cmd/kube-proxy/app"
	kubeletapp "k8s.io/kubernetes/cmd/kubelet/app"
	"k8s.io/kubernetes/cmd/kubelet/app/options"
	kubeletconfig "k8s.io/kubernetes/pkg/kubelet/apis/config"
	"k8s.io/kubernetes/pkg/kubelet/apis/config/validation"
	"k8s.io/kubernetes/pkg/kubelet/kubeletconfig/configfiles"
	utilfs "k8s.io/kubernetes/pkg/util/filesystem"
)

// Node says how kubelet and kube-proxy run in this process.
type Node struct {
	KubeletConfig string   // file with a KubeletConfiguration
	KubeletArgs   []string // flags, stronger than the file
	ProxyConfig   string   // file with a KubeProxyConfiguration, "" for no kube-proxy
}

// stopGrace is how long kubelet gets to end its work after the node's context.
const stopGrace = 2 * time.Second

// RunNode runs kubelet and kube-proxy until ctx ends or one of them fails; the
// error names which. The process must be given to them alone: stock code of
// both calls os.Exit, and feature gates are shared.
func RunNode(ctx context.Context, node Node) error {
	prepareProcess()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type exit struct {
		component string
		err       error
	}
	exits := make(chan exit, 2)
	kubelet, err := newKubelet(ctx, node)
	if err != nil {
		return fmt.Errorf("kubelet: %w", err)
	}
	if node.ProxyConfig != "" {
		proxy, err := newProxy(node)
		if err != nil {
			return fmt.Errorf("kube-proxy: %w", err)
		}
		go func() { exits <- exit{"kube-proxy", proxy.Run(ctx)} }()
	}
	go func() { exits <- exit{"kubelet", kubelet.run(ctx)} }()

	select {
	case e := <-exits:
		if e.err == nil {
			e.err = errors.New("ended by itself")
		}
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("%s: %w", e.component, e.err)
	case <-ctx.Done():
	}
	select { // kube-proxy's loop does not end, and has nothing to clean up
	case <-exits:
	case <-time.After(stopGrace):
	}
	return nil
}

type kubelet struct{ server *options.KubeletServer }

func newKubelet(ctx context.Context, node Node) (*kubelet, error) {
	loader, err := configfiles.NewFsLoader(&utilfs.DefaultFs{}, node.KubeletConfig)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", node.KubeletConfig, err)
	}
	config, err := loader.Load(ctx)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", node.KubeletConfig, err)
	}
	flags, err := parseKubelet(node.KubeletArgs, config)
	if err != nil {
		return nil, err
	}
	if err := utilfeature.DefaultMutableFeatureGate.SetFromMap(config.FeatureGates); err != nil {
		return nil, fmt.Errorf("set feature gates: %w", err)
	}
	if err := logsapi.ValidateAndApply(&config.Logging, utilfeature.DefaultFeatureGate); err != nil {
		return nil, fmt.Errorf("apply logging: %w", err)
	}
	if err := options.ValidateKubeletFlags(flags); err != nil {
		return nil, fmt.Errorf("validate flags: %w", err)
	}
	if err := validation.ValidateKubeletConfiguration(config, utilfeature.DefaultFeatureGate); err != nil {
		return nil, fmt.Errorf("validate configuration: %w", err)
	}
	return &kubelet{server: &options.KubeletServer{KubeletFlags: *flags, KubeletConfiguration: *config}}, nil
}

// CheckKubeletArgs reports arguments ("name=value" each) that kubelet would
// refuse at its start.
func CheckKubeletArgs(args []string) error {
	config, err := options.NewKubeletConfiguration()
	if err != nil {
		return fmt.Errorf("kubelet: %w", err)
	}
	dashed := make([]string, len(args))
	for i, arg := range args {
		dashed[i] = "--" + strings.TrimLeft(arg, "-")
	}
	flags, err := parseKubelet(dashed, config)
	if err == nil {
		err = options.ValidateKubeletFlags(flags)
	}
	if err != nil {
		return fmt.Errorf("kubelet: %w", err)
	}
	return nil
}

// parseKubelet reads args over config; those that are not in it are returned.
func parseKubelet(args []string, config *kubeletconfig.KubeletConfiguration) (*options.KubeletFlags, error) {
	flags := options.NewKubeletFlags()
	fs := pflag.NewFlagSet("kubelet", pflag.ContinueOnError)
	fs.SetNormalizeFunc(cliflag.WordSepNormalizeFunc)
	fs.Usage = func() {}
	flags.AddFlags(fs)
	options.AddKubeletConfigFlags(fs, config)
	return flags, fs.Parse(args)
}

func (k *kubelet) run(ctx context.Context) error {
	deps, err := kubeletapp.UnsecuredDependencies(ctx, k.server, utilfeature.DefaultFeatureGate)
	if err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	return kubeletapp.Run(ctx, k.server, deps, utilfeature.DefaultFeatureGate)
}

func newProxy(node Node) (*proxyapp.Options, error) {
	opts := proxyapp.NewOptions()
	fs := pflag.NewFlagSet("kube-proxy", pflag.ContinueOnError)
	fs.SetNormalizeFunc(cliflag.WordSepNormalizeFunc)
	fs.Usage = func() {}
	opts.AddFlags(fs)
	if err := fs.Parse([]string{"--config=" + node.ProxyConfig}); err != nil {
		return nil, err
	}
	if err := opts.Complete(fs); err != nil {
		return nil, fmt.Errorf("complete options: %w", err)
	}
	if err := opts.Validate(); err != nil {
		return nil, fmt.Errorf("validate options: %w", err)
	}
	return opts, nil
}

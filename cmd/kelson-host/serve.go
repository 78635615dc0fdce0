package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/kelson-io/kelson/core/agent"
	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/controlplane"
	"github.com/kelson-io/kelson/core/kube"
	"github.com/kelson-io/kelson/core/logging"
	"github.com/kelson-io/kelson/core/node"
	"github.com/kelson-io/kelson/manifests"
)

// settlingTime is how long after the boot the packaged components come up, with
// errors of the components that wait for them.
const settlingTime = 30 * time.Second

// runServer boots a server and returns when ctx ends or the server fails.
func runServer(ctx context.Context, cfg config.Server, std streams) error {
	log := logging.New(std.Err, cfg.Log.Format, cfg.Log.Debug)
	settling := logging.Install(log, cfg.Log.Verbose)
	settling.Set(true)
	fatal := make(chan node.Fatal, 1)
	logging.InstallExitHandlers(func(component string, code int, stack []byte) {
		fatal <- node.Fatal{Component: component, Code: code, Stack: stack}
	})
	pace := relaxCollector()
	return node.RunServer(ctx, cfg, node.Deps{
		OnReady: func() {
			pace.booted()
			time.AfterFunc(settlingTime, func() { settling.Set(false) })
		},
		Log:       log,
		Manifests: manifests.FS,
		Runner: func(apiserver, scheduler, controllers []string) (controlplane.Runner, error) {
			return kube.New(kube.Args{APIServer: apiserver, Scheduler: scheduler, ControllerManager: controllers})
		},
		KubeletArgs: kube.CheckKubeletArgs,
		Fatal:       fatal,
	})
}

// runNode runs kubelet and kube-proxy as the server's child. Here the stock
// exit functions stay: this process is theirs, and its end is supervised.
func runNode(ctx context.Context, path string, std streams) error {
	file, err := agent.ReadNodeFile(path)
	if err != nil {
		return err
	}
	// The child has a log file of its own, where kubelet's course belongs.
	logging.Install(logging.New(std.Err, file.LogFormat, file.Debug), max(file.Verbosity, 1))
	if err := kube.RunNode(ctx, kube.Node{
		KubeletConfig: file.KubeletConfig, KubeletArgs: file.KubeletArgs,
		ProxyConfig: file.ProxyConfig,
	}); err != nil {
		return fmt.Errorf("node %d: %w", os.Getpid(), err)
	}
	return nil
}

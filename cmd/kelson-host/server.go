package main

import (
	"errors"
	"os"
	"slices"

	"github.com/alecthomas/kong"

	"github.com/kelson-io/kelson/core/config"
)

// globals are the flags of every verb.
type globals struct{ *optionFlags }

func newGlobals() globals {
	return globals{newOptionFlags(func(o config.Option) bool { return o.Global })}
}

// one returns a global flag's last value, "" if it was not given.
func (g globals) one(name string) string {
	value := ""
	for _, f := range g.flags() {
		if f.Name == name {
			value = f.Value
		}
	}
	return value
}

// dirs resolves the data dir as findDirs does, from the parsed flags.
func (g globals) dirs() (dirs, error) {
	var args []string
	for _, f := range g.flags() {
		args = append(args, "--"+f.Name, f.Value)
	}
	return findDirs(args)
}

// serverCmd is `kelson server`; its flags are the table of core/config.
type serverCmd struct {
	kong.Plugins
	options *optionFlags
}

func newServerCmd() serverCmd {
	f := newOptionFlags(func(o config.Option) bool { return !o.Global })
	return serverCmd{Plugins: f.plugin(), options: f}
}

// Help gives examples.
func (serverCmd) Help() string {
	return `Flags but --config and --help are also keys of config.yaml and variables KELSON_NAME (KELSON_CLUSTER_CIDR for --cluster-cidr; the others are KELSON_CONFIG_FILE, KELSON_VERBOSITY for --v, and for --write-kubeconfig… KELSON_KUBECONFIG_OUTPUT, _MODE, _GROUP and _NAME). Weakest first: default, config.yaml, the files of config.yaml.d in alphabetical order, environment, flag. Lists are given with commas or by repeating the flag.

Examples:

    kelson server
    kelson server --node-ip 192.0.2.10 --tls-san kelson.example.org
    kelson server --data-dir /srv/kelson --disable metrics-server`
}

// Run boots a server and ends with it.
func (c *serverCmd) Run(g globals, std streams) error {
	cfg, err := config.Load(config.Inputs{
		Flags:   slices.Concat(g.flags(), c.options.flags()),
		Environ: os.Environ(),
	})
	if err != nil {
		return err
	}
	ctx, stop := signalContext()
	defer stop()
	return runServer(ctx, cfg, std)
}

// nodeCmd is the server's child with kubelet and kube-proxy.
type nodeCmd struct{}

// Run takes the node's configuration from --config.
func (nodeCmd) Run(g globals, std streams) error {
	file := g.one("config")
	if file == "" {
		return usageError{errors.New("node: --config FILE is needed; the server starts this command itself")}
	}
	ctx, stop := signalContext()
	defer stop()
	return runNode(ctx, file, std)
}

// agentCmd answers those who come from K3s.
type agentCmd struct {
	Args []string `arg:"" optional:"" passthrough:""`
}

// Run says that there are no agents yet.
func (agentCmd) Run() error {
	return config.Hinted(errors.New("agent: joining nodes is not available in this version"),
		"run 'kelson server': a server is also a node")
}

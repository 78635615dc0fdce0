package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/version"
)

// errHelp ends parsing after the help was printed.
var errHelp = errors.New("help printed")

// helpFlag prints help and stops parsing, without ending the process.
type helpFlag bool

// IgnoreDefault keeps kong from applying the hook to a default.
func (helpFlag) IgnoreDefault() {}

// BeforeReset is kong's hook for flags that act before values are applied.
func (helpFlag) BeforeReset(ctx *kong.Context) error {
	if err := ctx.PrintUsage(false); err != nil {
		return err
	}
	return errHelp
}

// commands is kelson's command line; help and completion are made from it.
type commands struct {
	Help helpFlag `short:"h" help:"Show help for a command."`
	kong.Plugins

	Server serverCmd `cmd:"" help:"Run a server: control plane and node." group:"Run:"`
	Agent  agentCmd  `cmd:"" hidden:"" help:"Run a node that joins a server." group:"Run:"`
	Node   nodeCmd   `cmd:"" hidden:"" help:"Run kubelet and kube-proxy; started by the server." group:"Run:"`

	Status     statusCmd     `cmd:"" help:"Show how the server and its cluster are." group:"Look:"`
	Boot       bootCmd       `cmd:"" help:"Show where the time of the last boot went." group:"Look:"`
	Check      checkCmd      `cmd:"" help:"Check whether this host can run a server." group:"Look:"`
	Config     configCmd     `cmd:"" help:"Show or check the configuration." group:"Look:"`
	Completion completionCmd `cmd:"" help:"Print a completion script for a shell." group:"Look:"`
	Version    versionCmd    `cmd:"" help:"Print the version of this build." group:"Look:"`

	Images      imagesCmd      `cmd:"" help:"List or import the node's images." group:"Manage:"`
	Certificate certificateCmd `cmd:"" help:"Look after the cluster's certificates." group:"Manage:"`
	Plugin      pluginCmd      `cmd:"" help:"Install, verify and look after plugins." group:"Manage:"`

	Kubectl    toolCmd `cmd:"" passthrough:"" help:"Kubernetes' command line, for this cluster." group:"Tools:"`
	Ctr        toolCmd `cmd:"" passthrough:"" help:"containerd's command line, for this node." group:"Tools:"`
	Crictl     toolCmd `cmd:"" passthrough:"" help:"The runtime interface's command line, for this node." group:"Tools:"`
	Containerd toolCmd `cmd:"" passthrough:"" hidden:"" help:"The container daemon; started by the server." group:"Tools:"`
}

// toolCmd stands in the help for a program that parses its own arguments.
type toolCmd struct {
	Args []string `arg:"" optional:"" help:"Arguments of the program."`
}

// Run is reached only behind flags that dispatch does not know.
func (c *toolCmd) Run(ctx *kong.Context, std streams) error {
	tool, ok := toolByName(ctx.Selected().Name)
	if !ok {
		return fmt.Errorf("no program %s", ctx.Selected().Name)
	}
	return tool(invocation{args: c.Args, io: std})
}

func newParser(std streams) (*kong.Kong, error) {
	g := newGlobals()
	root := &commands{Plugins: g.plugin(), Server: newServerCmd()}
	return kong.New(root,
		kong.Name("kelson"),
		kong.Description("Kubernetes in one file, "+version.Get().Version+"."),
		kong.NoDefaultHelp(),
		kong.Writers(std.Out, std.Err),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true, WrapUpperBound: 100}),
		kong.Bind(std, g),
	)
}

// runVerb parses kelson's own command line and runs the chosen verb.
func runVerb(args []string, std streams) error {
	parser, err := newParser(std)
	if err != nil {
		return fmt.Errorf("command line: %w", err)
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	if args[0] == "--version" {
		args = []string{"version"}
	}
	ctx, err := parser.Parse(args)
	switch {
	case errors.Is(err, errHelp):
		return nil
	case err != nil:
		return usageError{wordUsage(parser, err)}
	default:
		return ctx.Run()
	}
}

// wordUsage turns kong's message into what and remedy.
func wordUsage(parser *kong.Kong, err error) error {
	msg, near, found := strings.Cut(err.Error(), ", did you mean ")
	if found {
		return config.Hinted(errors.New(msg), "did you mean "+near)
	}
	if flag, ok := strings.CutPrefix(msg, "unknown flag --"); ok {
		if near := nearestFlag(parser, err, flag); near != "" {
			return config.Hinted(err, "did you mean --"+near+"?")
		}
	}
	command := "kelson"
	var parse *kong.ParseError
	if errors.As(err, &parse) && parse.Context.Selected() != nil {
		command = parse.Context.Selected().FullPath()
	}
	return config.Hinted(err, "run '"+command+" --help'")
}

// nearestFlag looks among the flags of the chosen command.
func nearestFlag(parser *kong.Kong, err error, flag string) string {
	node := parser.Model.Node
	var parse *kong.ParseError
	if errors.As(err, &parse) && parse.Context.Selected() != nil {
		node = parse.Context.Selected()
	}
	var names []string
	for _, level := range node.AllFlags(true) {
		for _, f := range level {
			names = append(names, f.Name)
		}
	}
	return config.Nearest(flag, names)
}

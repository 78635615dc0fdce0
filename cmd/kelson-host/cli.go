package main

import (
	"errors"

	"github.com/alecthomas/kong"

	"github.com/kelson-io/kelson/core/version"
)

// errHelp ends parsing after the help was printed.
var errHelp = errors.New("help printed")

// helpFlag prints help and stops parsing, without ending the process.
type helpFlag bool

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

	Version versionCmd `cmd:"" help:"Print the version of this build."`
}

func newParser(root *commands, io streams) (*kong.Kong, error) {
	return kong.New(root,
		kong.Name("kelson"),
		kong.Description("Kubernetes "+version.Get().Version+" in one file."),
		kong.NoDefaultHelp(),
		kong.Writers(io.Out, io.Err),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true}),
		kong.Bind(io),
	)
}

// runVerb parses kelson's own command line and runs the chosen verb.
func runVerb(args []string, io streams) error {
	parser, err := newParser(&commands{}, io)
	if err != nil {
		return err
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	ctx, err := parser.Parse(args)
	switch {
	case errors.Is(err, errHelp):
		return nil
	case err != nil:
		return usageError{err}
	default:
		return ctx.Run()
	}
}

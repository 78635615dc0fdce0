package main

import (
	"context"
	"errors"

	ctr "github.com/containerd/containerd/v2/cmd/ctr/app"
	"github.com/urfave/cli/v3"
)

// runCtr runs upstream's ctr against this data dir's containerd, in the
// namespace that Kubernetes uses; CONTAINERD_ADDRESS, CONTAINERD_NAMESPACE and
// ctr's own flags still win.
func runCtr(call invocation) error {
	dirs, err := findDirs(call.global)
	if err != nil {
		return err
	}
	app := ctr.New()
	for _, f := range app.Flags {
		text, ok := f.(*cli.StringFlag)
		if !ok {
			continue
		}
		switch text.Name {
		case "address":
			text.Value = dirs.containerdSocket()
		case "namespace":
			text.Value = "k8s.io"
		}
	}
	return runUrfave(app, append([]string{"ctr"}, call.args...))
}

// runUrfave runs an urfave/cli program without letting it end the process.
func runUrfave(app *cli.Command, argv []string) error {
	app.ExitErrHandler = func(context.Context, *cli.Command, error) {}
	err := app.Run(context.Background(), argv)
	if coder, ok := errors.AsType[cli.ExitCoder](err); ok {
		return exitError{code: coder.ExitCode(), msg: coder.Error()}
	}
	if err != nil {
		return exitError{code: exitFailed, msg: app.Name + ": " + err.Error()}
	}
	return nil
}

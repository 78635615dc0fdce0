package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // exec and OIDC credentials of foreign kubeconfigs
	"k8s.io/component-base/cli"
	"k8s.io/component-base/logs"
	"k8s.io/kubectl/pkg/cmd"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"

	"github.com/kelson-io/kelson/core/config"
)

// runKubectl runs upstream's kubectl against this data dir's cluster, unless
// KUBECONFIG or --kubeconfig name another.
func runKubectl(call invocation) error {
	if os.Getenv("KUBECONFIG") == "" {
		dirs, err := findDirs(call.global)
		if err != nil {
			return err
		}
		if _, err := os.Stat(dirs.kubeconfig); errors.Is(err, fs.ErrNotExist) && needsCluster(call.args) {
			return config.Hinted(fmt.Errorf("kubectl: no kubeconfig at %s", dirs.kubeconfig),
				"start a server first, name its data dir with KELSON_DATA_DIR, or set KUBECONFIG")
		}
		// A default of --kubeconfig would be an explicit choice, whose file must
		// exist, and plugins are told by the variable alone.
		if err := os.Setenv("KUBECONFIG", dirs.kubeconfig); err != nil { //nolint:forbidigo // this process is kubectl and nothing else
			return fmt.Errorf("set KUBECONFIG: %w", err)
		}
	}
	return untilFatal(func() error {
		argv := append([]string{"kubectl"}, call.args...)
		_, _ = logs.GlogSetter(cmd.GetLogVerbosity(argv))
		return cli.RunNoErrOutput(newKubectl(argv, call.io))
	})
}

// needsCluster reports whether a kubectl command line is of no use without the
// kubeconfig, and would otherwise try localhost:8080.
func needsCluster(args []string) bool {
	for _, arg := range args {
		name, _, _ := strings.Cut(arg, "=")
		if slices.Contains([]string{"--kubeconfig", "--server", "-s", "--help", "-h", "--client"}, name) {
			return false
		}
	}
	if len(args) == 0 {
		return false
	}
	local := []string{"completion", "__complete", "__completeNoDesc", "config", "help", "kustomize", "options", "plugin"}
	return !slices.Contains(local, args[0])
}

func newKubectl(argv []string, std streams) *cobra.Command {
	ios := genericiooptions.IOStreams{In: std.In, Out: std.Out, ErrOut: std.Err}
	flags := genericclioptions.NewConfigFlags(true).WithDeprecatedPasswordFlag().
		WithDiscoveryBurst(300).WithDiscoveryQPS(50).WithWarningPrinter(ios)
	command := cmd.NewDefaultKubectlCommandWithArgs(cmd.KubectlOptions{
		Arguments:   argv,
		ConfigFlags: flags,
		IOStreams:   ios,
	})
	command.SetArgs(argv[1:])
	return command
}

// untilFatal runs f on a goroutine of its own: kubectl's fatal path must not
// return to its caller, and Goexit unwinds it without ending the process.
func untilFatal(f func() error) error {
	result := make(chan error, 1)
	finish := func(err error) {
		select {
		case result <- err:
		default:
		}
	}
	fatal := func(msg string, code int) {
		finish(exitError{code: code, msg: msg})
		runtime.Goexit()
	}
	cmdutil.BehaviorOnFatal(fatal)
	go func() {
		err := f()
		if err != nil {
			cmdutil.CheckErr(err) // words the error as upstream does, and ends in fatal
		}
		finish(err)
	}()
	return <-result
}

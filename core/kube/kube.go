// Package kube runs the stock Kubernetes components inside the calling
// process. It is the only importer of k8s.io/kubernetes, so that every other
// package stays quick to build and test.
//
// The components are started through their exported options and Run functions,
// never through their cobra commands, which install signal handlers and exit.
//
// Invariants: feature gates and emulated versions are process-wide in
// Kubernetes; New settles them once, from the arguments of all components
// together, before anything runs. Run functions may be called again after they
// returned (a restarted component); two concurrent calls for one component are
// a programming error.
package kube

import (
	"fmt"

	"github.com/spf13/pflag"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/rest"
	cliflag "k8s.io/component-base/cli/flag"
	"k8s.io/component-base/configz"
	logsapi "k8s.io/component-base/logs/api/v1"
)

// Embedded runs the control-plane components as goroutines of this process.
type Embedded struct{}

// Args are the command-line arguments of the components, "--name=value" each,
// as the stock binaries take them.
type Args struct {
	APIServer, Scheduler, ControllerManager []string
}

// New parses all arguments once, so that a bad one is reported before
// anything starts, and settles the process-wide feature gates.
func New(args Args) (*Embedded, error) {
	prepareProcess()
	api, err := parseAPIServer(args.APIServer)
	if err != nil {
		return nil, err
	}
	if _, err := parseScheduler(args.Scheduler); err != nil {
		return nil, err
	}
	if _, err := parseControllerManager(args.ControllerManager); err != nil {
		return nil, err
	}
	registry := api.GenericServerRunOptions.ComponentGlobalsRegistry
	if err := registry.Set(); err != nil {
		return nil, fmt.Errorf("set feature gates: %w", err)
	}
	if err := validateAPIServer(args.APIServer); err != nil {
		return nil, err
	}
	registry.AddMetrics()
	return &Embedded{}, nil
}

// prepareProcess turns off what the stock code does to its whole process: the
// second component's logging set-up is ignored rather than refused, a panic
// that Kubernetes recovers is logged and not raised again, and warnings that
// the API server sends to its own components are dropped.
func prepareProcess() {
	logsapi.ReapplyHandling = logsapi.ReapplyHandlingIgnoreUnchanged
	utilruntime.ReallyCrash = false
	rest.SetDefaultWarningHandler(rest.NoWarnings{})
}

// forgetConfigz lets a restarted component register its configuration again.
func forgetConfigz(name string) { configz.Delete(name) }

// parse reads args into the flag sets; an error names the component.
func parse(component string, sets cliflag.NamedFlagSets, args []string) error {
	fs := pflag.NewFlagSet(component, pflag.ContinueOnError)
	fs.SetNormalizeFunc(cliflag.WordSepNormalizeFunc)
	fs.Usage = func() {}
	for _, set := range sets.FlagSets {
		fs.AddFlagSet(set)
	}
	if err := fs.Parse(args); err != nil {
		return fmt.Errorf("%s: %w", component, err)
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("%s: unexpected argument %q", component, fs.Arg(0))
	}
	return nil
}

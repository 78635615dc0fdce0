package logging

import (
	"runtime/debug"
	"strings"
	"sync/atomic"

	"github.com/sirupsen/logrus"
	"k8s.io/klog/v2"
)

// InstallExitHandlers replaces the exit functions of klog and logrus by one
// that never returns, as their callers expect. The first call gives report the
// component that made it (see Component), the exit code and the goroutine's
// stack; this and every later call then blocks its goroutine for ever. report
// runs on the failing goroutine, which may hold locks of its component: it must
// only hand over, not stop anything itself.
//
// Not covered, because nothing can: os.Exit, log.Fatal and logrus.Exit called
// directly, and a panic.
func InstallExitHandlers(report func(component string, code int, stack []byte)) {
	var reported atomic.Bool
	exit := func(code int) {
		if reported.CompareAndSwap(false, true) {
			stack := debug.Stack()
			report(Component(stack), code, stack)
		}
		select {} // the locks that the caller holds stay held: nothing runs on with a broken promise
	}
	klog.OsExit = exit
	logrus.StandardLogger().ExitFunc = exit
}

// origin ties a prefix of function names to a component.
type origin struct{ prefix, component string }

// components returns what a stack is searched for: first for code that only one
// component has, from the innermost call outwards, then for shared libraries.
func components() (own, shared []origin) {
	own = []origin{
		{"github.com/k3s-io/kine/", "kine"},
		{"k8s.io/kubernetes/cmd/kube-apiserver/", "apiserver"},
		{"k8s.io/kubernetes/pkg/controlplane", "apiserver"},
		{"k8s.io/kube-aggregator/", "apiserver"},
		{"k8s.io/apiextensions-apiserver/", "apiserver"},
		{"k8s.io/kubernetes/cmd/kube-scheduler/", "scheduler"},
		{"k8s.io/kubernetes/pkg/scheduler", "scheduler"},
		{"k8s.io/kubernetes/cmd/kube-controller-manager/", "controller-manager"},
		{"k8s.io/kubernetes/pkg/controller", "controller-manager"},
		{"k8s.io/controller-manager/", "controller-manager"},
		{"k8s.io/kubernetes/cmd/kubelet/", "kubelet"},
		{"k8s.io/kubernetes/pkg/kubelet", "kubelet"},
		{"k8s.io/kubernetes/cmd/kube-proxy/", "kube-proxy"},
		{"k8s.io/kubernetes/pkg/proxy", "kube-proxy"},
	}
	shared = []origin{
		{"k8s.io/apiserver/", "apiserver"},
		{"github.com/containerd/", "containerd"},
	}
	return own, shared
}

// Component names who is at work on a goroutine, from its stack as debug.Stack
// prints it: a component such as "kine" or "apiserver", else the package of the
// innermost call outside the logging libraries, else "unknown".
func Component(stack []byte) string {
	calls := callers(string(stack))
	own, shared := components()
	for _, table := range [][]origin{own, shared} {
		for _, call := range calls {
			for _, o := range table {
				if strings.HasPrefix(call, o.prefix) {
					return o.component
				}
			}
		}
	}
	if len(calls) > 0 {
		return packageOf(calls[0])
	}
	return "unknown"
}

// callers lists the functions on a stack from the innermost outwards, the
// goroutine's creator last, without the runtime and the logging libraries.
func callers(stack string) []string {
	machinery := []string{"runtime", "k8s.io/klog/", "github.com/sirupsen/logrus", "github.com/kelson-io/kelson/core/logging"}
	var calls []string
lines:
	for line := range strings.Lines(stack) {
		call := strings.TrimSuffix(line, "\n")
		if call == "" || call[0] == '\t' || strings.HasPrefix(call, "goroutine ") || strings.HasPrefix(call, "panic(") {
			continue
		}
		call = strings.TrimPrefix(call, "created by ")
		for _, m := range machinery {
			if p := packageOf(call); p == strings.TrimSuffix(m, "/") || strings.HasPrefix(p, strings.TrimSuffix(m, "/")+"/") {
				continue lines
			}
		}
		calls = append(calls, call)
	}
	return calls
}

// packageOf cuts "a/b.(*T).F(0x1)" to "a/b".
func packageOf(call string) string {
	path, _, _ := strings.Cut(call, "(")
	slash := strings.LastIndexByte(path, '/') + 1
	name, _, _ := strings.Cut(path[slash:], ".")
	return path[:slash] + name
}

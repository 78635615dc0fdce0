package main

import "strings"

// invocation is one call of a foreign program.
type invocation struct {
	global []string // kelson's own flags before the verb
	args   []string // everything behind the verb
	io     streams
}

// toolByName returns the foreign program of that name.
func toolByName(name string) (func(invocation) error, bool) {
	switch name {
	case "kubectl":
		return runKubectl, true
	case "ctr":
		return runCtr, true
	case "crictl":
		return runCrictl, true
	case "containerd":
		return runContainerd, true
	default:
		return nil, false
	}
}

// leadingFlags splits kelson's own flags from what follows them, so that
// `kelson --data-dir /x kubectl get nodes` reaches kubectl unparsed.
func leadingFlags(args []string) (global, rest []string) {
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if !strings.HasPrefix(arg, "-") {
			return args[:i], args[i:]
		}
		if takesValue(arg) {
			i++
		}
	}
	return args, nil
}

// takesValue reports whether a leading flag's value is the next argument.
func takesValue(arg string) bool {
	switch arg {
	case "--data-dir", "-d", "--config", "-c", "--log-format":
		return true
	default:
		return false
	}
}

// Command kelson-host is the multicall binary inside Kelson's payload: every
// verb of the command line, and kubectl, ctr, crictl and containerd by the name
// it is called under.
//
// Invariants: only main ends the process; a verb returns an error, and report
// turns it into a message and an exit code (0 done, 1 failed, 2 usage). No verb
// but server and node runs anything in the background.
package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/kelson-io/kelson/core/node"
)

func main() {
	os.Exit(run(os.Args, streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
}

// run executes one command line and returns the exit code.
func run(argv []string, io streams) int {
	err := dispatch(argv, io)
	if errors.Is(err, node.ErrRestart) {
		report(io.Err, err)
		err = restart(argv, err)
	}
	return report(io.Err, err)
}

// dispatch chooses the program by argv[0], or by the verb behind kelson's own
// leading flags. Foreign programs parse their arguments themselves.
func dispatch(argv []string, io streams) error {
	name := filepath.Base(argv[0])
	if tool, ok := toolByName(name); ok {
		return tool(invocation{args: argv[1:], io: io})
	}
	global, rest := leadingFlags(argv[1:])
	if len(rest) > 0 {
		if tool, ok := toolByName(rest[0]); ok {
			return tool(invocation{global: global, args: rest[1:], io: io})
		}
	}
	return runVerb(argv[1:], io)
}

// signalContext ends on SIGTERM and SIGINT; a second signal kills as usual.
func signalContext() (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

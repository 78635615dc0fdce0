package serve

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"google.golang.org/grpc"

	"github.com/kelson-io/kelson/sdk/plugin"
)

// Exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// Process is what a program has of its process.
type Process struct {
	// Name is the program's name in its help.
	Name string
	// Args are the arguments without the program's name.
	Args   []string
	Getenv func(string) string
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
}

// OS is the present process.
func OS() Process {
	return Process{
		Name: filepath.Base(os.Args[0]), Args: os.Args[1:], Getenv: os.Getenv,
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
	}
}

// Main is the one line of a plugin's main function: it serves the plugin with
// the services of its kind, or answers who runs it by hand, and returns the
// code with which the process is to end:
//
//	os.Exit(serve.Main(plugin.New(p), cni.Service(p)))
func Main(p plugin.Plugin, services ...func(grpc.ServiceRegistrar)) int {
	return Run(OS(), p, services...)
}

// Run is Main for a process given by the caller: a program with several
// plugins takes their names off Args, a test gives writers of its own.
func Run(proc Process, p plugin.Plugin, services ...func(grpc.ServiceRegistrar)) int {
	if proc.Getenv(CookieKey) != CookieValue {
		return byHand(proc, p)
	}
	if err := serve(proc, p, services); err != nil {
		fmt.Fprintf(proc.Stderr, "%v\n", err)
		return exitFailed
	}
	return exitDone
}

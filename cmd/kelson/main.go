// Command kelson is the shipped file: a launcher with a compressed payload
// behind its ELF image. It finds the data dir, extracts the payload there
// unless that has been done, sets PATH, and becomes the kelson-host inside,
// which gets the command line unchanged. It also answers to the names kubectl,
// ctr and crictl.
//
// It validates nothing but what it needs itself: kelson-host does, with better
// messages. Exit codes: 1 failed, 2 usage; kelson-host has more.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/kelson-io/kelson/core/config"
)

func main() {
	err := launch(os.Args, os.Environ())
	fmt.Fprintln(os.Stderr, "kelson:", err)
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		fmt.Fprintln(os.Stderr, "  →", h.Hint())
	}
	if _, ok := errors.AsType[*config.UsageError](err); ok {
		os.Exit(2)
	}
	os.Exit(1)
}

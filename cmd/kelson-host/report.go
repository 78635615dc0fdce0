package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/kelson-io/kelson/core/config"
)

// Exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// streams are the standard streams of one command line.
type streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// exitError carries the exit code of a program that has already said what was
// wrong, or whose message is printed as it is.
type exitError struct {
	code int
	msg  string
}

func (e exitError) Error() string { return fmt.Sprintf("exit code %d: %s", e.code, e.msg) }

// usageError marks a command line that cannot be understood.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

// report prints err as "kelson: what: why" and a hint line, and returns the
// exit code that stands for it.
func report(w io.Writer, err error) int {
	if err == nil {
		return exitDone
	}
	if done, ok := errors.AsType[exitError](err); ok {
		if done.msg != "" {
			fmt.Fprintln(w, strings.TrimSuffix(done.msg, "\n"))
		}
		return done.code
	}
	if bad, ok := errors.AsType[*config.UsageError](err); ok {
		for _, p := range bad.Problems {
			printError(w, p)
		}
		return exitUsage
	}
	printError(w, err)
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage
	}
	return exitFailed
}

func printError(w io.Writer, err error) {
	fmt.Fprintf(w, "kelson: %v\n", err)
	if hint := config.Hint(err); hint != "" {
		fmt.Fprintf(w, "hint: %s\n", hint)
	}
}

package config

import (
	"errors"
	"fmt"
	"strings"
)

// HintError is an error with a remedy for the person who reads it.
type HintError struct {
	Err    error
	Remedy string
}

// Error returns the wrapped error's text; the remedy is not part of it.
func (e *HintError) Error() string { return e.Err.Error() }

// Unwrap returns the wrapped error.
func (e *HintError) Unwrap() error { return e.Err }

// Hint returns the remedy.
func (e *HintError) Hint() string { return e.Remedy }

// Hinted attaches a remedy to err; nil stays nil.
func Hinted(err error, hint string) error {
	if err == nil {
		return nil
	}
	return &HintError{Err: err, Remedy: hint}
}

// Hint returns the remedy of the outermost error in the chain that has one.
func Hint(err error) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	return ""
}

// Problem is one thing wrong with the configuration, and where it was written.
type Problem struct {
	Source Source
	Key    string // option name, as the user wrote it where that differs
	Msg    string
	Remedy string
}

// Error names the place, the key and what is wrong.
func (p Problem) Error() string {
	where := p.Source.String()
	switch p.Source.Kind {
	case FromFile:
		if p.Key == "" {
			return where + ": " + p.Msg
		}
		return where + ": " + p.Key + ": " + p.Msg
	case FromEnv, FromFlag:
		return where + ": " + p.Msg
	default:
		return p.Key + ": " + p.Msg
	}
}

// Hint returns the remedy.
func (p Problem) Hint() string { return p.Remedy }

// UsageError is everything that is wrong with a configuration, in the order
// of the sources. Programs end with exit code 2 on it.
type UsageError struct{ Problems []Problem }

// Error lists all problems, one a line.
func (e *UsageError) Error() string {
	if len(e.Problems) == 1 {
		return e.Problems[0].Error()
	}
	lines := make([]string, 0, len(e.Problems)+1)
	lines = append(lines, fmt.Sprintf("%d problems in the configuration:", len(e.Problems)))
	for _, p := range e.Problems {
		lines = append(lines, "  "+p.Error())
	}
	return strings.Join(lines, "\n")
}

// Hint returns the first problem's remedy.
func (e *UsageError) Hint() string {
	for _, p := range e.Problems {
		if p.Remedy != "" {
			return p.Remedy
		}
	}
	return ""
}

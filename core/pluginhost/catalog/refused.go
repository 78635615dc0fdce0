package catalog

import (
	"fmt"
	"strings"
)

// Refused says why a plugin is not run or not installed.
type Refused struct {
	Plugin          string // kind(name); empty if not known yet
	Step            string // of the verification
	File            string
	Expected, Found string
	Remedy          string
	Err             error // instead of Expected and Found, or behind them
}

// Error names the file, what was expected and what was found.
func (e *Refused) Error() string {
	var parts []string
	for _, part := range []string{e.Plugin, e.Step, e.File} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	if e.Expected != "" {
		parts = append(parts, fmt.Sprintf("expected %s, found %s", e.Expected, e.Found))
	} else if e.Found != "" {
		parts = append(parts, e.Found)
	}
	if e.Err != nil {
		parts = append(parts, e.Err.Error())
	}
	return strings.Join(parts, ": ")
}

// Unwrap returns the cause.
func (e *Refused) Unwrap() error { return e.Err }

// Hint returns the remedy.
func (e *Refused) Hint() string { return e.Remedy }

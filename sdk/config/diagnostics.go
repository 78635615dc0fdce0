package config

import (
	"fmt"
	"slices"
	"strings"
)

// Severity says what a diagnostic means for the configuration.
type Severity int

const (
	// SeverityError makes the configuration unusable.
	SeverityError Severity = iota
	// SeverityWarning is worth knowing.
	SeverityWarning
)

func (s Severity) String() string {
	if s == SeverityWarning {
		return "warning"
	}
	return "error"
}

// MarshalText writes "error" or "warning".
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Diagnostic is one remark about a configuration.
type Diagnostic struct {
	// Path is where: keys and indexes joined by dots ("peers.0.address"), empty
	// for the whole.
	Path     string   `json:"path"`
	Severity Severity `json:"severity"`
	// Summary is one line that reads on from the path: "is required".
	Summary string `json:"summary"`
	Detail  string `json:"detail,omitempty"`
	// Hint is what to do about it.
	Hint string `json:"hint,omitempty"`
}

// Errorf is an error at a path.
func Errorf(path, format string, args ...any) Diagnostic {
	return Diagnostic{Path: path, Severity: SeverityError, Summary: fmt.Sprintf(format, args...)}
}

// Warnf is a warning at a path.
func Warnf(path, format string, args ...any) Diagnostic {
	return Diagnostic{Path: path, Severity: SeverityWarning, Summary: fmt.Sprintf(format, args...)}
}

// WithHint is the diagnostic with the remedy.
func (d Diagnostic) WithHint(format string, args ...any) Diagnostic {
	d.Hint = fmt.Sprintf(format, args...)
	return d
}

// WithDetail is the diagnostic with more to read.
func (d Diagnostic) WithDetail(format string, args ...any) Diagnostic {
	d.Detail = fmt.Sprintf(format, args...)
	return d
}

// String is "path: summary (hint)".
func (d Diagnostic) String() string {
	s := d.Summary
	if d.Path != "" {
		s = d.Path + ": " + s
	}
	if d.Hint != "" {
		s += " (" + d.Hint + ")"
	}
	return s
}

// Diagnostics is what there is to say about a configuration.
type Diagnostics []Diagnostic

// HasErrors tells whether the configuration is unusable.
func (ds Diagnostics) HasErrors() bool {
	return slices.ContainsFunc(ds, func(d Diagnostic) bool { return d.Severity == SeverityError })
}

// Errors are the diagnostics without the warnings.
func (ds Diagnostics) Errors() Diagnostics {
	return slices.DeleteFunc(slices.Clone(ds), func(d Diagnostic) bool { return d.Severity != SeverityError })
}

// Err is an *Invalid with the errors, or nil if there are none.
func (ds Diagnostics) Err() error {
	if !ds.HasErrors() {
		return nil
	}
	return &Invalid{Diagnostics: ds.Errors()}
}

// Invalid is the error of a configuration that cannot be used.
type Invalid struct{ Diagnostics Diagnostics }

func (e *Invalid) Error() string {
	lines := make([]string, len(e.Diagnostics))
	for i, d := range e.Diagnostics {
		lines[i] = d.String()
	}
	return strings.Join(lines, "; ")
}

package logging

import (
	"io"

	"github.com/hashicorp/go-hclog"
)

// New returns the host's logger. format is "json", or anything else for text;
// debug lowers the level from info.
func New(w io.Writer, format string, debug bool) hclog.Logger {
	level := hclog.Info
	if debug {
		level = hclog.Debug
	}
	return hclog.New(&hclog.LoggerOptions{Level: level, Output: w, JSONFormat: format == "json"})
}

// Install leads all libraries into log; see InstallKlog for verbosity.
func Install(log hclog.Logger, verbosity int) *Settling {
	InstallLogrus(log)
	InstallSlog(log)
	return InstallKlog(log, verbosity)
}

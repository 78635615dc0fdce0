package plugin

import (
	"io"
	"log/slog"
	"strings"
)

// NewLogger writes lines that the host understands, with level and fields:
// JSON with the keys of hclog. Give it os.Stderr; what else a plugin prints there
// is logged as it stands.
func NewLogger(w io.Writer, level slog.Leveler) *slog.Logger {
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: hclogKeys}))
}

func hclogKeys(groups []string, a slog.Attr) slog.Attr {
	if len(groups) > 0 {
		return a
	}
	switch a.Key {
	case slog.TimeKey:
		a.Key = "@timestamp"
	case slog.MessageKey:
		a.Key = "@message"
	case slog.LevelKey:
		a.Key, a.Value = "@level", slog.StringValue(strings.ToLower(a.Value.String()))
	}
	return a
}

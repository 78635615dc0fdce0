package logging

import (
	"context"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// InstallSlog makes log the default of log/slog and, as slog does that too, of
// the standard library's log package, whose lines come at info.
func InstallSlog(log hclog.Logger) { slog.SetDefault(slog.New(SlogHandler(log))) }

// SlogHandler returns a slog.Handler that writes to log. The keys of a group are
// joined to its name with dots.
func SlogHandler(log hclog.Logger) slog.Handler { return &slogHandler{log: log} }

type slogHandler struct {
	log   hclog.Logger
	group string // "" or "a.b."
}

var _ slog.Handler = (*slogHandler)(nil)

func (h *slogHandler) Enabled(_ context.Context, l slog.Level) bool {
	return h.log.GetLevel() <= fromSlog(l)
}

func (h *slogHandler) Handle(_ context.Context, r slog.Record) error {
	args := make([]any, 0, 2*r.NumAttrs())
	r.Attrs(func(a slog.Attr) bool {
		args = flatten(args, h.group, a)
		return true
	})
	h.log.Log(fromSlog(r.Level), r.Message, args...)
	return nil
}

func (h *slogHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	var args []any
	for _, a := range attrs {
		args = flatten(args, h.group, a)
	}
	return &slogHandler{log: h.log.With(args...), group: h.group}
}

func (h *slogHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	return &slogHandler{log: h.log, group: h.group + name + "."}
}

func flatten(args []any, prefix string, a slog.Attr) []any {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, member := range v.Group() {
			args = flatten(args, prefix, member)
		}
		return args
	}
	if a.Equal(slog.Attr{}) {
		return args
	}
	return append(args, prefix+a.Key, render(v.Any()))
}

func fromSlog(l slog.Level) hclog.Level {
	switch {
	case l >= slog.LevelError:
		return hclog.Error
	case l >= slog.LevelWarn:
		return hclog.Warn
	case l >= slog.LevelInfo:
		return hclog.Info
	case l >= slog.LevelDebug:
		return hclog.Debug
	default:
		return hclog.Trace
	}
}

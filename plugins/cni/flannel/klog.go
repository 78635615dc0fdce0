package flannel

import (
	"fmt"
	"log/slog"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
)

// adaptKlog leads the library's log into log, and takes its exit: flannel calls
// klog.Fatalf from a goroutine where it cannot watch the links. fatal is told,
// and that goroutine goes no further; the process lives.
func adaptKlog(log *slog.Logger, fatal func()) {
	klog.SetLogger(logr.New(klogSink{log: log}))
	klog.OsExit = func(int) {
		fatal()
		select {}
	}
}

// klogSink is klog's logr backend. What flannel says at info level is detail.
type klogSink struct{ log *slog.Logger }

var _ logr.LogSink = klogSink{}

// Init implements logr.LogSink.
func (klogSink) Init(logr.RuntimeInfo) {}

// Enabled implements logr.LogSink.
func (s klogSink) Enabled(level int) bool { return level == 0 }

// Info implements logr.LogSink.
func (s klogSink) Info(_ int, msg string, kv ...any) { s.log.Debug(msg, kv...) }

// Error implements logr.LogSink.
func (s klogSink) Error(err error, msg string, kv ...any) {
	if err != nil {
		kv = append(kv, "err", fmt.Sprint(err))
	}
	s.log.Error(msg, kv...)
}

// WithValues implements logr.LogSink.
func (s klogSink) WithValues(kv ...any) logr.LogSink { return klogSink{log: s.log.With(kv...)} }

// WithName implements logr.LogSink.
func (s klogSink) WithName(name string) logr.LogSink {
	return klogSink{log: s.log.With("logger", name)}
}

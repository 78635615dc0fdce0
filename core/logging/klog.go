package logging

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"

	"github.com/go-logr/logr"
	"github.com/hashicorp/go-hclog"
	"k8s.io/klog/v2"
)

// InstallKlog leads klog, and what asks it for a contextual logger, into log.
// Errors keep their level. verbosity is klog's -v: at 0 the components' info
// lines and warnings, which are noise to a user, become debug lines; from 1 on
// they keep their level, those of V(1) to V(verbosity) included.
//
// While the returned Settling is on, at verbosity 0, errors become debug lines
// too.
func InstallKlog(log hclog.Logger, verbosity int) *Settling {
	s := &klogSink{log: log, info: hclog.Debug, warn: hclog.Debug, verbosity: verbosity, settling: &Settling{}}
	if verbosity > 0 {
		s.info, s.warn, s.settling = hclog.Info, hclog.Warn, nil
	}
	var level klog.Level // a handle on klog's own, global level
	_ = level.Set(strconv.Itoa(verbosity))
	// The buffer of a printf-style call is the only place where a warning can be
	// told from an info line: logr knows no warnings.
	klog.SetLoggerWithOptions(logr.New(s), klog.ContextualLogger(true), klog.WriteKlogBuffer(s.writeLine))
	return s.settling
}

// Settling holds back the errors that components of a cluster report while the
// others are not up yet: they try again, and the boot keeps the reasons that
// matter. A nil one is never on.
type Settling struct{ on atomic.Bool }

// Set turns it on or off.
func (s *Settling) Set(on bool) {
	if s != nil {
		s.on.Store(on)
	}
}

// level is what an error becomes.
func (s *Settling) level() hclog.Level {
	if s != nil && s.on.Load() {
		return hclog.Debug
	}
	return hclog.Error
}

// klogSink is klog's logr backend.
type klogSink struct {
	log       hclog.Logger
	info      hclog.Level // what an info line becomes
	warn      hclog.Level // what a warning becomes
	verbosity int
	settling  *Settling
}

var _ logr.LogSink = (*klogSink)(nil)

func (s *klogSink) Init(logr.RuntimeInfo) {}

func (s *klogSink) Enabled(v int) bool { return v <= s.verbosity && s.log.GetLevel() <= s.info }

func (s *klogSink) Info(_ int, msg string, kv ...any) { s.log.Log(s.info, msg, plain(kv)...) }

func (s *klogSink) Error(err error, msg string, kv ...any) {
	args := plain(kv)
	if err != nil {
		args = append(args, "err", err.Error())
	}
	s.log.Log(s.settling.level(), msg, args...)
}

func (s *klogSink) WithValues(kv ...any) logr.LogSink {
	return &klogSink{log: s.log.With(plain(kv)...), info: s.info, warn: s.warn, verbosity: s.verbosity, settling: s.settling}
}

func (s *klogSink) WithName(name string) logr.LogSink {
	return &klogSink{log: s.log.Named(name), info: s.info, warn: s.warn, verbosity: s.verbosity, settling: s.settling}
}

// writeLine takes a formatted line, `Lmmdd hh:mm:ss.uuuuuu threadid file:line] msg`.
// klog holds its lock meanwhile, and reuses line afterwards.
func (s *klogSink) writeLine(line []byte) {
	level, msg := s.parseLine(line)
	if s.log.GetLevel() <= level {
		s.log.Log(level, msg)
	}
}

func (s *klogSink) parseLine(line []byte) (hclog.Level, string) {
	line = bytes.TrimSpace(line)
	header, msg, ok := bytes.Cut(line, []byte("] "))
	if !ok || len(header) < 5 || header[1] < '0' || header[1] > '9' {
		return s.info, string(line)
	}
	switch header[0] {
	case 'W':
		return s.warn, string(msg)
	case 'E':
		return s.settling.level(), string(msg)
	case 'F':
		return hclog.Error, string(msg)
	case 'I':
		return s.info, string(msg)
	default:
		return s.info, string(line)
	}
}

// plain renders values that know how to show themselves, as klog's own output
// does, and makes the list even.
func plain(kv []any) []any {
	out := slices.Clone(kv)
	if len(out)%2 == 1 {
		out = append(out, "(missing)")
	}
	for i := range out {
		if i%2 == 0 {
			out[i] = fmt.Sprint(out[i])
			continue
		}
		out[i] = render(out[i])
	}
	return out
}

// render survives the panic of a method on a nil pointer: logging must not fail.
func render(v any) (out any) {
	defer func() {
		if p := recover(); p != nil {
			out = fmt.Sprintf("<panic: %v>", p)
		}
	}()
	switch v := v.(type) {
	case fmt.Stringer:
		return v.String()
	case error:
		return v.Error()
	case logr.Marshaler:
		return v.MarshalLog()
	default:
		return v
	}
}

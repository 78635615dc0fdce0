package logging

import (
	"io"
	"maps"
	"slices"

	"github.com/hashicorp/go-hclog"
	"github.com/sirupsen/logrus"
)

// InstallLogrus leads logrus' standard logger, which kine and containerd's
// client use, into log.
func InstallLogrus(log hclog.Logger) {
	std := logrus.StandardLogger()
	std.ReplaceHooks(logrus.LevelHooks{})
	std.AddHook(logrusHook{log})
	std.SetFormatter(nothing{})
	std.SetOutput(io.Discard)
	switch {
	case log.IsTrace():
		std.SetLevel(logrus.TraceLevel)
	case log.IsDebug():
		std.SetLevel(logrus.DebugLevel)
	default:
		std.SetLevel(logrus.InfoLevel)
	}
}

// logrusHook writes each entry to the logger; logrus calls it without a lock.
type logrusHook struct{ log hclog.Logger }

var _ logrus.Hook = logrusHook{}

func (h logrusHook) Levels() []logrus.Level { return logrus.AllLevels }

func (h logrusHook) Fire(e *logrus.Entry) error {
	args := make([]any, 0, 2*len(e.Data))
	for _, key := range slices.Sorted(maps.Keys(e.Data)) {
		args = append(args, key, render(e.Data[key]))
	}
	h.log.Log(fromLogrus(e.Level), e.Message, args...)
	return nil
}

func fromLogrus(l logrus.Level) hclog.Level {
	switch l {
	case logrus.PanicLevel, logrus.FatalLevel, logrus.ErrorLevel:
		return hclog.Error
	case logrus.WarnLevel:
		return hclog.Warn
	case logrus.InfoLevel:
		return hclog.Info
	case logrus.DebugLevel:
		return hclog.Debug
	default:
		return hclog.Trace
	}
}

// nothing formats to nothing: the hook has written the entry already.
type nothing struct{}

func (nothing) Format(*logrus.Entry) ([]byte, error) { return nil, nil }

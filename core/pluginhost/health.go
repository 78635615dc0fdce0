package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	pluginv1 "github.com/kelson-io/kelson/sdk/proto/plugin/v1"
)

// healthPace is the least time between two reports that are looked at: a plugin
// that sends more is held back by the stream's flow control.
const healthPace = 20 * time.Millisecond

const healthLost = "HealthLost"

// condition is a plugin's last health report, which counts once it is up.
type condition struct {
	mu    sync.Mutex
	up    bool
	known bool
	ready bool // has been, since it came up
	last  *pluginv1.HealthResponse
}

// watchHealth follows the health stream until it ends, and returns why.
func (s *Supervised) watchHealth(ctx context.Context, client pluginv1.PluginClient, c *condition) error {
	silence := s.host.timing.silence
	silent := &fault{reason: "Hung", err: fmt.Errorf("%s: health: silent for %v", s, silence)}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(silence, func() { cancel(silent) })
	defer timer.Stop()
	stream, err := client.Health(ctx, &pluginv1.HealthRequest{})
	for err == nil {
		var report *pluginv1.HealthResponse
		if report, err = stream.Recv(); err != nil {
			break
		}
		timer.Reset(silence)
		if report.GetState() == pluginv1.HealthResponse_STATE_FATAL {
			return faultf("Fatal", "%s: health: %s", s, described(report))
		}
		c.mu.Lock()
		c.last, c.known = report, true
		s.judge(c)
		c.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(healthPace):
		}
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("%s: health: it ended the stream", s)
	}
	return &fault{reason: healthLost, err: err}
}

// raise says that the plugin was brought up: from now on its health counts.
func (s *Supervised) raise(c *condition) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.up = true
	s.judge(c)
}

// judge makes a phase of the last report. The caller holds c.mu.
func (s *Supervised) judge(c *condition) {
	if !c.up || !c.known {
		return
	}
	was, _ := s.peek()
	switch c.last.GetState() {
	case pluginv1.HealthResponse_STATE_READY:
		c.ready = true
		s.phase(Ready, "", "")
	case pluginv1.HealthResponse_STATE_DEGRADED:
		c.ready = true
		s.phase(Degraded, word(c.last), oneLine(c.last.GetMessage()))
	default:
		phase := Starting
		if c.ready {
			phase = Unready
		}
		s.phase(phase, word(c.last), oneLine(c.last.GetMessage()))
	}
	now, _ := s.peek()
	if now.Phase != was.Phase || now.Reason != was.Reason {
		s.log.Info("health", "phase", now.Phase, "reason", now.Reason, "message", now.Message)
	}
}

// word is a report's reason, if it is one word.
func word(r *pluginv1.HealthResponse) string {
	const limit = 64
	text := r.GetReason()
	for i, c := range text {
		if i >= limit || !(c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9') {
			return "Malformed"
		}
	}
	return text
}

func described(r *pluginv1.HealthResponse) string {
	text := oneLine(r.GetMessage())
	if reason := word(r); reason != "" {
		text = reason + ": " + text
	}
	return text
}

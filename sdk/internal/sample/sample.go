// Package sample is a small plugin with every part of the base contract, for
// the tests of the SDK. It can be told to break the contract in one way, so
// that the tests of the conformance kit see it fail.
package sample

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/kelson-io/kelson/sdk/plugin"
)

// Config is the sample's configuration.
type Config struct {
	Greeting string            `kelson:"greeting,required,min=1,max=40" doc:"what is said"`
	Style    string            `kelson:"style,default=plain,enum=plain|loud" doc:"how it is said"`
	Times    uint8             `kelson:"times,default=1,min=1,max=9"`
	Pause    time.Duration     `kelson:"pause,default=1s,max=1m"`
	Labels   map[string]string `kelson:"labels"`
	Password plugin.Secret     `kelson:"password"`
	Crash    bool              `kelson:"crash" doc:"panic when configured"`
}

// Sample is the plugin. The zero value with a Stderr is ready for use.
type Sample struct {
	// Fault is the way in which the contract is broken, "" for none.
	Fault Fault
	// Stderr is where the plugin logs.
	Stderr io.Writer

	health plugin.Health
	mu     sync.Mutex
	now    Config
	calls  int
	drains int
}

// Info describes the plugin.
func (*Sample) Info() plugin.Info {
	return plugin.Info{
		Kind: plugin.KindAddon, Name: "sample", Version: "1.2.3", Summary: "Says hello.",
		Protocols: []uint32{1}, Capabilities: []string{"greet"},
	}
}

// Validate judges what the tags cannot.
func (*Sample) Validate(_ context.Context, c Config) plugin.Diagnostics {
	var found plugin.Diagnostics
	if c.Style == "loud" && c.Times > 3 {
		found = append(found, plugin.Errorf("times", "must be at most 3 when loud").WithHint("lower it, or choose style plain"))
	}
	if c.Pause == 0 {
		found = append(found, plugin.Warnf("pause", "is nothing"))
	}
	return found
}

// Configure applies a configuration; another pause needs a restart.
func (s *Sample) Configure(ctx context.Context, c Config, h plugin.Host) error {
	if c.Crash {
		words := strings.Fields(c.Greeting)
		fmt.Fprintln(s.Stderr, words[len(words)]) // panics
	}
	if c.Greeting == "unavailable" {
		return plugin.Unavailable(errors.New("nobody is there to greet"), "NOBODY")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	if s.Fault == FaultHang {
		select {
		case <-ctx.Done():
			<-context.WithoutCancel(ctx).Done()
		case <-time.After(time.Second):
		}
	}
	if s.Fault == FaultLeak {
		fmt.Fprintln(s.Stderr, "password is", c.Password.Reveal())
	}
	fmt.Fprintf(s.Stderr, "configured on %s: %+v\n", h.NodeName, c)
	restart := s.calls > 1 && c.Pause != s.now.Pause
	if restart {
		return plugin.ErrRestart
	}
	s.now = c
	s.health.Ready()
	return nil
}

// Health is the reporter.
func (s *Sample) Health() *plugin.Health { return &s.health }

// Metrics is one metric.
func (s *Sample) Metrics(context.Context) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	label := s.now.Greeting
	if s.Fault == FaultLeakMetric {
		label = s.now.Password.Reveal()
	}
	return fmt.Appendf(nil, "# TYPE sample_configured_total counter\nsample_configured_total{greeting=%q} %d\n", label, s.calls), nil
}

// Drain counts.
func (s *Sample) Drain(ctx context.Context) error {
	if s.Fault == FaultDrain {
		<-context.WithoutCancel(ctx).Done()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drains++
	return nil
}

// Calls tells how often Configure and Drain reached the plugin.
func (s *Sample) Calls() (configured, drained int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls, s.drains
}

var (
	_ plugin.Typed[Config] = (*Sample)(nil)
	_ plugin.Metrics       = (*Sample)(nil)
	_ plugin.Drainer       = (*Sample)(nil)
)

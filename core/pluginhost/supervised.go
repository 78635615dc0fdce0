package pluginhost

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	"github.com/kelson-io/kelson/core/boot"
	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/pluginhost/program"
	"github.com/kelson-io/kelson/core/pluginhost/runner"
)

// Supervised is one plugin that is kept running. It is a boot step: Start sets it
// going in the background and never fails for the plugin's sake, Ready waits for
// it, Stop ends it, or lets go of it when its lifetime is the node's.
type Supervised struct {
	host *Host
	spec Spec
	log  hclog.Logger

	life    sync.Once // the supervision is started or can no longer be
	started bool
	stop    chan struct{} // closed by Stop and End
	halt    sync.Once
	done    chan struct{} // the supervision has ended
	demand  chan struct{} // somebody wants an on-demand plugin
	anew    chan struct{} // Restart was called
	usage   usage

	mu      sync.Mutex
	state   State
	changed chan struct{}
	output  []string // of the last process that ended
	process *runner.Process
	conn    *grpc.ClientConn

	readyFrom time.Time     // the present process is ready since; zero if it is not
	readyFor  time.Duration // it was ready for, the last time

	ending bool            // End: a process of node lifetime is not spared
	grace  context.Context //nolint:containedctx // the caller's patience, for the goroutine that stops
}

var _ boot.Step = (*Supervised)(nil)

func newSupervised(h *Host, spec Spec) *Supervised {
	s := &Supervised{
		host: h, spec: spec,
		log:  h.deps.Log.Named("plugin").With("kind", spec.Kind, "plugin", spec.Name),
		stop: make(chan struct{}), done: make(chan struct{}), demand: make(chan struct{}, 1), anew: make(chan struct{}, 1),
		changed: make(chan struct{}), grace: context.Background(),
	}
	s.state = State{Kind: spec.Kind, Name: spec.Name, Phase: Absent, Since: time.Now()}
	return s
}

// Name is plugin-<kind>-<name>.
func (s *Supervised) Name() string { return "plugin-" + s.spec.Kind + "-" + s.spec.Name }

func (s *Supervised) String() string {
	return program.Program{Kind: s.spec.Kind, Name: s.spec.Name}.String()
}

// Start sets the supervision going. A plugin is supervised once at a time.
func (s *Supervised) Start(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("start %s: %w", s, err)
	}
	fresh := false
	s.life.Do(func() { fresh = true })
	if !fresh {
		return fmt.Errorf("start %s: already started or stopped", s)
	}
	if err := s.host.claim(s); err != nil {
		return fmt.Errorf("start %s: %w", s, err)
	}
	go s.run() //nolint:contextcheck // ctx bounds the start only
	return nil
}

// Ready waits until the plugin is ready, degraded, or on demand and idle. When
// ctx ends first, the error tells why it is not.
func (s *Supervised) Ready(ctx context.Context) error {
	return s.await(ctx, func(st State) bool { return st.usable() || st.Phase == Verified && st.Reason == idleReason })
}

// Conn waits until the plugin is ready or degraded and returns a connection to
// it, which works until the present process ends: ask again for the next use. It
// starts an on-demand plugin. Calls without a deadline get one; their errors
// carry plugin and operation.
func (s *Supervised) Conn(ctx context.Context) (grpc.ClientConnInterface, error) {
	var conn grpc.ClientConnInterface
	err := s.await(ctx, func(st State) bool {
		s.usage.touch()
		s.mu.Lock()
		now := s.conn
		s.mu.Unlock()
		if st.usable() && now != nil {
			conn = now
			return true
		}
		select {
		case s.demand <- struct{}{}:
		default:
		}
		return false
	})
	return conn, err
}

func (s *Supervised) await(ctx context.Context, ok func(State) bool) error {
	for {
		state, changed := s.peek()
		switch {
		case ok(state):
			return nil
		case state.Phase == Stopped:
			return fmt.Errorf("%s: it is stopped", s)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			// Closed and changed at once: the newest reason is the better one.
			state, _ = s.peek()
			err := fmt.Errorf("%s: not ready: %s", s, state.why())
			if state.Hint != "" {
				err = config.Hinted(err, state.Hint)
			}
			return errors.Join(err, context.Cause(ctx))
		}
	}
}

// Restart drains and ends the present process, whatever its lifetime, and starts
// the program that is pinned now; a plugin that waits for its next start does not
// wait any longer. It returns at once.
func (s *Supervised) Restart() {
	select {
	case s.anew <- struct{}{}:
	default: // under way
	}
}

// Stop ends the supervision and the plugin, but lets a process of node lifetime
// run on for the next host. ctx is the grace period.
func (s *Supervised) Stop(ctx context.Context) error { return s.halted(ctx, false) }

// End is Stop that ends a process of node lifetime too.
func (s *Supervised) End(ctx context.Context) error { return s.halted(ctx, true) }

func (s *Supervised) halted(ctx context.Context, ending bool) error {
	s.life.Do(func() {})
	s.mu.Lock()
	started := s.started
	s.ending = s.ending || ending
	s.mu.Unlock()
	s.halt.Do(func() {
		s.mu.Lock()
		s.grace = ctx
		s.mu.Unlock()
		close(s.stop)
	})
	if !started {
		s.phase(Stopped, "", "")
		s.host.forget(s)
		return nil
	}
	// The process's own end is bounded; so is this.
	<-s.done
	s.host.forget(s)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil {
		return fmt.Errorf("stop %s: %s", s, s.state.Message)
	}
	return nil
}

// patience is how long Stop may take.
func (s *Supervised) patience() context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.grace
}

// secrets are the values to be blotted out of what the plugin prints.
func (s *Supervised) secrets() []string {
	var out []string
	for _, raw := range s.spec.Secrets {
		var text string
		if json.Unmarshal(raw, &text) == nil {
			out = append(out, text)
		} else {
			out = append(out, string(raw))
		}
	}
	return out
}

// usage knows when an on-demand plugin was last wanted.
type usage struct {
	mu     sync.Mutex
	active int
	last   time.Time
}

func (u *usage) touch() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.last = time.Now()
}

func (u *usage) begin() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.active++
}

func (u *usage) end() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.active--
	u.last = time.Now()
}

// idle returns for how long nobody wanted the plugin.
func (u *usage) idle() time.Duration {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.active > 0 {
		return 0
	}
	return time.Since(u.last)
}

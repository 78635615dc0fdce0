package pluginhost

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/pluginhost/program"
)

// failed counts a failure and returns the program to go back to, if it is time.
func (s *Supervised) failed(f *failures, err error) *program.Program {
	now, _ := s.peek()
	well := s.wellFor()
	s.log.Error("failed", "reason", reasonOf(err), "err", err, "ready_for", well.Round(time.Millisecond), "output", s.lastWords())
	s.blame(err)
	blameless := false
	if fl, ok := errors.AsType[*fault](err); ok {
		blameless = fl.blameless
	}
	if !f.count(time.Now(), well, blameless) {
		return nil
	}
	var back program.Program
	rollback := guard(func() (no error) {
		back, no = s.host.deps.Source.Rollback(s.spec.Kind, s.spec.Name, reasonOf(err))
		return no
	})
	if rollback != nil {
		f.looping = true
		s.log.Error("crash loop, tried on slowly", "err", rollback)
		return nil
	}
	s.log.Warn("rolled back", "from", now.Version, "to", back.Version)
	f.reset()
	s.change(func(st *State) {
		st.Phase, st.RolledBackFrom = RolledBack, now.Version
		st.Version, st.Lifetime, st.Generation = back.Version, back.Lifetime, back.Generation
	})
	return &back
}

// blame shows why the plugin failed.
func (s *Supervised) blame(err error) {
	s.change(func(st *State) {
		if st.Phase != Absent {
			st.Phase = Failed
		}
		st.Reason, st.Message, st.Hint = reasonOf(err), oneLine(err.Error()), config.Hint(err)
	})
}

// pause waits for the next start; false means that Stop came.
func (s *Supervised) pause(ctx context.Context, f *failures, rolledBack bool) bool {
	if rolledBack {
		return ctx.Err() == nil
	}
	wait := f.pause()
	s.change(func(st *State) {
		switch {
		case f.looping:
			st.Phase = CrashLoop
		case st.Phase != Absent:
			st.Phase = Backoff
		}
	})
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	case <-s.anew:
		return true
	}
}

func reasonOf(err error) string {
	if f, ok := errors.AsType[*fault](err); ok {
		return f.reason
	}
	return "Failed"
}

// failures counts ends that nobody asked for.
type failures struct {
	timing  timing
	streak  int         // since it last ran well
	recent  []time.Time // within the window
	looping bool
}

// count notes a failure after the plugin was ready for a while, and says whether
// it makes a crash loop.
func (f *failures) count(now time.Time, ready time.Duration, blameless bool) bool {
	if ready >= f.timing.stable {
		f.reset()
	}
	f.streak++
	if blameless {
		return false
	}
	f.recent = append(f.recent, now)
	for len(f.recent) > 0 && now.Sub(f.recent[0]) > f.timing.crashWindow {
		f.recent = f.recent[1:]
	}
	return len(f.recent) >= f.timing.crashes
}

func (f *failures) reset() { f.streak, f.recent, f.looping = 0, nil, false }

// pause doubles from failure to failure, give or take a fifth.
func (f *failures) pause() time.Duration {
	wait := f.timing.backoffMax
	if shift := max(f.streak-1, 0); shift < 30 {
		wait = min(f.timing.backoffMin<<shift, f.timing.backoffMax)
	}
	return time.Duration(float64(wait) * (0.8 + 0.4*rand.Float64()))
}

package node

import (
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kelson-io/kelson/core/boot"
	"github.com/kelson-io/kelson/core/boot/timeline"
	"github.com/kelson-io/kelson/core/datadir"
	"github.com/kelson-io/kelson/core/pluginhost"
	"github.com/kelson-io/kelson/core/status"
)

// TimesFile is the name, under server/, of the timings of the last boot.
const TimesFile = "boot.json"

// watch turns what happens to the steps into the log, the status file and the
// kept timings. Its methods may be called from any goroutine.
type watch struct {
	layout datadir.Layout
	log    hclog.Logger
	times  *timeline.Recorder

	mu       sync.Mutex
	status   status.Status
	launched map[string]bool // steps that only their own note makes ready
}

func newWatch(layout datadir.Layout, log hclog.Logger, times *timeline.Recorder) *watch {
	return &watch{layout: layout, log: log, times: times, launched: map[string]bool{}}
}

// begin sets what is known before the boot.
func (w *watch) begin(initial status.Status) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.status = initial
	w.write()
}

func (w *watch) startedAt() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.status.StartedAt
}

// event is boot.Options.OnEvent.
func (w *watch) event(e boot.Event) {
	w.times.Observe(e)
	w.mu.Lock()
	defer w.mu.Unlock()
	step := w.step(e.Step)
	switch {
	case e.Err != nil && e.Action != boot.ActionStop:
		step.State, step.Reason = status.Failed, e.Err.Error()
	case e.Action == boot.ActionStart:
		if step.State == status.Pending { // a launched one may be ready by now
			step.State, step.Took = status.Starting, e.Took().Seconds()
		}
	case e.Action == boot.ActionReady && step.State == status.Starting:
		if w.launched[e.Step] {
			step.State = status.Launched
			break
		}
		step.State = status.Ready
		step.Took += e.Took().Seconds()
		w.log.Info("step ready", "phase", e.Phase, "step", e.Step, "took", rounded(step.Took))
	case e.Action == boot.ActionStop:
		step.State = status.Stopped
		w.status.State = status.Stopping
		w.log.Info("step stopped", "phase", e.Phase, "step", e.Step, "took", rounded(e.Took().Seconds()))
	}
	w.write()
}

// note takes the word of a launched or tolerated step: it became ready, or why
// it is not.
func (w *watch) note(name string, took time.Duration, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	step := w.step(name)
	if err != nil {
		step.State, step.Reason = status.Failed, err.Error()
		w.log.Warn("the server is degraded", "step", name, "err", err)
	} else {
		step.State, step.Reason, step.Took = status.Ready, "", took.Seconds()
		ended := time.Now()
		w.times.Span("node", name, ended.Add(-took), ended)
		w.log.Info("step ready", "step", name, "took", rounded(took.Seconds()))
	}
	w.write()
}

// plugin takes the state of a plugin.
func (w *watch) plugin(s pluginhost.State) {
	now := status.Plugin{
		Kind: s.Kind, Name: s.Name, Version: s.Version, Phase: string(s.Phase), Reason: s.Reason, Message: s.Message,
		PID: s.PID, Restarts: s.Restarts, Since: s.Since,
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.IndexFunc(w.status.Plugins, func(p status.Plugin) bool { return p.Kind == s.Kind && p.Name == s.Name })
	switch {
	case i < 0:
		w.status.Plugins = append(w.status.Plugins, now)
	case w.status.Plugins[i] == now:
		return
	default:
		w.status.Plugins[i] = now
	}
	w.write()
}

// ready is boot.Options.OnReady.
func (w *watch) ready(snapshotter string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.status.State, w.status.Snapshotter = status.Ready, snapshotter
	w.write()
	w.times.Ready(time.Now())
	w.keepTimes()
}

// ended records why the server is gone.
func (w *watch) ended(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.status.State = status.Stopped
	if err != nil {
		w.status.State, w.status.Reason = status.Failed, err.Error()
		w.times.Fail(err)
		w.keepTimes()
	}
	w.write()
}

// keepTimes writes what `kelson boot` shows.
func (w *watch) keepTimes() {
	if err := w.times.Boot(w.status.Version).Write(w.layout.Server(TimesFile)); err != nil {
		w.log.Warn("keep boot timings", "err", err)
	}
}

// step finds a step by its name, which is unique in a boot list. The mutex is
// held, as for write.
func (w *watch) step(name string) *status.Step {
	for i := range w.status.Phases {
		for j := range w.status.Phases[i].Steps {
			if s := &w.status.Phases[i].Steps[j]; s.Name == name {
				return s
			}
		}
	}
	return &status.Step{}
}

// write replaces the status file; the run dir is in memory, so it is cheap.
func (w *watch) write() {
	data, err := w.status.Encode()
	if err == nil {
		err = datadir.WriteFile(w.layout.RunPath(status.FileName), data, 0o600)
	}
	if err != nil {
		w.log.Warn("write status", "err", err)
	}
}

// phasesOf is the boot list as the status file shows it.
func phasesOf(seq boot.Sequence) []status.Phase {
	phases := make([]status.Phase, 0, len(seq))
	for _, p := range seq {
		phase := status.Phase{Name: p.Name}
		for _, s := range p.Steps {
			phase.Steps = append(phase.Steps, status.Step{Name: s.Name(), State: status.Pending})
		}
		phases = append(phases, phase)
	}
	return phases
}

func rounded(seconds float64) string {
	return time.Duration(seconds * float64(time.Second)).Round(time.Millisecond).String()
}

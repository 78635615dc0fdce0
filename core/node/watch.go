package node

import (
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kelson-io/kelson/core/boot"
	"github.com/kelson-io/kelson/core/boot/timeline"
	"github.com/kelson-io/kelson/core/datadir"
	"github.com/kelson-io/kelson/core/status"
)

// TimesFile is the name, under server/, of the timings of the last boot.
const TimesFile = "boot.json"

// watch turns boot events into the log, the status file and the kept timings.
// The engine calls it serially.
type watch struct {
	layout datadir.Layout
	log    hclog.Logger
	status status.Status
	times  *timeline.Recorder
}

func newWatch(layout datadir.Layout, log hclog.Logger, initial status.Status, times *timeline.Recorder) *watch {
	w := &watch{layout: layout, log: log, status: initial, times: times}
	w.write()
	return w
}

// event is boot.Options.OnEvent.
func (w *watch) event(e boot.Event) {
	w.times.Observe(e)
	step := w.step(e.Phase, e.Step)
	switch {
	case e.Err != nil && e.Action != boot.ActionStop:
		step.State, step.Reason = status.Failed, e.Err.Error()
	case e.Action == boot.ActionStart:
		step.State, step.Took = status.Starting, e.Took().Seconds()
	case e.Action == boot.ActionReady:
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

// ready is boot.Options.OnReady.
func (w *watch) ready() {
	w.status.State = status.Ready
	w.write()
	w.times.Ready(time.Now())
	w.keepTimes()
}

// ended records why the server is gone.
func (w *watch) ended(err error) {
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

func (w *watch) step(phase, name string) *status.Step {
	for i := range w.status.Phases {
		if w.status.Phases[i].Name != phase {
			continue
		}
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
	return (time.Duration(seconds * float64(time.Second))).Round(time.Millisecond).String()
}

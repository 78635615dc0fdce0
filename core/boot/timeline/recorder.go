package timeline

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/kelson-io/kelson/core/boot"
)

// What the launcher tells the host about the time before main.
const (
	EnvLaunchStarted = "KELSON_LAUNCH_STARTED" // <unix nanoseconds>
	EnvExtract       = "KELSON_EXTRACT"        // <ns began>:<ns ended>; unset if nothing was extracted
)

// sameTime is how far apart goroutines that were started together may begin.
const sameTime = time.Millisecond

// LaunchEnv returns the launcher's side of Recorder.Launch; a zero extractEnded
// means that nothing was extracted.
func LaunchEnv(started, extractBegan, extractEnded time.Time) []string {
	env := []string{fmt.Sprintf("%s=%d", EnvLaunchStarted, started.UnixNano())}
	if !extractEnded.IsZero() {
		env = append(env, fmt.Sprintf("%s=%d:%d", EnvExtract, extractBegan.UnixNano(), extractEnded.UnixNano()))
	}
	return env
}

// Recorder collects one boot. The zero value is ready to use.
type Recorder struct {
	mu      sync.Mutex
	entries []Entry
	ready   time.Time
	failure string
}

// Observe takes an event of the boot engine (boot.Options.OnEvent); those of
// stopping are left out.
func (r *Recorder) Observe(e boot.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.entries, func(have Entry) bool { return have.Phase == e.Phase && have.Step == e.Step })
	switch {
	case e.Action == boot.ActionStop, !r.ready.IsZero():
		return
	case i < 0:
		r.entries = append(r.entries, Entry{Phase: e.Phase, Step: e.Step, Began: e.Began})
		i = len(r.entries) - 1
	}
	r.entries[i].Ended = e.Ended
	if e.Err != nil {
		r.entries[i].Error = e.Err.Error()
	}
}

// Span adds what the engine does not know: work before it, or part of a step.
func (r *Recorder) Span(phase, step string, began, ended time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.entries = append(r.entries, Entry{Phase: phase, Step: step, Began: began, Ended: ended})
}

// Launch adds the phase "launch" from what the launcher left in the environment:
// its preparations, the extraction, and the exec of the host up to its main,
// which ran at main. Values that make no sense are an error and add nothing;
// unset ones are none.
func (r *Recorder) Launch(getenv func(string) string, main time.Time) error {
	launched, extract := getenv(EnvLaunchStarted), getenv(EnvExtract)
	if launched == "" {
		return nil
	}
	times, err := parseTimes(launched, extract)
	if err != nil {
		return err
	}
	if times = append(times, main); !slices.IsSortedFunc(times, time.Time.Compare) {
		return fmt.Errorf("read launch times: %s=%s and %s=%s are not in order", EnvLaunchStarted, launched, EnvExtract, extract)
	}
	steps := []string{"exec"}
	if extract != "" {
		steps = []string{"prepare", "extract", "exec"}
	}
	for i, step := range steps {
		r.Span("launch", step, times[i], times[i+1])
	}
	return nil
}

func parseTimes(launched, extract string) ([]time.Time, error) {
	fields := []string{launched}
	if extract != "" {
		began, ended, ok := strings.Cut(extract, ":")
		if !ok {
			return nil, fmt.Errorf("read %s: %q has no colon", EnvExtract, extract)
		}
		fields = append(fields, began, ended)
	}
	var times []time.Time
	for _, f := range fields {
		ns, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("read launch times: %w", errors.Unwrap(err))
		}
		times = append(times, time.Unix(0, ns))
	}
	return times, nil
}

// Ready notes when the boot was complete; later events are not part of it.
func (r *Recorder) Ready(at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ready = at
}

// Fail notes why the boot did not complete; it has no effect after Ready.
func (r *Recorder) Fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ready.IsZero() && err != nil {
		r.failure = err.Error()
	}
}

// Boot returns what is known by now, in order and with the critical path marked.
func (r *Recorder) Boot(version string) Boot {
	r.mu.Lock()
	b := Boot{Version: version, Ready: !r.ready.IsZero(), Ended: r.ready, Error: r.failure, Entries: slices.Clone(r.entries)}
	r.mu.Unlock()
	phaseBegan := map[string]time.Time{}
	for _, e := range b.Entries {
		if t, known := phaseBegan[e.Phase]; !known || e.Began.Before(t) {
			phaseBegan[e.Phase] = e.Began
		}
		if !b.Ready && e.Ended.After(b.Ended) {
			b.Ended = e.Ended
		}
	}
	slices.SortStableFunc(b.Entries, func(x, y Entry) int {
		if x.Phase != y.Phase {
			return cmp.Or(phaseBegan[x.Phase].Compare(phaseBegan[y.Phase]), cmp.Compare(x.Phase, y.Phase))
		}
		return cmp.Or(x.Began.Compare(y.Began), x.Ended.Compare(y.Ended))
	})
	if len(b.Entries) > 0 {
		b.Began = b.Entries[0].Began
	}
	for i := range b.Entries {
		e := &b.Entries[i]
		e.StartMS, e.TookMS = e.Began.Sub(b.Began).Milliseconds(), e.Took().Milliseconds()
	}
	for phase, began := range phaseBegan {
		markCritical(b.Entries, phase, began)
	}
	return b
}

// markCritical walks back from the entry of the phase that ended last to the
// one that ended last before that one began, and so on until one that began with
// the phase. The engine's own steps all do, so they never wait for each other.
func markCritical(entries []Entry, phase string, phaseBegan time.Time) {
	var until time.Time // zero: no bound yet
	for until.IsZero() || until.Sub(phaseBegan) > sameTime {
		last := -1
		for i, e := range entries {
			if e.Phase != phase || e.Critical || !until.IsZero() && e.Ended.After(until) {
				continue
			}
			if last < 0 || e.Ended.After(entries[last].Ended) {
				last = i
			}
		}
		if last < 0 {
			return
		}
		entries[last].Critical = true
		until = entries[last].Began
	}
}

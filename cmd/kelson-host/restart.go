package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/kelson-io/kelson/core/boot/timeline"
	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/node"
)

// A host whose components end fatally again and again waits longer and longer
// before it starts anew, and gives up when that does not help.
const (
	restartsEnv   = "KELSON_RESTARTS" // unix seconds of the recent restarts, by comma
	restartWindow = 10 * time.Minute
	restartLimit  = 8
	restartPause  = time.Second // from the second one on, doubling
	restartMax    = 30 * time.Second
)

// restart replaces this process by a fresh one of the same command line; the
// pods run on. It returns only if that is not possible, or has been tried
// too often.
func restart(argv []string, reason error) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("restart: find own executable: %w", err)
	}
	recent := recentRestarts(os.Getenv(restartsEnv), time.Now())
	if len(recent) >= restartLimit {
		return config.Hinted(fmt.Errorf("restarted %d times within %s, giving up: %w", len(recent), restartWindow, reason),
			"the log above names the component and the stack of each end")
	}
	ctx, stop := signalContext()
	select {
	case <-time.After(pauseBefore(len(recent))):
	case <-ctx.Done(): // asked to stop meanwhile
		stop()
		return nil
	}
	stop()
	environ := restartEnv(os.Environ(), append(recent, time.Now()))
	return fmt.Errorf("restart %s: %w", self, syscall.Exec(self, argv, environ))
}

// pauseBefore is how long to wait after n recent restarts.
func pauseBefore(n int) time.Duration {
	if n == 0 {
		return 0
	}
	return min(restartPause<<(n-1), restartMax)
}

// recentRestarts reads the restarts within the window; what cannot be read is
// left out.
func recentRestarts(list string, now time.Time) []time.Time {
	var recent []time.Time
	for field := range strings.SplitSeq(list, ",") {
		seconds, err := strconv.ParseInt(field, 10, 64)
		if at := time.Unix(seconds, 0); err == nil && now.Sub(at) < restartWindow && !at.After(now) {
			recent = append(recent, at)
		}
	}
	return recent
}

// restartEnv leaves out what belongs to one start only (the launcher's times,
// and the hook of the test that asked for the end) and counts the restart.
func restartEnv(environ []string, restarts []time.Time) []string {
	once := []string{timeline.EnvLaunchStarted, timeline.EnvExtract, node.FatalHook, restartsEnv}
	out := slices.DeleteFunc(slices.Clone(environ), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return slices.Contains(once, name)
	})
	fields := make([]string, len(restarts))
	for i, at := range restarts {
		fields[i] = strconv.FormatInt(at.Unix(), 10)
	}
	return append(out, restartsEnv+"="+strings.Join(fields, ","))
}

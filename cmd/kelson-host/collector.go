package main

import (
	"math"
	"runtime/debug"
	"time"
)

// The collector's pace. The boot makes much that stays, and collecting it again
// and again takes a sixth of the processor time until the API server answers.
const (
	bootMemory   = 768 << 20 // collect during the boot only beyond this
	steadyGC     = 100       // per cent of growth between collections, Go's default
	releaseAfter = 5 * time.Second
)

// collector holds the garbage collector back while the server boots.
type collector struct{}

func relaxCollector() collector {
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(bootMemory)
	return collector{}
}

// steady returns to the usual pace, and after a moment gives back to the
// system what only the boot needed.
func (collector) steady() {
	debug.SetGCPercent(steadyGC)
	debug.SetMemoryLimit(math.MaxInt64)
	time.AfterFunc(releaseAfter, debug.FreeOSMemory)
}

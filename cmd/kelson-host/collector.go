package main

import (
	"runtime/debug"
	"time"
)

// The collector's pace. The boot makes much that stays, and collecting it again
// and again takes a sixth of the processor time until the API server answers.
const (
	bootMemory   = 768 << 20 // collect during the boot only beyond this
	releaseAfter = 5 * time.Second
)

// collector holds the garbage collector back while the server boots.
type collector struct {
	percent int   // of growth between collections, as the user set it with GOGC
	limit   int64 // GOMEMLIMIT
}

func relaxCollector() collector {
	limit := debug.SetMemoryLimit(-1)
	return collector{
		percent: debug.SetGCPercent(-1),
		limit:   debug.SetMemoryLimit(min(limit, bootMemory)),
	}
}

// steady returns to the usual pace, and after a moment gives back to the
// system what only the boot needed.
func (c collector) steady() {
	debug.SetGCPercent(c.percent)
	debug.SetMemoryLimit(c.limit)
	time.AfterFunc(releaseAfter, debug.FreeOSMemory)
}

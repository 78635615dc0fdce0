package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"time"
)

// The collector's pace. What the boot makes mostly stays, and collecting it
// again and again takes a sixth of the processor time until the API server
// answers. Without any collection, though, what stays is strewn between what
// does not, and a third more memory remains in use for good.
const (
	bootMemory   = 256 << 20 // the first collection comes when this much is in use
	bootPercent  = 100
	releaseAfter = 5 * time.Second

	// What lives changes little once the server is up, so collecting twice as
	// often costs a tenth of a percent of a core.
	steadyPercent = 50
)

// collector holds the garbage collector back while the server boots.
type collector struct {
	limit int64 // GOMEMLIMIT

	mu     sync.Mutex
	steady bool
}

// relaxCollector begins the boot, unless the user set a pace with GOGC.
func relaxCollector() *collector {
	c := &collector{limit: debug.SetMemoryLimit(-1), steady: os.Getenv("GOGC") != ""}
	if !c.steady {
		debug.SetGCPercent(-1)
		debug.SetMemoryLimit(min(c.limit, bootMemory))
		runtime.AddCleanup(&struct{ _ *int }{}, (*collector).collected, c)
	}
	return c
}

// collected follows the first collection: a large cluster's server outgrows
// bootMemory for good, so from here on growth counts alone.
func (c *collector) collected() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.steady {
		debug.SetGCPercent(bootPercent)
		debug.SetMemoryLimit(c.limit)
	}
}

// booted sets the pace for good, and after a moment gives back to the system
// what only the boot needed.
func (c *collector) booted() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.steady {
		c.steady = true
		debug.SetGCPercent(steadyPercent)
		debug.SetMemoryLimit(c.limit)
	}
	time.AfterFunc(releaseAfter, debug.FreeOSMemory)
}

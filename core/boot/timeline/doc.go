// Package timeline keeps when each step of the last boot began and ended, and
// shows it as a table, as JSON and as an SVG waterfall.
//
// Invariants: a Boot is a value, its entries are in the order of phases and
// then of time, and its critical path is marked: in each phase the step that
// finished last, and before it whatever that one had to wait for. The file is
// replaced atomically.
//
// Concurrency: a Recorder may be fed from any goroutine.
package timeline

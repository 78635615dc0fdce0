// Package boot runs a node's boot list: phases in order, the steps of one
// phase concurrently, and on the way out the same list backwards.
//
// Invariants: a phase begins only when every step of the one before is ready;
// Stop is called once on every step of every phase that began, and on no other;
// the first failure cancels its siblings and is the error that Run returns.
// A step that ends by itself (Watched) counts from the moment its Start
// returned.
//
// Concurrency: Start, Ready and Stop of one step are never called at the same
// time unless Start or Ready ignored the end of its context. Options.OnEvent is
// called serially.
package boot

// Package node puts a Kelson node together. server.go is the boot list of a
// server: read it first, from top to bottom; everything else here is how the
// steps of that list are made and what surrounds them.
//
// Invariants: everything that can be refused is refused before anything is
// changed (prepare.go); constructors of steps do no I/O; the process is never
// ended from here: RunServer returns, with ErrRestart when the caller is to
// execute the host anew.
//
// Concurrency: RunServer is called once per process.
package node

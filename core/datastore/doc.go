// Package datastore gives the API server one etcd endpoint. The built-in one
// is kine with SQLite inside this process, on a unix socket in the run dir.
//
// Invariants: only the SQLite driver is linked; an existing database is
// checked before it is opened for writing, and one that is damaged, or empty
// where a cluster was, is left exactly as found. Nothing here ends the process.
//
// Concurrency: Start and Stop are called by one goroutine at a time; the other
// methods may be called from any once the step is ready.
package datastore

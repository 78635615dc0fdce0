// Package datadir owns the data dir: its layout as typed paths, the checks
// before it is used, crash-safe writes, the lock of the running server, and the
// extraction of the launcher's payload to data/<sha256>/.
//
// Invariants: a folder data/<64 hex digits> is complete, verified and on the
// disk; whatever is half-made has another name and is removed by the next
// extraction. The links current and previous are replaced atomically. Files
// under data/cni that Kelson did not make are never touched.
//
// Everything that changes data/ does so under data/.lock, so processes may use
// the package on one data dir at the same time. A Layout is a value; a Lock may
// be released from any goroutine.
package datadir

// Package process runs child processes of the host and talks to the service
// manager.
//
// Invariants of a Child: it is restarted with back-off until Stop, or until its
// policy gives up; it dies with the host however the host ends (the kernel's
// parent-death signal, set from a thread that lives as long as the child); what
// it started itself is left alone (a container must not die with containerd);
// it writes its log file directly, so that neither a dead nor a slow host blocks
// it or breaks its pipe. A record of the running process lies in Spec.PIDFile,
// from which Reap ends what a killed host left behind, after making sure that
// it is that very process.
//
// Concurrency: all methods may be called from any goroutine. Callbacks of a Spec
// are called one at a time, on a goroutine of the Child.
package process

// Package controlplane is the boot steps of kube-apiserver, kube-scheduler and
// kube-controller-manager: for each a pure function from configuration to
// arguments, and a step that runs it as a goroutine through a runner that the
// caller provides.
//
// Invariants: a component's failure never ends the process. The scheduler and
// the controller-manager are restarted alone, with back-off; the API server's
// end is reported through Exited, since everything depends on it. Leader
// election is always off here: its lost-lease path exits the process.
//
// Concurrency: a step's Start and Stop are called by one goroutine at a time;
// Ready, Exited and State may be called from any.
package controlplane

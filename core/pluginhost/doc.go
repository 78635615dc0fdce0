// Package pluginhost runs plugins: it launches the program that the catalog pins,
// negotiates the contract, configures it, watches it, starts it anew when it ends
// or hangs, goes back to the last good version when it keeps failing, and gives
// the rest of the core a connection to it.
//
//	Absent → Verified → Starting → Ready ⇄ Degraded → Failed → Backoff → Starting …
//	         five failures within ten minutes: CrashLoop → RolledBack, or go on slowly
//	Stop: Draining → Stopped
//
// Invariants: a plugin cannot end, block or exhaust the host, whatever it does:
// every call has a deadline, every answer a size limit, every process a bounded
// end. A plugin that fails never fails the host; who needs it waits for its
// connection. A process of node lifetime survives Stop and the end of the host,
// and is taken over by the next one after the contract has been negotiated anew.
// Errors of plugins carry the plugin and the operation once:
// "cni(flannel): configure: …".
//
// Concurrency: all methods may be called from any goroutine. One goroutine per
// plugin owns its life; the state is read under a lock. Spec.Up and the Source are
// called by that goroutine, one call at a time per plugin.
package pluginhost

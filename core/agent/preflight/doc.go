// Package preflight tells whether this host can be a node, and what to do if
// not. `kelson check` prints all results; the boot stops on the failed ones.
//
// Invariants: Run changes nothing (what a check makes to try it out, it
// removes), and a check never stops another. Run is safe for concurrent use.
package preflight

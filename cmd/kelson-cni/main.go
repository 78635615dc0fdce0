// Command kelson-cni is what the container runtime executes as the CNI plugin.
// It hands the operation to the network plugin's attachment socket, one frame
// there and one back, and keeps the host's records of what is attached.
//
// It runs once for each operation of each pod, so it is small and starts fast:
// no gRPC, no net, no encoding/json. It keeps these promises while the plugin is
// away: ADD waits for it and says "try again later" in the end; DEL is noted in
// the journal and succeeds; STATUS answers within two seconds. It never repeats
// what a network configuration holds.
//
// Invariants: a record exists for what was attached successfully and not
// detached; while the runtime's request is with the plugin the records are
// locked, shared, so that the host does not collect meanwhile.
package main

import "os"

func main() {
	s := shim{
		env: os.Environ(), stdin: os.Stdin, stdout: os.Stdout,
		limits: usual(),
	}
	os.Exit(s.run())
}

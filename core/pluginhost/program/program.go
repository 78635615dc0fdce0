// Package program is the value that the catalog hands to the plugin host: a
// plugin's program, resolved and with the digest that it must have. It holds no
// state and does no I/O.
package program

import "fmt"

// Lifetime is how long a plugin's process lives.
type Lifetime string

// The lifetimes.
const (
	Host     Lifetime = "host"      // as long as the host process
	Node     Lifetime = "node"      // beyond it: re-attached at its next start
	OnDemand Lifetime = "on-demand" // while it is needed
)

// Program is one version of one plugin, as the catalog resolved it. The digest
// is checked again on the opened file each time that it is executed.
type Program struct {
	Kind, Name, Version string

	Dir        string   // of the plugin's files
	Path       string   // of the executable, absolute
	Args       []string // behind the program's name
	SHA256     string   // of the executable, in hex
	Lifetime   Lifetime
	Protocols  []uint32 // majors of the kind's contract, by the manifest
	Generation uint64   // of the lock that it comes from
}

// String is kind(name), as errors and logs name a plugin.
func (p Program) String() string { return fmt.Sprintf("%s(%s)", p.Kind, p.Name) }

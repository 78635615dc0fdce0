// Package runner turns a resolved program into a running plugin process with a
// connection to it: it executes the very file that it has verified, reads the
// handshake, keeps what the process prints, tells when it ends, and ends it. It
// stands in for go-plugin's own runner, whose defaults can crash or block a host.
//
// Invariants: what is executed is the descriptor whose digest was compared, never
// a path. A plugin gets no environment but what is listed in this package, and no
// descriptor of the host but its own executable. go-plugin sees one line of the
// plugin's output, the handshake, and never its standard error. Every end of a
// process is bounded: SIGTERM, then SIGKILL to it, its process group and its
// cgroup. A process whose lifetime is the node's has no pipe to the host; all
// others end with the host, however that ends. A record of each process lies in
// the run dir, from which the next host takes it over or ends it, after making
// sure that it is that very process.
//
// Concurrency: all methods of a Process may be called from any goroutine.
package runner

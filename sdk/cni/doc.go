// Package cni is the contract of network plugins for their authors.
//
// An author implements [Network] and hands it to [Register]; the result goes to
// serve.Main. Control calls (Preflight, Setup, Start, Topology, Status, Collect,
// Teardown) come over gRPC from the host. Attachments (Add, Del, Check, and the
// CNI operations STATUS and GC) come over the attachment socket from the shim
// kelson-cni, one frame of package frame per connection.
//
// What the package sees to, so that an author need not:
//
//   - The socket exists only after Start has succeeded, has mode 0600, replaces
//     a stale one without a gap, and takes nobody but root.
//   - Setup, Start, Topology and Teardown never overlap with each other.
//   - Add, Del and Check of one container never overlap, a bounded number of
//     all runs at once, in the order of arrival, and none runs during Collect
//     and Teardown. Everything has a deadline, which the context carries.
//   - Whoever waits too long in the queue is told to try again later.
//   - A panic becomes an error of that one operation.
//   - Errors become CNI error objects or gRPC status codes ([Errorf], [Code]).
//
// There is no journal here: a detachment that could not be done is kept by the
// shim (package record), and the host's next Collect does it.
package cni

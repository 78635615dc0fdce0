package node

import "github.com/kelson-io/kelson/core/boot"

// sequence lists, in order, what turns a bare host into a control-plane node.
// Phases run one after the other, the steps of a phase at once; the stop walks
// back. What need not hold up its phase is launched there and awaited later.
func (s *server) sequence() boot.Sequence {
	return boot.Sequence{
		{Name: "host", Steps: []boot.Step{s.host}},
		{Name: "storage", Steps: []boot.Step{s.datastore, launch(s.containerd)}},
		{Name: "identity", Steps: []boot.Step{s.identity}},
		{Name: "api", Steps: []boot.Step{s.apiserver, launch(after(s.images, s.containerd)), launch(after(s.kubelet, s.containerd))}},
		{Name: "control-plane", Steps: []boot.Step{s.scheduler, s.controllers, s.network}},
		{Name: "cluster", Steps: []boot.Step{s.addons, tolerate(s.log, awaitReady(s.images), s.registered)}},
	}
}

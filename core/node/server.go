package node

import "github.com/kelson-io/kelson/core/boot"

// sequence lists, in order, what turns a bare host into a control-plane node.
// Phases run one after the other, the steps of a phase at once; the stop walks
// back. The steps of the node (containerd, plugin, network, images, kubelet,
// upkeep, former) are only launched by their phase: they hold nothing up, start
// as soon as what they need is there, and the last phase waits for the first five.
func (s *server) sequence() boot.Sequence {
	return s.enabled(boot.Sequence{
		{Name: "host", Steps: []boot.Step{s.host}},
		{Name: "storage", Steps: []boot.Step{s.datastore, s.containerd, s.plugin}},
		{Name: "identity", Steps: []boot.Step{s.identity}},
		{Name: "api", Steps: []boot.Step{s.apiserver, s.network, s.images, s.kubelet}},
		{Name: "control-plane", Steps: []boot.Step{s.scheduler, s.controllers, s.endpoint, s.upkeep, s.former}},
		{Name: "cluster", Steps: []boot.Step{s.addons, s.nodeReady}},
	})
}

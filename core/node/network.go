package node

import (
	"encoding/json"
	"strconv"

	"github.com/kelson-io/kelson/core/agent"
	"github.com/kelson-io/kelson/core/agent/cni"
	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/pki"
	"github.com/kelson-io/kelson/core/pluginhost"
	"github.com/kelson-io/kelson/core/pluginhost/catalog"
)

// cniProtocol is the major of the network contract that the host speaks.
const cniProtocol = 1

// newNetwork makes the steps that connect pods: the plugin's process, what it
// is told of the node, and the upkeep.
func (s *server) newNetwork(runtime, search string) {
	plugins := catalog.New(catalog.Deps{Layout: s.layout, File: s.config.PluginCatalog, Log: s.log})
	s.plugins = pluginhost.New(pluginhost.Deps{
		Layout: s.layout, Log: s.log, Path: search, NodeName: s.info.Name, OnChange: s.watch.plugin, Source: plugins,
	})
	note := s.watch.note
	if s.config.Network.CNI == config.NoCNI {
		s.network = s.podNetwork(cni.NewForeign(s.layout))
		s.former = launch(s.retire(), note, s.network.await)
		return
	}
	var plugin *pluginhost.Supervised
	network := cni.New(cni.Deps{
		Layout: s.layout, Name: s.config.Network.CNI, Cluster: s.config.Network, Interface: s.config.Network.FlannelIface,
		Info: s.detect, Facts: s.host.Facts, Path: search, Log: s.log,
	}, func() cni.Plugin { return plugin })
	settings, err := plugins.Settings("cni", s.config.Network.CNI)
	if err != nil {
		s.log.Error("settings of the network plugin are left out", "plugin", s.config.Network.CNI, "err", err)
	}
	plugin = s.plugins.Supervise(pluginhost.Spec{
		Kind: "cni", Name: s.config.Network.CNI, Config: cniConfig(s.config.Network, settings.Config), Secrets: settings.Secrets,
		Protocols: []uint32{cniProtocol}, Up: network.Up,
	})
	s.plugin = launch(plugin, note)
	s.network = s.podNetwork(network)
	s.upkeep = launch(cni.NewUpkeep(cni.UpkeepDeps{Network: network, Client: s.client, Runtime: runtime, Log: s.log}), note, s.network.await, s.answering)
	s.former = launch(s.retire(), note, s.network.await)
}

func (s *server) podNetwork(network agent.Network) *launched {
	return launch(agent.NewPodNetwork(agent.PodNetworkDeps{
		Layout: s.layout, Cluster: s.config.Network, Network: network,
		Kubeconfig: pki.KubeconfigSupervisor.File(s.layout), Info: s.detect, First: s.identity.isNew.Load, Log: s.log,
	}), s.watch.note)
}

// cniConfig is the plugin's configuration: the catalog's, and for flannel what
// the flags say where the catalog says nothing.
func cniConfig(n config.Network, fromCatalog json.RawMessage) json.RawMessage {
	if n.CNI != "flannel" {
		return fromCatalog
	}
	settings := map[string]json.RawMessage{}
	if len(fromCatalog) > 0 && json.Unmarshal(fromCatalog, &settings) != nil {
		return fromCatalog // the plugin says what is wrong with it
	}
	if _, set := settings["backend"]; !set {
		settings["backend"] = json.RawMessage(strconv.Quote(n.FlannelBackend))
	}
	raw, err := json.Marshal(settings)
	if err != nil {
		return fromCatalog
	}
	return raw
}

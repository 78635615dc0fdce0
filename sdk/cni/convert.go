package cni

import (
	"fmt"
	"net/netip"

	cniv1 "github.com/kelson-io/kelson/sdk/proto/cni/v1"
)

func nodeOf(m *cniv1.Node) (Node, error) {
	n := Node{Name: m.GetName(), Published: m.GetPublished()}
	var err error
	if n.Addresses, err = parseAll(m.GetAddresses(), netip.ParseAddr); err != nil {
		return n, fmt.Errorf("addresses of node %q: %w", n.Name, err)
	}
	if n.PodCIDRs, err = parseAll(m.GetPodCidrs(), netip.ParsePrefix); err != nil {
		return n, fmt.Errorf("pod CIDRs of node %q: %w", n.Name, err)
	}
	return n, nil
}

func setupOf(m *cniv1.SetupRequest) (Setup, error) {
	s := Setup{
		MTU: int(m.GetMtu()), Interface: m.GetInterface(), Socket: m.GetSocket(), IPAMDir: m.GetIpamDir(),
		BinDirs: m.GetBinDirs(), CacheDir: m.GetCacheDir(), Path: m.GetPath(), NFTables: m.GetNftables(),
	}
	var err error
	if s.Node, err = nodeOf(m.GetNode()); err != nil {
		return s, err
	}
	if s.ClusterCIDRs, err = parseAll(m.GetClusterCidrs(), netip.ParsePrefix); err != nil {
		return s, fmt.Errorf("cluster CIDRs: %w", err)
	}
	if s.ServiceCIDRs, err = parseAll(m.GetServiceCidrs(), netip.ParsePrefix); err != nil {
		return s, fmt.Errorf("service CIDRs: %w", err)
	}
	return s, nil
}

func topologyOf(m *cniv1.TopologyRequest) (Topology, error) {
	t := Topology{Complete: m.GetComplete(), Removed: m.GetRemoved()}
	for _, node := range m.GetNodes() {
		n, err := nodeOf(node)
		if err != nil {
			return t, err
		}
		t.Nodes = append(t.Nodes, n)
	}
	return t, nil
}

func attachmentsOf(list []*cniv1.Attachment) []Attachment {
	out := make([]Attachment, 0, len(list))
	for _, a := range list {
		out = append(out, Attachment{a.GetContainerId(), a.GetIfname()})
	}
	return out
}

func parseAll[T any](texts []string, parse func(string) (T, error)) ([]T, error) {
	var out []T
	for _, text := range texts {
		value, err := parse(text)
		if err != nil {
			return nil, err
		}
		out = append(out, value)
	}
	return out, nil
}

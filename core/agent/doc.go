// Package agent makes a host a Kubernetes node: it prepares the kernel, runs
// containerd and the node child (kubelet and kube-proxy) as supervised
// processes, imports system images and connects pods.
//
// Each concern is a boot.Step in a file of its own: host.go, containerd.go,
// node.go, network.go; images are in the package images, what the kernel
// offers in kernel, the checks before a start in preflight. Configurations are
// pure functions of settings and kernel.Facts (containerd_config.go,
// kubelet_config.go, proxy_config.go), golden-tested.
//
// Invariants: constructors do no I/O; everything a node writes lies under its
// data dir, configuration folder and run dir, so that several nodes can share
// a host; stopping a step never stops a pod; no component's end is the end of
// this process.
//
// Concurrency: the steps are used by one boot sequence each; their methods may
// be called from any goroutine. Steps read what another step found (Facts,
// NodeInfo) through functions that block no one and return a value.
package agent

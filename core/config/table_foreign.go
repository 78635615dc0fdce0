package config

import "slices"

// Reasons that several of K3s' keys share.
const (
	noJoining = "joining nodes is not available in this version"
	noEtcd    = "embedded etcd is not available in this version"
	noHelm    = "the Helm controller is not available in this version"
	noFlannel = "flannel is a plugin and configured by keys of its own"
	noOneNode = "it has no effect on a single node"
)

// refused makes options that stop the start, all for one reason.
func refused(reason, remedy string, t Type, names ...string) []Option {
	return foreign(Refused, reason, remedy, t, names)
}

// warned makes options that are accepted without effect.
func warned(reason string, t Type, names ...string) []Option {
	return foreign(Warned, reason, "", t, names)
}

func foreign(s Status, reason, remedy string, t Type, names []string) []Option {
	out := make([]Option, len(names))
	for i, name := range names {
		out[i] = Option{Name: name, Type: t, Hidden: true, Group: "K3s", Status: s, Note: reason, Remedy: remedy, Help: "K3s' option; " + reason + "."}
	}
	return out
}

// one renames what a single foreign option needs beyond the common fields.
func one(options []Option, change func(*Option)) []Option {
	change(&options[0])
	return options
}

// foreignOptions are K3s' keys without an equivalent, so that each is answered
// in plain words. What would change how a cluster behaves is refused; what
// makes no difference here is accepted with a warning.
func foreignOptions() []Option {
	const here = "remove it, or wait for the version that has it"
	return slices.Concat(
		foreignCluster(), foreignGeneral(here), foreignDatastore(here), foreignNode(here),
		refused("it belongs to agents, and there are none in this version", here, Bool, "disable-apiserver"),
	)
}

func foreignCluster() []Option {
	const here = "remove it: this server is a cluster of its own"
	return slices.Concat(
		one(refused(noJoining, "nodes join at the join API, port 9345, not at the API server's 6443: https://HOST:9345; remove the key until joining is available", Text, "server"),
			func(o *Option) { o.Short, o.Env = 's', "KELSON_URL" }),
		one(refused(noJoining, here, Text, "agent-token"), func(o *Option) { o.Secret = true }),
		refused(noJoining, here, Text, "agent-token-file"),
		refused(noEtcd, here, Bool, "cluster-init", "cluster-reset"),
		refused(noEtcd, here, Text, "cluster-reset-restore-path"),
		warned(noOneNode, Number, "lb-server-port"),
		warned(noOneNode, Bool, "disable-apiserver-lb", "flannel-external-ip"),
		warned("the API server reaches the node directly", Text, "egress-selector-mode"),
	)
}

func foreignGeneral(here string) []Option {
	return slices.Concat(
		one(refused("the log goes to standard error", "redirect it: kelson server 2>FILE", Text, "log"),
			func(o *Option) { o.Short = 'l' }),
		warned("the log always goes to standard error", Bool, "alsologtostderr"),
		warned("verbosity per source file is not available; use v", Text, "vmodule"),
		warned("the certificate's names never come from clients", Bool, "tls-san-security"),
		refused("the API server tells its clients the port that it listens on", "use https-listen-port", Number, "advertise-port"),
		refused("the API server itself listens on https-listen-port", "use https-listen-port", Number, "apiserver-port"),
		refused("the API server itself listens on bind-address", "use bind-address", Text, "apiserver-bind-address"),
		refused("the service load balancer is not available in this version", here, Text, "servicelb-namespace"),
		refused(noHelm, "apply rendered manifests: put them in server/manifests of the data dir", Text, "helm-job-image"),
		refused(noHelm, "apply rendered manifests: put them in server/manifests of the data dir", Args, "helm-controller-arg"),
		warned("there is no Helm controller", Bool, "disable-helm-controller"),
		warned("there is no cloud controller", Bool, "disable-cloud-controller"),
		one(refused("there is no cloud controller", here, Args, "kube-cloud-controller-manager-arg"),
			func(o *Option) { o.Aliases = []string{"kube-cloud-controller-arg"} }),
		warned("network policies are not enforced in this version", Bool, "disable-network-policy"),
		refused("the embedded registry is not available in this version", here, Bool, "embedded-registry"),
		refused("the join API has no metrics in this version", here, Bool, "supervisor-metrics"),
		warned("system images travel in the binary and are not pulled", Text, "system-default-registry"),
		warned("system images travel in the binary and are not pulled", List, "airgap-extra-registry"),
		refused("running without root is not available in this version", "run as root", Bool, "rootless"),
		refused("profiling is set per component", "use kube-apiserver-arg: [profiling=true]", Bool, "enable-pprof"),
	)
}

func foreignDatastore(here string) []Option {
	return slices.Concat(
		refused("the built-in datastore is a file and needs no certificates", "remove it", Text, "datastore-cafile", "datastore-certfile", "datastore-keyfile"),
		refused("kine listens on a private unix socket", here, Bool, "kine-tls"),
		refused(noEtcd, here, Args, "etcd-arg"),
		refused(noEtcd, here, Bool, "etcd-expose-metrics", "etcd-snapshot-compress", "etcd-s3", "etcd-s3-skip-ssl-verify", "etcd-s3-insecure"),
		warned("there is no embedded etcd", Bool, "etcd-disable-snapshots", "disable-etcd"),
		refused(noEtcd, here, Number, "etcd-snapshot-retention", "etcd-s3-retention"),
		refused(noEtcd, here, Text,
			"etcd-snapshot-name", "etcd-snapshot-schedule-cron", "etcd-snapshot-reconcile-interval", "etcd-snapshot-dir",
			"etcd-s3-endpoint", "etcd-s3-endpoint-ca", "etcd-s3-bucket", "etcd-s3-bucket-lookup-type", "etcd-s3-region",
			"etcd-s3-folder", "etcd-s3-proxy", "etcd-s3-config-secret", "etcd-s3-timeout"),
		one(refused(noEtcd, here, Text, "etcd-s3-access-key"), func(o *Option) { o.Secret = true }),
		one(refused(noEtcd, here, Text, "etcd-s3-secret-key"), func(o *Option) { o.Secret = true }),
		one(refused(noEtcd, here, Text, "etcd-s3-session-token"), func(o *Option) { o.Secret = true }),
	)
}

func foreignNode(here string) []Option {
	const registry = "registry settings are not available in this version"
	return slices.Concat(
		refused("the node's name is used as given", "set node-name", Bool, "with-node-id"),
		refused("SELinux labels are not available in this version", here, Bool, "selinux"),
		refused("it is an argument of the kubelet", "use kubelet-arg: [image-credential-provider-bin-dir=DIR]", Text, "image-credential-provider-bin-dir"),
		refused("it is an argument of the kubelet", "use kubelet-arg: [image-credential-provider-config=FILE]", Text, "image-credential-provider-config"),
		refused("DNS names of the node are not available in this version", "use tls-san for names of the API server", List, "node-internal-dns", "node-external-dns"),
		refused(noFlannel, "use cni, flannel-backend and flannel-iface", Text, "flannel-conf", "flannel-cni-conf"),
		warned("pods with private IPv6 addresses are masqueraded, others never", Bool, "flannel-ipv6-masq"),
		one(refused("VPN networks are not available in this version", here, Text, "vpn-auth"), func(o *Option) { o.Secret = true }),
		refused("VPN networks are not available in this version", here, Text, "vpn-auth-file"),
		refused("containerd is built in, and the only runtime", "remove it", Bool, "docker"),
		refused("containerd is built in, and the only runtime", "remove it", Text, "container-runtime-endpoint", "image-service-endpoint"),
		refused("it is a setting of containerd", "name a RuntimeClass in the pod", Text, "default-runtime"),
		refused(registry, here, Text, "private-registry"),
		refused(registry, here, Bool, "disable-default-registry-endpoint", "nonroot-devices"),
	)
}

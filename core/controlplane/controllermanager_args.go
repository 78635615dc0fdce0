package controlplane

import (
	"fmt"

	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/datadir"
)

// ControllerManagerArgs returns kube-controller-manager's arguments. It does
// no I/O.
func ControllerManagerArgs(layout datadir.Layout, network config.Network, c config.Component) ([]string, error) {
	tls := layout.TLS
	kubeconfig := layout.Cred("controller.kubeconfig")
	args := argSet{
		"allocate-node-cidrs":              "true",
		"authentication-kubeconfig":        kubeconfig,
		"authorization-kubeconfig":         kubeconfig,
		"bind-address":                     "127.0.0.1",
		"cluster-cidr":                     joinPrefixes(network.ClusterCIDR),
		"configure-cloud-routes":           "false",
		"controllers":                      "*,tokencleaner",
		"kube-api-burst":                   "1000",
		"kube-api-qps":                     "500",
		"kubeconfig":                       kubeconfig,
		"leader-elect":                     "false",
		"profiling":                        "false",
		"root-ca-file":                     tls("server-ca.crt"),
		"secure-port":                      "10257",
		"service-account-private-key-file": tls("service.key"),
		"service-cluster-ip-range":         joinPrefixes(network.ServiceCIDR),
		"tls-cert-file":                    tls("serving-kube-apiserver.crt"),
		"tls-private-key-file":             tls("serving-kube-apiserver.key"),
		"use-service-account-credentials":  "true",
	}
	for signer, ca := range map[string]string{
		"kube-apiserver-client": "client-ca",
		"kubelet-client":        "client-ca",
		"legacy-unknown":        "server-ca",
		"kubelet-serving":       "server-ca",
	} {
		args["cluster-signing-"+signer+"-cert-file"] = tls(ca + ".nochain.crt") // signers accept one certificate only
		args["cluster-signing-"+signer+"-key-file"] = tls(ca + ".key")
	}
	if err := args.merge(c.ExtraArgs); err != nil {
		return nil, fmt.Errorf("kube-controller-manager-arg: %w", err)
	}
	args["leader-elect"] = "false" // its lost-lease path exits the process
	return args.slice(), nil
}

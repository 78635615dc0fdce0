package controlplane

import (
	"fmt"

	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/datadir"
)

// SchedulerArgs returns kube-scheduler's arguments. It does no I/O.
func SchedulerArgs(layout datadir.Layout, c config.Component) ([]string, error) {
	kubeconfig := layout.Cred("scheduler.kubeconfig")
	args := argSet{
		"authentication-kubeconfig": kubeconfig,
		"authorization-kubeconfig":  kubeconfig,
		"bind-address":              "127.0.0.1",
		"kube-api-burst":            "1000",
		"kube-api-qps":              "500",
		"kubeconfig":                kubeconfig,
		"leader-elect":              "false",
		"profiling":                 "false",
		"secure-port":               "10259",
		"tls-cert-file":             layout.TLS("serving-kube-apiserver.crt"),
		"tls-private-key-file":      layout.TLS("serving-kube-apiserver.key"),
	}
	if err := args.merge(c.ExtraArgs); err != nil {
		return nil, fmt.Errorf("kube-scheduler-arg: %w", err)
	}
	args["leader-elect"] = "false" // its lost-lease path exits the process
	return args.slice(), nil
}

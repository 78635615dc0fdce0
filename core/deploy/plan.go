package deploy

import (
	"sort"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// object is one thing to apply, and where it was read.
type object struct {
	*unstructured.Unstructured
	File string
	Line int
}

// wave orders what an addon brings: a wave is applied at once, after the
// waves before it.
type wave int

const (
	waveFoundation wave = iota // namespaces and kinds, which others need to exist
	waveSettings               // accounts, roles, configuration, services
	waveWorkloads              // what runs
	waveHooks                  // what the API server calls: last, when it may run
)

func waveOf(group, kind string) wave {
	switch group + "/" + kind {
	case "/Namespace", "apiextensions.k8s.io/CustomResourceDefinition":
		return waveFoundation
	case "/Pod", "/ReplicationController", "apps/Deployment", "apps/DaemonSet", "apps/StatefulSet",
		"apps/ReplicaSet", "batch/Job", "batch/CronJob":
		return waveWorkloads
	case "apiregistration.k8s.io/APIService", "admissionregistration.k8s.io/ValidatingWebhookConfiguration",
		"admissionregistration.k8s.io/MutatingWebhookConfiguration":
		return waveHooks
	}
	return waveSettings
}

// plan sorts objects into waves; within one they keep their order.
func plan(objects []object) [][]object {
	sorted := append([]object(nil), objects...)
	rank := func(o object) wave {
		gvk := o.GroupVersionKind()
		return waveOf(gvk.Group, gvk.Kind)
	}
	sort.SliceStable(sorted, func(i, j int) bool { return rank(sorted[i]) < rank(sorted[j]) })
	var waves [][]object
	for i, o := range sorted {
		if i == 0 || rank(sorted[i-1]) != rank(o) {
			waves = append(waves, nil)
		}
		waves[len(waves)-1] = append(waves[len(waves)-1], o)
	}
	return waves
}

package deploy

import (
	"context"
	"fmt"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// resource is how the API server serves a kind.
type resource struct {
	schema.GroupVersionResource
	Namespaced bool
}

// builtin lists, per group and version, the kinds that every API server of
// this release serves; a "/" marks those without a namespace. They need no
// discovery, which would cost a cold boot a tenth of a second.
func builtin() map[string]string {
	return map[string]string{
		"v1": "Namespace/namespaces/ Node/nodes/ PersistentVolume/persistentvolumes/ ConfigMap/configmaps " +
			"Endpoints/endpoints Event/events LimitRange/limitranges PersistentVolumeClaim/persistentvolumeclaims " +
			"Pod/pods ReplicationController/replicationcontrollers ResourceQuota/resourcequotas Secret/secrets " +
			"Service/services ServiceAccount/serviceaccounts",
		"apps/v1":                         "DaemonSet/daemonsets Deployment/deployments ReplicaSet/replicasets StatefulSet/statefulsets",
		"batch/v1":                        "CronJob/cronjobs Job/jobs",
		"autoscaling/v2":                  "HorizontalPodAutoscaler/horizontalpodautoscalers",
		"networking.k8s.io/v1":            "Ingress/ingresses IngressClass/ingressclasses/ NetworkPolicy/networkpolicies",
		"policy/v1":                       "PodDisruptionBudget/poddisruptionbudgets",
		"rbac.authorization.k8s.io/v1":    "ClusterRole/clusterroles/ ClusterRoleBinding/clusterrolebindings/ Role/roles RoleBinding/rolebindings",
		"scheduling.k8s.io/v1":            "PriorityClass/priorityclasses/",
		"storage.k8s.io/v1":               "CSIDriver/csidrivers/ StorageClass/storageclasses/",
		"node.k8s.io/v1":                  "RuntimeClass/runtimeclasses/",
		"apiregistration.k8s.io/v1":       "APIService/apiservices/",
		"apiextensions.k8s.io/v1":         "CustomResourceDefinition/customresourcedefinitions/",
		"admissionregistration.k8s.io/v1": "MutatingWebhookConfiguration/mutatingwebhookconfigurations/ ValidatingWebhookConfiguration/validatingwebhookconfigurations/",
	}
}

// lister is the part of a discovery client that the mapping needs.
type lister interface {
	ServerResourcesForGroupVersionWithContext(ctx context.Context, groupVersion string) (*metav1.APIResourceList, error)
}

// mapping finds the resource of a kind: built-in ones from the table, others
// by asking for their one group and version, whose answer is kept.
type mapping struct {
	lister lister

	mu    sync.Mutex
	known map[schema.GroupVersionKind]resource
}

func newMapping(l lister) *mapping {
	m := &mapping{lister: l, known: map[schema.GroupVersionKind]resource{}}
	for groupVersion, kinds := range builtin() {
		gv, _ := schema.ParseGroupVersion(groupVersion) // constants, covered by a test
		for row := range strings.FieldsSeq(kinds) {
			f := strings.Split(row, "/")
			m.known[gv.WithKind(f[0])] = resource{GroupVersionResource: gv.WithResource(f[1]), Namespaced: len(f) == 2}
		}
	}
	return m
}

func (m *mapping) find(ctx context.Context, gvk schema.GroupVersionKind) (resource, error) {
	m.mu.Lock()
	r, ok := m.known[gvk]
	m.mu.Unlock()
	if ok {
		return r, nil
	}
	list, err := m.lister.ServerResourcesForGroupVersionWithContext(ctx, gvk.GroupVersion().String())
	if err != nil {
		return resource{}, fmt.Errorf("find kind %s of %s: %w", gvk.Kind, gvk.GroupVersion(), err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range list.APIResources {
		if strings.Contains(r.Name, "/") {
			continue
		}
		m.known[gvk.GroupVersion().WithKind(r.Kind)] = resource{
			GroupVersionResource: gvk.GroupVersion().WithResource(r.Name),
			Namespaced:           r.Namespaced,
		}
	}
	if r, ok = m.known[gvk]; !ok {
		return resource{}, fmt.Errorf("find kind %s: the API server has none in %s", gvk.Kind, gvk.GroupVersion())
	}
	return r, nil
}

// forget drops what was learned of a kind, after the server no longer knows it.
func (m *mapping) forget(gvk schema.GroupVersionKind) {
	if _, fixed := builtin()[gvk.GroupVersion().String()]; fixed {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.known, gvk)
}

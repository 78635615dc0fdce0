package deploy

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

// cluster is what the engine asks of the API server.
type cluster interface {
	// Apply makes the fields that u states so; twice is once.
	Apply(ctx context.Context, addon string, u *unstructured.Unstructured) error
	// Remove deletes the object if the addon brought it; absent is no error.
	Remove(ctx context.Context, addon string, r ref) error
}

// maxParallel bounds the requests under way for one addon.
const maxParallel = 8

// fieldManager prefixes the addon's name in managedFields.
const fieldManager = "kelson-addon-"

// apiCluster speaks to an API server.
type apiCluster struct {
	client  dynamic.Interface
	mapping *mapping
}

var _ cluster = (*apiCluster)(nil)

// newCluster returns a client without the default rate limit, which would make
// a first boot wait: the waves bound what is under way.
func newCluster(config *rest.Config) (*apiCluster, error) {
	config = rest.CopyConfig(config)
	config.QPS, config.Burst = -1, 0
	config.UserAgent = "kelson-addons"
	http, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("connect to the API server: %w", err)
	}
	client, err := dynamic.NewForConfigAndClient(config, http)
	if err != nil {
		return nil, fmt.Errorf("connect to the API server: %w", err)
	}
	disco, err := discovery.NewDiscoveryClientForConfigAndClient(config, http)
	if err != nil {
		return nil, fmt.Errorf("connect to the API server: %w", err)
	}
	return &apiCluster{client: client, mapping: newMapping(disco)}, nil
}

// Apply implements cluster. It forces: the fields that a manifest states are
// the manifest's, all others stay their owner's.
func (c *apiCluster) Apply(ctx context.Context, addon string, u *unstructured.Unstructured) error {
	gvk := u.GroupVersionKind()
	api, err := c.resource(ctx, gvk, u.GetNamespace())
	if err != nil {
		return err
	}
	_, err = api.Apply(ctx, u.GetName(), u, metav1.ApplyOptions{FieldManager: fieldManager + addon, Force: true})
	if isNoSuchKind(err) {
		c.mapping.forget(gvk)
	}
	return err
}

// Remove implements cluster.
func (c *apiCluster) Remove(ctx context.Context, addon string, r ref) error {
	gvk := schema.FromAPIVersionAndKind(r.APIVersion, r.Kind)
	api, err := c.resource(ctx, gvk, r.Namespace)
	if apierrors.IsNotFound(err) {
		return nil // the kind is gone, and its objects with it
	}
	if err != nil {
		return err
	}
	found, err := api.Get(ctx, r.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if found.GetLabels()[labelAddon] != addon {
		return nil // someone else's by now
	}
	uid, policy := found.GetUID(), metav1.DeletePropagationBackground
	err = api.Delete(ctx, r.Name, metav1.DeleteOptions{
		Preconditions:     &metav1.Preconditions{UID: &uid},
		PropagationPolicy: &policy,
	})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

func (c *apiCluster) resource(ctx context.Context, gvk schema.GroupVersionKind, namespace string) (dynamic.ResourceInterface, error) {
	r, err := c.mapping.find(ctx, gvk)
	if err != nil {
		return nil, err
	}
	if !r.Namespaced {
		return c.client.Resource(r.GroupVersionResource), nil
	}
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	return c.client.Resource(r.GroupVersionResource).Namespace(namespace), nil
}

// isNoSuchKind tells a kind that is not served from an object that is absent:
// the latter's error carries the object's name.
func isNoSuchKind(err error) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status) && apierrors.IsNotFound(err) && (status.Status().Details == nil || status.Status().Details.Name == "")
}

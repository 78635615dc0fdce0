package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"
	discoveryac "k8s.io/client-go/applyconfigurations/discovery/v1"
	"k8s.io/client-go/kubernetes"
)

const endpointRetry = 100 * time.Millisecond

// endpoint keeps the Service default/kubernetes pointing at this server. The
// API server could do so itself, but only for the address that it was started
// with; this follows the node's, while the API server runs on.
type endpoint struct {
	client func() (kubernetes.Interface, error)
	port   int
	addr   func() netip.Addr
}

// Name is the step's name.
func (*endpoint) Name() string { return "kubernetes-endpoint" }

// Start publishes nothing yet: that takes more than one request.
func (*endpoint) Start(context.Context) error { return nil }

// Ready publishes the address, again until it succeeds.
func (e *endpoint) Ready(ctx context.Context) error {
	last := errors.New("not tried yet")
	for {
		err := e.publish(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return last
		case <-time.After(endpointRetry):
		}
	}
}

// Stop leaves the endpoint: the next start of the server finds it right.
func (*endpoint) Stop(context.Context) error { return nil }

// publish writes the Endpoints object and, for all newer clients, the slice.
func (e *endpoint) publish(ctx context.Context) error {
	client, err := e.client()
	if err != nil {
		return err
	}
	const name, manager = "kubernetes", "kelson"
	addr, port := e.addr(), int32(e.port)
	opts := metav1.ApplyOptions{FieldManager: manager, Force: true}
	_, err = client.CoreV1().Endpoints(metav1.NamespaceDefault).Apply(ctx, coreac.Endpoints(name, metav1.NamespaceDefault).
		WithLabels(map[string]string{discoveryv1.LabelSkipMirror: "true"}).
		WithSubsets(coreac.EndpointSubset().
			WithAddresses(coreac.EndpointAddress().WithIP(addr.String())).
			WithPorts(coreac.EndpointPort().WithName("https").WithPort(port).WithProtocol(corev1.ProtocolTCP))), opts)
	if err != nil {
		return fmt.Errorf("publish the API server's endpoint: %w", err)
	}
	family := discoveryv1.AddressTypeIPv4
	if addr.Is6() {
		family = discoveryv1.AddressTypeIPv6
	}
	_, err = client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).Apply(ctx, discoveryac.EndpointSlice(name, metav1.NamespaceDefault).
		WithLabels(map[string]string{discoveryv1.LabelServiceName: name}).
		WithAddressType(family).
		WithEndpoints(discoveryac.Endpoint().WithAddresses(addr.String()).
			WithConditions(discoveryac.EndpointConditions().WithReady(true))).
		WithPorts(discoveryac.EndpointPort().WithName("https").WithPort(port).WithProtocol(corev1.ProtocolTCP)), opts)
	if err != nil {
		return fmt.Errorf("publish the API server's endpoint slice: %w", err)
	}
	return nil
}

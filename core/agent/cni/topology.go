package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	cniv1 "github.com/kelson-io/kelson/sdk/proto/cni/v1"
)

// PublishedAnnotation holds, as a JSON object, what the plugin of a node tells
// the plugins of the others.
const PublishedAnnotation = "cni.kelson.io/published"

const applyDeadline = 30 * time.Second

// follow tells the plugin the other nodes until the watch, the stream or ctx
// ends; the error says which.
func (u *Upkeep) follow(ctx context.Context, nodes kubernetes.Interface, client cniv1.NetworkClient) error {
	list, err := nodes.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	watcher, err := nodes.CoreV1().Nodes().Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		return fmt.Errorf("watch nodes: %w", err)
	}
	defer watcher.Stop()
	stream, err := client.Topology(ctx)
	if err != nil {
		return fmt.Errorf("topology: %w", err)
	}
	info, err := u.network.deps.Info()
	if err != nil {
		return fmt.Errorf("identify node: %w", err)
	}
	told := map[string]string{}
	all := &cniv1.TopologyRequest{Complete: true}
	for i := range list.Items {
		if node := peer(&list.Items[i], info.Name); node != nil {
			all.Nodes = append(all.Nodes, node)
			told[node.GetName()] = node.String()
		}
	}
	if err := exchange(stream, all); err != nil {
		return err
	}
	for event := range watcher.ResultChan() {
		node, ok := event.Object.(*corev1.Node)
		if !ok {
			return fmt.Errorf("watch nodes: %v", event.Object)
		}
		change := changeOf(event.Type, node, info.Name, told)
		if change == nil {
			continue
		}
		if err := exchange(stream, change); err != nil {
			return err
		}
	}
	return errors.New("watch of the nodes ended")
}

// exchange sends one message and waits until it has been applied.
func exchange(stream cniv1.Network_TopologyClient, message *cniv1.TopologyRequest) error {
	if err := stream.Send(message); err != nil {
		return fmt.Errorf("topology: %w", err)
	}
	applied := make(chan error, 1)
	go func() {
		_, err := stream.Recv()
		applied <- err
	}()
	select {
	case err := <-applied:
		if err != nil {
			return fmt.Errorf("topology: %w", err)
		}
		return nil
	case <-time.After(applyDeadline):
		return fmt.Errorf("topology: not applied within %s", applyDeadline)
	}
}

// changeOf is the message for an event, nil if the plugin knows it already.
func changeOf(event watch.EventType, node *corev1.Node, self string, told map[string]string) *cniv1.TopologyRequest {
	p := peer(node, self)
	_, known := told[node.Name]
	if event == watch.Deleted || p == nil {
		if !known {
			return nil
		}
		delete(told, node.Name)
		return &cniv1.TopologyRequest{Removed: []string{node.Name}}
	}
	if known && told[node.Name] == p.String() {
		return nil
	}
	told[node.Name] = p.String()
	return &cniv1.TopologyRequest{Nodes: []*cniv1.Node{p}}
}

// peer is a node as the contract says it, nil for this node and for those that
// have no pod range yet.
func peer(node *corev1.Node, self string) *cniv1.Node {
	if node.Name == self || len(node.Spec.PodCIDRs) == 0 {
		return nil
	}
	out := &cniv1.Node{Name: node.Name, PodCidrs: node.Spec.PodCIDRs}
	for _, a := range node.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			out.Addresses = append(out.Addresses, a.Address)
		}
	}
	if raw := node.Annotations[PublishedAnnotation]; raw != "" {
		published := map[string]string{}
		if json.Unmarshal([]byte(raw), &published) == nil {
			out.Published = published
		}
	}
	return out
}

// publish writes what the plugin wants the other nodes to know into this node's
// object.
func publish(ctx context.Context, nodes kubernetes.Interface, name string, published map[string]string) error {
	value, err := json.Marshal(published)
	if err != nil {
		return err
	}
	node, err := nodes.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("get node %s: %w", name, err)
	}
	have, had := node.Annotations[PublishedAnnotation]
	if have == string(value) || !had && len(published) == 0 {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{PublishedAnnotation: string(value)}}})
	if err != nil {
		return err
	}
	if _, err := nodes.CoreV1().Nodes().Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("publish network data of node %s: %w", name, err)
	}
	return nil
}

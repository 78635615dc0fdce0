package cni

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

const (
	notEnforced        = "NotEnforced"
	notEnforcedMessage = "NetworkPolicy is accepted but not enforced by this cluster's network: all traffic between pods is allowed"
)

// warn writes an event on each NetworkPolicy, until the watch or ctx ends: that
// nothing enforces it must not pass in silence.
func (u *Upkeep) warn(ctx context.Context) error {
	client, err := u.deps.Client()
	if err != nil {
		return fmt.Errorf("make client: %w", err)
	}
	list, err := client.NetworkingV1().NetworkPolicies("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list network policies: %w", err)
	}
	watcher, err := client.NetworkingV1().NetworkPolicies("").Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		return fmt.Errorf("watch network policies: %w", err)
	}
	defer watcher.Stop()
	for i := range list.Items {
		if err := noteUnenforced(ctx, client, &list.Items[i]); err != nil {
			return err
		}
	}
	for event := range watcher.ResultChan() {
		policy, ok := event.Object.(*networkingv1.NetworkPolicy)
		if !ok {
			return fmt.Errorf("watch network policies: %v", event.Object)
		}
		if err := noteUnenforced(ctx, client, policy); err != nil {
			return err
		}
	}
	return errors.New("watch of the network policies ended")
}

// noteUnenforced writes the one event of a policy. Its name comes from the
// policy's UID, so that it is written once for as long as events are kept.
func noteUnenforced(ctx context.Context, client kubernetes.Interface, policy *networkingv1.NetworkPolicy) error {
	if policy.DeletionTimestamp != nil {
		return nil
	}
	now := metav1.Now()
	_, err := client.CoreV1().Events(policy.Namespace).Create(ctx, &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: policy.Namespace, Name: "not-enforced." + string(policy.UID)},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy",
			Namespace: policy.Namespace, Name: policy.Name, UID: policy.UID, ResourceVersion: policy.ResourceVersion,
		},
		Type: corev1.EventTypeWarning, Reason: notEnforced, Message: notEnforcedMessage,
		Source: corev1.EventSource{Component: "kelson"}, FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}, metav1.CreateOptions{})
	switch {
	case err == nil, apierrors.IsAlreadyExists(err), apierrors.IsNotFound(err), apierrors.IsForbidden(err):
		return nil // written before, or the namespace is on its way out
	}
	return fmt.Errorf("note that a network policy is not enforced: %w", err)
}

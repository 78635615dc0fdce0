package main

import (
	"context"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kelson-io/kelson/core/status"
)

// clusterReport is what the API server answered.
type clusterReport struct {
	APIServer  string            `json:"apiServer"` // "ready", or why not
	Node       string            `json:"node,omitempty"`
	Components []componentReport `json:"components,omitempty"`
	// Policies counts NetworkPolicy objects: nothing enforces them.
	Policies int `json:"networkPoliciesNotEnforced,omitempty"`
}

// componentReport is one packaged component.
type componentReport struct {
	Name    string `json:"name"`
	Ready   int32  `json:"ready"`
	Desired int32  `json:"desired"`
}

const answerReady = "ready"

// probeCluster asks the API server with the administrator's kubeconfig. What
// cannot be asked is told as text, never as an error.
func probeCluster(ctx context.Context, s status.Status) clusterReport {
	rest, err := clientcmd.BuildConfigFromFlags("", s.Kubeconfig)
	if err != nil {
		return clusterReport{APIServer: fmt.Sprintf("read kubeconfig: %v", err)}
	}
	client, err := kubernetes.NewForConfig(rest)
	if err != nil {
		return clusterReport{APIServer: err.Error()}
	}
	if _, err := client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx); err != nil {
		return clusterReport{APIServer: err.Error()}
	}
	r := clusterReport{APIServer: answerReady}
	if s.Node != "" {
		r.Node = probeNode(ctx, client, s.Node)
	}
	list, err := client.AppsV1().Deployments(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{})
	if err != nil {
		r.APIServer = fmt.Sprintf("list deployments: %v", err)
		return r
	}
	if policies, err := client.NetworkingV1().NetworkPolicies("").List(ctx, metav1.ListOptions{}); err == nil {
		r.Policies = len(policies.Items)
	}
	for _, name := range s.Components {
		r.Components = append(r.Components, probeComponent(name, list.Items))
	}
	return r
}

// probeComponent finds a packaged component's deployment, which bears its
// name or begins with it.
func probeComponent(name string, list []appsv1.Deployment) componentReport {
	c := componentReport{Name: name, Desired: 1}
	i := slices.IndexFunc(list, func(d appsv1.Deployment) bool { return d.Name == name || d.Name == name+"-provisioner" })
	if i < 0 {
		return c
	}
	c.Ready = list[i].Status.ReadyReplicas
	if list[i].Spec.Replicas != nil {
		c.Desired = *list[i].Spec.Replicas
	}
	return c
}

func probeNode(ctx context.Context, client kubernetes.Interface, name string) string {
	node, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err.Error()
	}
	for _, c := range node.Status.Conditions {
		if c.Type != corev1.NodeReady {
			continue
		}
		if c.Status == corev1.ConditionTrue {
			return answerReady
		}
		return c.Message
	}
	return "has not reported yet"
}

func (r clusterReport) healthy(s status.Status) bool { return r.reason(s) == "" }

// reason is the first thing that is not ready, "" if all is.
func (r clusterReport) reason(s status.Status) string {
	if r.APIServer != answerReady {
		return "API server: " + r.APIServer
	}
	if s.Node != "" && r.Node != answerReady {
		return "node " + s.Node + ": " + r.Node
	}
	for _, c := range r.Components {
		if c.Ready < c.Desired {
			return fmt.Sprintf("%s: %d of %d pods ready", c.Name, c.Ready, c.Desired)
		}
	}
	return ""
}

func (r clusterReport) rows(s status.Status) [][]string {
	rows := [][]string{{"API server", r.APIServer, s.APIServer}}
	if s.Node != "" && r.Node != "" {
		rows = append(rows, []string{"node", r.Node, s.Node})
	}
	for _, c := range r.Components {
		state := answerReady
		if c.Ready < c.Desired {
			state = "not ready"
		}
		rows = append(rows, []string{c.Name, state, fmt.Sprintf("%d/%d pods", c.Ready, c.Desired)})
	}
	if r.Policies > 0 {
		rows = append(rows, []string{"network policies", "not enforced", fmt.Sprintf("%d: all traffic between pods is allowed", r.Policies)})
	}
	return rows
}

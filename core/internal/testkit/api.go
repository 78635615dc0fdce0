package testkit

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

// API is a thin client of the API server, with the admin's certificate, from
// inside the node's namespace: cheap enough to poll with.
type API struct {
	base string
	http *http.Client
}

// kubeconfig is the part of the file that the kit reads.
type kubeconfig struct {
	Clusters []struct {
		Cluster struct {
			Server string `json:"server"`
			CA     []byte `json:"certificate-authority-data"`
		} `json:"cluster"`
	} `json:"clusters"`
	Users []struct {
		User struct {
			Cert []byte `json:"client-certificate-data"`
			Key  []byte `json:"client-key-data"`
		} `json:"user"`
	} `json:"users"`
}

// API returns a client made from the admin's kubeconfig.
func (s *Server) API() (*API, error) {
	raw, err := os.ReadFile(s.Kubeconfig())
	if err != nil {
		return nil, err
	}
	var cfg kubeconfig
	if err := yaml.Unmarshal(raw, &cfg); err != nil {
		return nil, fmt.Errorf("parse %s: %w", s.Kubeconfig(), err)
	}
	if len(cfg.Clusters) != 1 || len(cfg.Users) != 1 {
		return nil, fmt.Errorf("parse %s: %d clusters, %d users", s.Kubeconfig(), len(cfg.Clusters), len(cfg.Users))
	}
	cert, err := tls.X509KeyPair(cfg.Users[0].User.Cert, cfg.Users[0].User.Key)
	if err != nil {
		return nil, fmt.Errorf("client certificate in %s: %w", s.Kubeconfig(), err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(cfg.Clusters[0].Cluster.CA) {
		return nil, fmt.Errorf("no authority in %s", s.Kubeconfig())
	}
	return s.Net.NewAPI(cfg.Clusters[0].Cluster.Server, &tls.Config{
		RootCAs: pool, Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12,
	}), nil
}

// NewAPI is a client of any API server in the node's namespace.
func (n *Network) NewAPI(base string, tls *tls.Config) *API {
	transport := &http.Transport{DialContext: n.Dial, TLSClientConfig: tls, IdleConnTimeout: 5 * time.Second}
	return &API{base: base, http: &http.Client{Transport: transport, Timeout: 15 * time.Second}}
}

// Do sends a request and returns the body of a 2xx answer; JSON by default.
func (a *API) Do(ctx context.Context, method, path, contentType string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, a.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		return answer, fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, bytes.TrimSpace(answer))
	}
	return answer, nil
}

// Get reads an object or a list.
func (a *API) Get(ctx context.Context, path string, into any) error {
	raw, err := a.Do(ctx, http.MethodGet, path, "", nil)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, into)
}

// Meta is the metadata that tests look at.
type Meta struct {
	Name      string            `json:"name"`
	Namespace string            `json:"namespace"`
	UID       string            `json:"uid"`
	Labels    map[string]string `json:"labels"`
	Deleted   string            `json:"deletionTimestamp"`
}

// Condition is one condition of a status.
type Condition struct {
	Type    string `json:"type"`
	Status  string `json:"status"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
	Beat    string `json:"lastHeartbeatTime"` // of a node's conditions
}

// Node is a node as far as tests look at it.
type Node struct {
	Meta Meta `json:"metadata"`
	Spec struct {
		Taints []struct{ Key, Value, Effect string } `json:"taints"`
	} `json:"spec"`
	Status struct {
		Capacity   map[string]string `json:"capacity"`
		Conditions []Condition       `json:"conditions"`
		Addresses  []struct {
			Type    string `json:"type"`
			Address string `json:"address"`
		} `json:"addresses"`
		Info struct {
			Kubelet string `json:"kubeletVersion"`
			Runtime string `json:"containerRuntimeVersion"`
		} `json:"nodeInfo"`
	} `json:"status"`
}

// Pod is a pod as far as tests look at it.
type Pod struct {
	Meta Meta `json:"metadata"`
	Spec struct {
		Node string `json:"nodeName"`
	} `json:"spec"`
	Status struct {
		Phase      string                `json:"phase"`
		Reason     string                `json:"reason"`
		IP         string                `json:"podIP"`
		IPs        []struct{ IP string } `json:"podIPs"`
		Conditions []Condition           `json:"conditions"`
		Containers []ContainerStatus     `json:"containerStatuses"`
	} `json:"status"`
}

// ContainerStatus is the status of one container of a Pod.
type ContainerStatus struct {
	Name      string                    `json:"name"`
	ID        string                    `json:"containerID"`
	Ready     bool                      `json:"ready"`
	Restarts  int                       `json:"restartCount"`
	State     map[string]map[string]any `json:"state"`
	LastState map[string]map[string]any `json:"lastState"`
}

// Ready is nil if the pod is ready, else why not.
func (p Pod) Ready() error {
	if i := slices.IndexFunc(p.Status.Conditions, func(c Condition) bool { return c.Type == "Ready" && c.Status == "True" }); i >= 0 && p.Meta.Deleted == "" {
		return nil
	}
	state, _ := json.Marshal(p.Status.Containers)
	return fmt.Errorf("pod %s/%s is %s %s: %s", p.Meta.Namespace, p.Meta.Name, p.Status.Phase, p.Status.Reason, state)
}

// Pods lists the pods of a namespace, or of all for "", by label selector.
func (a *API) Pods(ctx context.Context, namespace, selector string) ([]Pod, error) {
	path := "/api/v1/pods"
	if namespace != "" {
		path = "/api/v1/namespaces/" + namespace + "/pods"
	}
	var list struct{ Items []Pod }
	err := a.Get(ctx, path+"?labelSelector="+strings.ReplaceAll(selector, "=", "%3D"), &list)
	return list.Items, err
}

// Node returns the only node, and its readiness.
func (a *API) Node(ctx context.Context) (Node, error) {
	var list struct{ Items []Node }
	if err := a.Get(ctx, "/api/v1/nodes", &list); err != nil {
		return Node{}, err
	}
	if len(list.Items) != 1 {
		return Node{}, fmt.Errorf("%d nodes", len(list.Items))
	}
	n := list.Items[0]
	for _, c := range n.Status.Conditions {
		if c.Type == "Ready" {
			if c.Status != "True" {
				return n, fmt.Errorf("node %s: %s: %s", n.Meta.Name, c.Reason, c.Message)
			}
			return n, nil
		}
	}
	return n, fmt.Errorf("node %s has no Ready condition", n.Meta.Name)
}

// errEnded says that waiting is pointless.
var errEnded = errors.New("the server has ended")

// ready makes a client and applies cond with it; the server must be alive.
func (s *Server) ready(ctx context.Context, cond func(context.Context, *API) error) error {
	if !s.Alive() {
		return fmt.Errorf("%w: %s", errEnded, s.Tail(5))
	}
	api, err := s.API()
	if err != nil {
		return err
	}
	defer api.http.CloseIdleConnections()
	return cond(ctx, api)
}

// Await polls cond with a client until it returns nil.
func (s *Server) Await(t testing.TB, within time.Duration, what string, cond func(context.Context, *API) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	err := Poll(ctx, within, what, func(ctx context.Context) error {
		err := s.ready(ctx, cond)
		if errors.Is(err, errEnded) {
			cancel()
		}
		return err
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, s.Tail(25))
	}
}

// WaitAPI waits until the API server says it is ready.
func (s *Server) WaitAPI(t testing.TB, within time.Duration) {
	t.Helper()
	s.Await(t, within, "API server ready", func(ctx context.Context, a *API) error {
		_, err := a.Do(ctx, http.MethodGet, "/readyz", "", nil)
		return err
	})
}

// WaitNode waits until the node is Ready.
func (s *Server) WaitNode(t testing.TB, within time.Duration) {
	t.Helper()
	s.Await(t, within, "node Ready", func(ctx context.Context, a *API) error {
		_, err := a.Node(ctx)
		return err
	})
}

// WaitPods waits until count pods of the selector are ready and returns them.
func (s *Server) WaitPods(t testing.TB, within time.Duration, namespace, selector string, count int) []Pod {
	t.Helper()
	var pods []Pod
	s.Await(t, within, fmt.Sprintf("%d ready pods %s in %s", count, selector, namespace), func(ctx context.Context, a *API) (err error) {
		if pods, err = a.Pods(ctx, namespace, selector); err != nil {
			return err
		}
		for _, p := range pods {
			if err := p.Ready(); err != nil {
				return err
			}
		}
		if len(pods) != count {
			return fmt.Errorf("%d pods", len(pods))
		}
		return nil
	})
	return pods
}

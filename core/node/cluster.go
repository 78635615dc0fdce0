package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kelson-io/kelson/core/pki"
)

// readyPoll is how often the Node object is looked at while the boot waits.
const readyPoll = 100 * time.Millisecond

// restConfig is the host's own access to the cluster. The rate limit is raised:
// the boot makes its few dozen requests at once.
func (s *server) restConfig() (*rest.Config, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", pki.KubeconfigSupervisor.File(s.layout))
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	cfg.QPS, cfg.Burst = 200, 400
	return cfg, nil
}

// answering waits until the API server completes a handshake, which is about a
// second before it is ready: until then it needs the processors, and after that
// it leaves them idle. Connections wait in the listener meanwhile.
func (s *server) answering(ctx context.Context) error {
	ca, err := os.ReadFile(pki.ServerCA.CertFile(s.layout))
	if err != nil {
		return fmt.Errorf("read authority: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	dialer := tls.Dialer{Config: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	conn, err := dialer.DialContext(ctx, "tcp", strings.TrimPrefix(s.localURL(), "https://"))
	if err != nil {
		return fmt.Errorf("wait for the API server: %w", err)
	}
	return conn.Close()
}

// awaitNode waits for what was launched of the node, and until its object says
// Ready and its images are there; the error is the last reason why not.
func (s *server) awaitNode(ctx context.Context) error {
	for _, l := range []*launched{s.containerd, s.network, s.kubelet} {
		if err := l.await(ctx); err != nil {
			return err
		}
	}
	client, err := s.client()
	if err != nil {
		return fmt.Errorf("make client: %w", err)
	}
	last := errors.New("the node has not registered yet")
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for {
		node, err := client.CoreV1().Nodes().Get(ctx, s.info.Name, metav1.GetOptions{})
		if err == nil {
			err = notReady(node, s.watch.startedAt())
		}
		if err == nil {
			s.log.Info("node is ready", "node", s.info.Name)
			return s.images.await(ctx)
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return s.explain(last)
		case <-tick.C:
		}
	}
}

// explain adds why the node child last ended, which is usually the cause.
func (s *server) explain(last error) error {
	if reason := s.child.LastReason(); reason != "" {
		return fmt.Errorf("%w; kubelet last ended: %s", last, reason)
	}
	return last
}

// notReady returns why the node is not ready. What kubelet said before since,
// in an earlier run, does not count; heartbeats are in whole seconds.
func notReady(node *corev1.Node, since time.Time) error {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			if c.LastHeartbeatTime.Time.Before(since.Truncate(time.Second)) {
				return fmt.Errorf("node %s: kubelet has not reported since %s", node.Name, c.LastHeartbeatTime)
			}
			if c.Status == corev1.ConditionTrue {
				return nil
			}
			return fmt.Errorf("node %s: %s: %s", node.Name, c.Reason, c.Message)
		}
	}
	return fmt.Errorf("node %s has no status yet", node.Name)
}

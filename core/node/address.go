package node

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/kelson-io/kelson/core/agent"
)

// moveDeadline bounds what is done when the node's address has changed.
const moveDeadline = 30 * time.Second

// latest holds the node's addresses, which may change while the server runs.
type latest struct {
	mu  sync.Mutex
	ips []netip.Addr
}

func (l *latest) set(ips []netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ips = slices.Clone(ips)
}

func (l *latest) first() netip.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ips[0]
}

// advertised is where pods reach the API server.
func (s *server) advertised() netip.Addr {
	if a := s.config.API.AdvertiseAddress; a.IsValid() {
		return a
	}
	return s.addresses.first()
}

// certified are the addresses in this server's certificates.
func (p *prepared) certified(ips []netip.Addr) []netip.Addr {
	return slices.Concat(ips, p.config.Node.ExternalIP)
}

// moved follows a change of the node's addresses: the serving certificates name
// the new ones, and the Service kubernetes leads there. The API server runs on;
// kubelet is restarted by the caller afterwards.
func (s *server) moved(info agent.NodeInfo) {
	s.addresses.set(info.IPs)
	if err := s.identity.certs.SetNodeIPs(s.certified(info.IPs)); err != nil {
		s.log.Error("issue certificates for the node's new address", "err", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), moveDeadline)
	defer cancel()
	if err := s.endpoint.Ready(ctx); err != nil {
		s.log.Error("follow the node's new address", "err", err)
	}
}

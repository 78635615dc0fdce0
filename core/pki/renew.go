package pki

import (
	"context"
	"slices"
	"time"
)

// authorityWarning is how long before its end an authority is mentioned in the
// log: it is never renewed by itself.
const authorityWarning = 120 * 24 * time.Hour

// Renewer renews certificates in the running process. kube-apiserver and
// kubelet read their serving files again, and client-go its client files, so
// that nothing has to be restarted.
type Renewer struct {
	Store    *Store
	Interval time.Duration        // default 30 minutes
	Renewed  func(renewed []Leaf) // optional; called after each round that issued something
}

// Renew checks at every interval until ctx ends, and returns its cause. A
// failed round is logged and tried again at the next.
func (r *Renewer) Renew(ctx context.Context) error {
	interval := r.Interval
	if interval <= 0 {
		interval = 30 * time.Minute
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
		renewed, err := r.Store.renew()
		if err != nil {
			r.Store.cfg.Log.Error("renew certificates", "err", err)
		}
		if len(renewed) > 0 && r.Renewed != nil {
			r.Renewed(renewed)
		}
	}
}

// renew is one round.
func (s *Store) renew() ([]Leaf, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range Authorities() {
		if a := s.authorities[name]; a != nil && a.cert.NotAfter.Sub(s.cfg.Now()) < authorityWarning {
			s.cfg.Log.Warn("authority nears its end: replace it with kelson certificate rotate-ca", "authority", string(name), "notAfter", stamp(a.cert.NotAfter))
		}
	}
	issued, err := s.ensureLeaves()
	if err != nil {
		return issued, err
	}
	if slices.Contains(issued, ClientAdmin) && s.server != "" {
		return issued, s.adminKubeconfig()
	}
	return issued, nil
}

package flannel

import (
	"context"
	"errors"
	"sync"

	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/lease"
	"github.com/flannel-io/flannel/pkg/subnet"
)

var errUnsupported = errors.New("not supported by the host's subnet manager")

// manager is flannel's view of the cluster, over what the host delivers: the
// node's ranges are known from the start, the other nodes come as events.
//
// Events are only ever sent by the session, one batch after the other.
type manager struct {
	config subnet.Config
	own    lease.Lease // without attributes
	events chan []lease.Event

	mu    sync.Mutex
	attrs lease.LeaseAttrs // of this node, once the backend has told them
}

var _ subnet.Manager = (*manager)(nil)

func newManager(config subnet.Config, own lease.Lease) *manager {
	return &manager{config: config, own: own, events: make(chan []lease.Event)}
}

// published are this node's attributes, as the other nodes need them.
func (m *manager) published() lease.LeaseAttrs {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.attrs
}

// GetNetworkConfig implements subnet.Manager.
func (m *manager) GetNetworkConfig(context.Context) (*subnet.Config, error) {
	config := m.config
	return &config, nil
}

// AcquireLease implements subnet.Manager: the range was given by the host.
func (m *manager) AcquireLease(_ context.Context, attrs *lease.LeaseAttrs) (*lease.Lease, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.attrs = *attrs
	own := m.own
	own.Attrs = *attrs
	return &own, nil
}

// WatchLeases implements subnet.Manager. As flannel's own managers do, it closes
// the channel at its end: the backends wait for that.
func (m *manager) WatchLeases(ctx context.Context, receiver chan []lease.LeaseWatchResult) error {
	defer close(receiver)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case events := <-m.events:
			select {
			case <-ctx.Done():
				return ctx.Err()
			case receiver <- []lease.LeaseWatchResult{{Events: events}}:
			}
		}
	}
}

// GetStoredMacAddresses implements subnet.Manager: with none, a device that is
// there keeps its address, and a new one gets one that is published anew. When
// the backend makes a device again that somebody has removed, it is given the
// address that the other nodes know.
func (m *manager) GetStoredMacAddresses(context.Context) (v4, v6 string) {
	attrs := m.published()
	if mac, err := vtepMAC(attrs.BackendData); err == nil {
		v4 = mac.String()
	}
	if mac, err := vtepMAC(attrs.BackendV6Data); err == nil {
		v6 = mac.String()
	}
	return v4, v6
}

// GetStoredPublicIP implements subnet.Manager.
func (*manager) GetStoredPublicIP(context.Context) (v4, v6 string) { return "", "" }

// RenewLease implements subnet.Manager.
func (*manager) RenewLease(context.Context, *lease.Lease) error { return nil }

// WatchLease implements subnet.Manager.
func (*manager) WatchLease(context.Context, ip.IP4Net, ip.IP6Net, chan []lease.LeaseWatchResult) error {
	return errUnsupported
}

// CompleteLease implements subnet.Manager.
func (*manager) CompleteLease(context.Context, *lease.Lease, *sync.WaitGroup) error { return nil }

// HandleSubnetFile implements subnet.Manager: nobody reads such a file here.
func (*manager) HandleSubnetFile(string, *subnet.Config, bool, ip.IP4Net, ip.IP6Net, int) error {
	return nil
}

// Name implements subnet.Manager.
func (*manager) Name() string { return "kelson" }

// Package ipam hands out pod addresses from the host's address store.
//
// The store is a folder in the format of the standard plugin host-local: one
// file per address, named like it, with the container id and the interface; the
// last address given of each range in last_reserved_ip.<n>; a lock. All network
// plugins of a node use the same one (Setup.IPAMDir, network name [Network]), so
// that a change of plugin hands no address out twice, and the standard plugins
// themselves may use it too: as host-local with dataDir Setup.IPAMDir.
//
// Invariants: an address belongs to one attachment at most; the first address of
// a range is the gateway and never given; addresses are reused as late as
// possible. An attachment that has addresses already gets the same again.
//
// A Store may be used concurrently, also by several processes.
package ipam

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/plugins/plugins/ipam/host-local/backend/disk"

	"github.com/kelson-io/kelson/sdk/cni"
)

// Network is the network name under which addresses are kept.
const Network = "kelson"

// ErrExhausted is the error when a range has no address left.
var ErrExhausted = errors.New("no address left")

// Store is the address store of a node.
type Store struct {
	parent string
	ranges []netip.Prefix
}

// Address is an address with what belongs to it.
type Address struct {
	Prefix  netip.Prefix // the address, with the length of the range
	Gateway netip.Addr
}

// Lease is an address that is given out.
type Lease struct {
	Address    netip.Addr
	Attachment cni.Attachment // IfName is empty in files of very old versions; all is after a crash
}

// Open opens the store below dir, giving from the ranges; an attachment gets an
// address of each. It makes the folder if needed.
func Open(dir string, ranges []netip.Prefix) (*Store, error) {
	if dir == "" {
		return nil, errors.New("open address store: no folder")
	}
	s := &Store{parent: dir}
	for _, r := range ranges {
		if free := r.Addr().BitLen() - r.Bits(); !r.IsValid() || free < 2 {
			return nil, fmt.Errorf("open address store: range %s has no room", r)
		}
		s.ranges = append(s.ranges, r.Masked())
	}
	return s, os.MkdirAll(s.dir(), 0o700)
}

func (s *Store) dir() string { return filepath.Join(s.parent, Network) }

// Gateway is the gateway of a range: its first address.
func Gateway(r netip.Prefix) netip.Addr { return r.Masked().Addr().Next() }

// Allocate gives the attachment an address of each range, in their order. wanted
// may name the ones to give. On an error it gives none.
func (s *Store) Allocate(a cni.Attachment, wanted ...netip.Addr) (out []Address, err error) {
	err = s.locked(func(d *disk.Store) error {
		leases, err := s.read()
		if err != nil {
			return err
		}
		var given []netip.Addr
		for i, r := range s.ranges {
			address, fresh, err := s.one(d, a, i, leases, wanted)
			if err != nil {
				for _, back := range given {
					os.Remove(filepath.Join(s.dir(), back.String()))
				}
				return fmt.Errorf("address of %s for %s: %w", r, a.ContainerID, err)
			}
			if fresh {
				given = append(given, address)
			}
			out = append(out, Address{netip.PrefixFrom(address, r.Bits()), Gateway(r)})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// one gives an address of one range; fresh unless the attachment had it.
func (s *Store) one(d *disk.Store, a cni.Attachment, index int, leases map[netip.Addr]Lease, wanted []netip.Addr) (address netip.Addr, fresh bool, err error) {
	r := s.ranges[index]
	for have, lease := range leases {
		if r.Contains(have) && lease.Attachment == a {
			return have, false, nil
		}
	}
	reserve := func(address netip.Addr) (bool, error) {
		return d.Reserve(a.ContainerID, a.IfName, net.IP(address.AsSlice()), strconv.Itoa(index))
	}
	for _, want := range wanted {
		if !r.Contains(want) {
			continue
		}
		if want == Gateway(r) || want == r.Addr() || want == last(r).Next() {
			return want, false, fmt.Errorf("%s cannot be given", want)
		}
		ok, err := reserve(want)
		if err == nil && !ok {
			err = fmt.Errorf("%s is taken", want)
		}
		return want, true, err
	}
	first := Gateway(r).Next()
	next := first
	if ip, err := d.LastReservedIP(strconv.Itoa(index)); err == nil {
		if before, ok := netip.AddrFromSlice(ip); ok && r.Contains(before.Unmap()) {
			next = before.Unmap().Next()
		}
	}
	for range len(leases) + 3 { // one more than can be taken, and a turn at either end
		if !r.Contains(next) || last(r).Less(next) {
			next = first
		}
		if _, taken := leases[next]; !taken && next != Gateway(r) && next != r.Addr() {
			ok, err := reserve(next)
			if ok || err != nil {
				return next, true, err
			}
		}
		next = next.Next()
	}
	return next, false, ErrExhausted
}

// last is the last address of a range that is given: the one before the
// broadcast address in IPv4.
func last(r netip.Prefix) netip.Addr {
	raw := r.Masked().Addr().AsSlice()
	for bit := r.Bits(); bit < len(raw)*8; bit++ {
		raw[bit/8] |= 1 << (7 - bit%8)
	}
	end, _ := netip.AddrFromSlice(raw)
	if end.Is4() {
		return end.Prev()
	}
	return end
}

// Release takes back what the attachment has. It may have nothing.
func (s *Store) Release(a cni.Attachment) error {
	return s.locked(func(d *disk.Store) error { return d.ReleaseByID(a.ContainerID, a.IfName) })
}

// List returns what is given out, by address.
func (s *Store) List() ([]Lease, error) {
	var out []Lease
	err := s.locked(func(*disk.Store) error {
		leases, err := s.read()
		out = sorted(leases)
		return err
	})
	return out, err
}

// Collect takes back what belongs to none of the valid attachments, also files
// that a crash left without an owner, and returns it. valid must name the
// attachments of all plugins.
func (s *Store) Collect(valid []cni.Attachment) (removed []Lease, err error) {
	keep := map[cni.Attachment]bool{}
	for _, a := range valid {
		keep[a] = true
		keep[cni.Attachment{ContainerID: a.ContainerID}] = true // of very old versions
	}
	err = s.locked(func(*disk.Store) error {
		leases, err := s.read()
		if err != nil {
			return err
		}
		for _, lease := range sorted(leases) {
			if keep[lease.Attachment] {
				continue
			}
			if err := os.Remove(filepath.Join(s.dir(), lease.Address.String())); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
			removed = append(removed, lease)
		}
		return nil
	})
	return removed, err
}

// locked runs f with the store's lock, which host-local takes too. Each call has
// a descriptor of its own: flock keeps those apart, in one process as in many.
func (s *Store) locked(f func(*disk.Store) error) error {
	d, err := disk.New(Network, s.parent)
	if err != nil {
		return fmt.Errorf("address store: %w", err)
	}
	if err := d.Lock(); err != nil {
		return errors.Join(fmt.Errorf("lock address store: %w", err), d.Close())
	}
	err = f(d)
	return errors.Join(err, d.Unlock(), d.Close())
}

// read reads all files whose names are addresses.
func (s *Store) read() (map[netip.Addr]Lease, error) {
	entries, err := os.ReadDir(s.dir())
	if err != nil {
		return nil, err
	}
	out := map[netip.Addr]Lease{}
	for _, e := range entries {
		address, err := netip.ParseAddr(e.Name())
		if err != nil {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(s.dir(), e.Name()))
		if err != nil {
			return nil, err
		}
		id, ifname, _ := strings.Cut(strings.TrimSpace(string(raw)), "\n")
		out[address] = Lease{address, cni.Attachment{ContainerID: strings.TrimSpace(id), IfName: strings.TrimSpace(ifname)}}
	}
	return out, nil
}

func sorted(leases map[netip.Addr]Lease) []Lease {
	out := make([]Lease, 0, len(leases))
	for _, l := range leases {
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b Lease) int { return a.Address.Compare(b.Address) })
	return out
}

// IPConfigs are the addresses as a part of a CNI result, on its interface of the
// given index.
func IPConfigs(addresses []Address, interfaceIndex int) []*types100.IPConfig {
	var out []*types100.IPConfig
	for _, a := range addresses {
		out = append(out, &types100.IPConfig{
			Interface: new(interfaceIndex),
			Address:   net.IPNet{IP: a.Prefix.Addr().AsSlice(), Mask: net.CIDRMask(a.Prefix.Bits(), a.Prefix.Addr().BitLen())},
			Gateway:   a.Gateway.AsSlice(),
		})
	}
	return out
}

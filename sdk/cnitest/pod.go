package cnitest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os/exec"
	"testing"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/kelson-io/kelson/sdk/cni"
	"github.com/kelson-io/kelson/sdk/cni/frame"
	"github.com/kelson-io/kelson/sdk/cni/ipam"
)

const (
	ifname   = "eth0"
	plugName = "judged"
	latest   = "1.1.0"
)

// pod is a network namespace with what it was attached by.
type pod struct {
	*namespace

	id        string
	version   string
	raw       json.RawMessage // result
	addresses []netip.Addr
}

// newPod makes a pod that is not attached.
func (k *kit) newPod(t *testing.T, version string) *pod {
	t.Helper()
	n, err := newNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.close)
	k.pods++
	p := &pod{namespace: n, id: fmt.Sprintf("%064x", k.pods), version: version}
	if err := n.name(k.path("netns/" + p.id)); err != nil {
		t.Fatal(err)
	}
	return p
}

// path is the value of CNI_NETNS.
func (p *pod) path() string { return p.link }

func (p *pod) attachment() cni.Attachment { return cni.Attachment{ContainerID: p.id, IfName: ifname} }

func (p *pod) env(command, netns string) []string {
	return []string{
		"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + p.id, "CNI_IFNAME=" + ifname, "CNI_NETNS=" + netns,
		"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=p" + p.id[56:], "CNI_PATH=",
	}
}

// conf is what the container runtime gives on standard input.
func (k *kit) conf(version string, more map[string]any) []byte {
	c := map[string]any{
		"cniVersion": version, "name": ipam.Network, "type": "kelson-cni",
		"kelson": map[string]string{"socket": k.setup.GetSocket(), "records": k.path("attachments"), "journal": k.path("journal"), "plugin": plugName},
	}
	maps.Copy(c, more)
	raw, _ := json.Marshal(c) // of strings and valid JSON
	return raw
}

func (p *pod) previous() map[string]any {
	if p.raw == nil {
		return nil
	}
	return map[string]any{"prevResult": p.raw}
}

// ask sends one frame to the attachment socket.
func (k *kit) ask(r *frame.Request) (*frame.Reply, error) {
	raw, err := r.Append(nil)
	if err != nil {
		return nil, err
	}
	return k.send(raw)
}

func (k *kit) send(raw []byte) (*frame.Reply, error) {
	conn, err := net.Dial("unix", k.setup.GetSocket())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(callTime)); err != nil {
		return nil, err
	}
	if _, err := conn.Write(raw); err != nil {
		return nil, err
	}
	return frame.ReadReply(conn)
}

// operate does one operation on the pod by a frame.
func (k *kit) operate(p *pod, verb frame.Verb, netns string) (*frame.Reply, error) {
	return k.ask(&frame.Request{
		Verb: verb, Deadline: callTime, Env: p.env(verb.String(), netns), Stdin: k.conf(p.version, p.previous()),
	})
}

// shim does one operation on the pod by the program kelson-cni.
func (k *kit) shim(p *pod, command, netns string) (out []byte, err error) {
	c := exec.Command(k.Shim)
	c.Env = p.env(command, netns)
	c.Stdin = bytes.NewReader(k.conf(p.version, p.previous()))
	return c.Output()
}

// failed is the error object of a reply.
func failed(r *frame.Reply) error {
	if !r.Failed {
		return nil
	}
	return fmt.Errorf("code %d: %s", errorCode(r.JSON), r.JSON)
}

func errorCode(object []byte) cni.Code {
	var e struct {
		Code cni.Code `json:"code"`
	}
	if json.Unmarshal(object, &e) != nil {
		return 0
	}
	return e.Code
}

// add attaches the pod, by the shim if via is true.
func (k *kit) add(p *pod, via bool) error {
	if via && k.Shim != "" {
		out, err := k.shim(p, "ADD", p.path())
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		p.raw = out
	} else {
		reply, err := k.operate(p, frame.Add, p.path())
		if err != nil {
			return err
		}
		if err := failed(reply); err != nil {
			return err
		}
		p.raw = reply.JSON
	}
	return k.judgeResult(p)
}

// judgeResult holds the result against the specification and the pod.
func (k *kit) judgeResult(p *pod) error {
	parsed, err := types100.NewResult(p.raw)
	if err != nil {
		return fmt.Errorf("result %s: %w", p.raw, err)
	}
	result, err := types100.GetResult(parsed)
	if err != nil {
		return err
	}
	if parsed.Version() != p.version {
		return fmt.Errorf("result has cniVersion %s, asked for %s", parsed.Version(), p.version)
	}
	inside := map[string]bool{}
	err = p.do(func() error {
		link, err := net.InterfaceByName(ifname)
		if err != nil {
			return fmt.Errorf("interface %s in the pod: %w", ifname, err)
		}
		addresses, err := link.Addrs()
		for _, a := range addresses {
			inside[a.String()] = true
		}
		return err
	})
	if err != nil {
		return err
	}
	p.addresses = nil
	for _, ip := range result.IPs {
		address, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok {
			return fmt.Errorf("result has a bad address %v", ip.Address)
		}
		if !inside[ip.Address.String()] {
			return fmt.Errorf("result has address %s, the pod has %v", ip.Address.String(), inside)
		}
		p.addresses = append(p.addresses, address.Unmap())
	}
	for _, r := range k.PodCIDRs {
		if p.in(r) == (netip.Addr{}) {
			return fmt.Errorf("result has no address of %s: %v", r, p.addresses)
		}
	}
	return nil
}

// in is the pod's address of a range.
func (p *pod) in(r netip.Prefix) netip.Addr {
	for _, a := range p.addresses {
		if r.Contains(a) {
			return a
		}
	}
	return netip.Addr{}
}

// del detaches the pod by a frame.
func (k *kit) del(p *pod, netns string) error {
	reply, err := k.operate(p, frame.Del, netns)
	if err != nil {
		return err
	}
	return failed(reply)
}

// detach is del, by the shim if there is one.
func (k *kit) detach(p *pod) error {
	if k.Shim == "" {
		return k.del(p, p.path())
	}
	out, err := k.shim(p, "DEL", p.path())
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// attached is a new pod that is attached and has been reached.
func (k *kit) attached(t *testing.T) *pod {
	t.Helper()
	p := k.newPod(t, latest)
	if err := k.add(p, false); err != nil {
		t.Fatalf("ADD: %v", err)
	}
	k.reaches(t, p, k.gateways()...)
	return p
}

// drop detaches a pod in the end, without judging.
func (k *kit) drop(t *testing.T, pods ...*pod) {
	t.Helper()
	for _, p := range pods {
		if err := k.del(p, p.path()); err != nil {
			t.Logf("DEL: %v", err)
		}
		p.close()
	}
}

func (k *kit) gateways() (out []netip.Addr) {
	for _, r := range k.PodCIDRs {
		out = append(out, ipam.Gateway(r))
	}
	return out
}

// reaches pings, until the pod's addresses have become usable.
func (k *kit) reaches(t *testing.T, p *pod, to ...netip.Addr) {
	t.Helper()
	for _, address := range to {
		sequence := uint16(0)
		k.eventually(t, func() error {
			sequence++
			return p.ping(address, sequence, 500*time.Millisecond)
		})
	}
}

// holds fails unless exactly the pods have addresses, as far as the plugin uses
// the host's store.
func (k *kit) holds(pods ...*pod) error {
	leases, err := k.store.List()
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range leases {
		known := false
		for _, p := range pods {
			known = known || l.Attachment == p.attachment()
		}
		if !known {
			errs = append(errs, fmt.Errorf("address %s still belongs to %q", l.Address, l.Attachment.ContainerID))
		}
	}
	return errors.Join(errs...)
}

// clean fails while there are other links than those, or any addresses.
func (k *kit) clean(links []string) error {
	now, err := k.links()
	if err != nil {
		return err
	}
	return errors.Join(sameNames(links, now), k.holds())
}

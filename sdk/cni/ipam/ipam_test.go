package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/kelson-io/kelson/sdk/cni"
)

func open(t *testing.T, ranges ...string) *Store {
	t.Helper()
	return openIn(t, t.TempDir(), ranges...)
}

func openIn(t *testing.T, dir string, ranges ...string) *Store {
	t.Helper()
	var list []netip.Prefix
	for _, r := range ranges {
		list = append(list, netip.MustParsePrefix(r))
	}
	s, err := Open(dir, list)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func attachment(id string) cni.Attachment { return cni.Attachment{ContainerID: id, IfName: "eth0"} }

func texts(addresses []Address) []string {
	var out []string
	for _, a := range addresses {
		out = append(out, a.Prefix.String()+" via "+a.Gateway.String())
	}
	return out
}

func TestAllocate(t *testing.T) {
	s := open(t, "10.42.3.0/29", "fd00:42:0:3::/64")
	one, err := s.Allocate(attachment("one"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := texts(one), []string{"10.42.3.2/29 via 10.42.3.1", "fd00:42:0:3::2/64 via fd00:42:0:3::1"}; !slices.Equal(got, want) {
		t.Fatalf("got %v", got)
	}
	again, err := s.Allocate(attachment("one"))
	if err != nil || !slices.Equal(texts(again), texts(one)) {
		t.Errorf("again: %v, %v", texts(again), err)
	}
	other, err := s.Allocate(cni.Attachment{ContainerID: "one", IfName: "eth1"})
	if err != nil || texts(other)[0] != "10.42.3.3/29 via 10.42.3.1" {
		t.Errorf("other interface: %v, %v", texts(other), err)
	}
	// The files are host-local's.
	raw, err := os.ReadFile(filepath.Join(s.dir(), "10.42.3.2"))
	if err != nil || string(raw) != "one\r\neth0" {
		t.Errorf("file %q, %v", raw, err)
	}
	raw, err = os.ReadFile(filepath.Join(s.dir(), "last_reserved_ip.1"))
	if err != nil || string(raw) != "fd00:42:0:3::3" {
		t.Errorf("last %q, %v", raw, err)
	}
}

func TestReuseIsLate(t *testing.T) {
	s := open(t, "10.0.0.0/29") // .2 to .6
	for _, want := range []string{"2", "3", "4", "5", "6", "2", "3"} {
		got, err := s.Allocate(attachment("x"))
		if err != nil || got[0].Prefix.Addr().String() != "10.0.0."+want {
			t.Fatalf("got %v, %v, want .%s", got, err, want)
		}
		if err := s.Release(attachment("x")); err != nil {
			t.Fatal(err)
		}
	}
}

func TestExhausted(t *testing.T) {
	s := open(t, "10.0.0.0/24", "10.0.1.0/29")
	for i := range 5 {
		if _, err := s.Allocate(attachment(fmt.Sprint(i))); err != nil {
			t.Fatal(i, err)
		}
	}
	if _, err := s.Allocate(attachment("late")); !errors.Is(err, ErrExhausted) {
		t.Fatalf("full: %v", err)
	}
	list, err := s.List()
	if err != nil || len(list) != 10 {
		t.Fatalf("%d leases, %v: what was given of the first range is kept", len(list), err)
	}
	if err := s.Release(attachment("3")); err != nil {
		t.Fatal(err)
	}
	got, err := s.Allocate(attachment("late"))
	if err != nil || got[1].Prefix.Addr().String() != "10.0.1.5" {
		t.Fatalf("after a release: %v, %v", got, err)
	}
}

func TestWanted(t *testing.T) {
	s := open(t, "10.0.0.0/24")
	got, err := s.Allocate(attachment("a"), netip.MustParseAddr("10.0.0.77"))
	if err != nil || got[0].Prefix.Addr().String() != "10.0.0.77" {
		t.Fatalf("%v, %v", got, err)
	}
	for _, bad := range []string{"10.0.0.77", "10.0.0.1", "10.0.0.0", "10.0.0.255"} {
		if got, err := s.Allocate(attachment("b"), netip.MustParseAddr(bad)); err == nil {
			t.Errorf("%s was given: %v", bad, got)
		}
	}
}

func TestConcurrent(t *testing.T) {
	dir := t.TempDir()
	var mu sync.Mutex
	owners := map[netip.Addr]string{}
	var wg sync.WaitGroup
	for i := range 40 {
		s := openIn(t, dir, "10.0.0.0/24") // as many processes would
		wg.Go(func() {
			id := fmt.Sprint(i)
			got, err := s.Allocate(attachment(id))
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if other, taken := owners[got[0].Prefix.Addr()]; taken {
				t.Errorf("%s given to %s and %s", got[0].Prefix, other, id)
			}
			owners[got[0].Prefix.Addr()] = id
		})
	}
	wg.Wait()
}

func TestCollect(t *testing.T) {
	s := open(t, "10.0.0.0/24")
	for _, id := range []string{"keep", "gone", "old"} {
		if _, err := s.Allocate(attachment(id)); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"10.0.0.99": "",        // killed between the file and its content
		"10.9.9.9":  "gone2\r", // of another range; of a version without interfaces
		"10.0.0.50": "keep",    // likewise
	} {
		if err := os.WriteFile(filepath.Join(s.dir(), name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	removed, err := s.Collect([]cni.Attachment{attachment("keep"), attachment("old"), attachment("none")})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range removed {
		got = append(got, l.Address.String()+" "+l.Attachment.ContainerID)
	}
	if want := []string{"10.0.0.3 gone", "10.0.0.99 ", "10.9.9.9 gone2"}; !slices.Equal(got, want) {
		t.Errorf("removed %q", got)
	}
	list, err := s.List()
	if err != nil || len(list) != 3 {
		t.Errorf("left %v, %v", list, err)
	}
	// The round goes on where it was.
	next, err := s.Allocate(attachment("next"))
	if err != nil || next[0].Prefix.Addr().String() != "10.0.0.5" {
		t.Errorf("next %v, %v", next, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, bad := range []string{"10.0.0.0/31", "fd00::/127", "10.0.0.1/32"} {
		if _, err := Open(t.TempDir(), []netip.Prefix{netip.MustParsePrefix(bad)}); err == nil {
			t.Errorf("%s has no room", bad)
		}
	}
	if _, err := Open("", nil); err == nil {
		t.Error("no folder")
	}
}

func BenchmarkAllocate(b *testing.B) {
	s, err := Open(b.TempDir(), []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")})
	if err != nil {
		b.Fatal(err)
	}
	for i := range 110 {
		if _, err := s.Allocate(attachment(fmt.Sprint("pod", i))); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if _, err := s.Allocate(attachment("x")); err != nil {
			b.Fatal(err)
		}
		if err := s.Release(attachment("x")); err != nil {
			b.Fatal(err)
		}
	}
}

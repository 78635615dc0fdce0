package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/datadir"
)

// memory is a KV that can be told to fail.
type memory struct {
	mu    sync.Mutex
	data  map[string]KeyValue
	rev   int64
	calls int
	fail  func(call int) (before, after bool)
}

func newMemory() *memory { return &memory{data: map[string]KeyValue{}} }

var errKilled = errors.New("killed")

// do runs one operation, which may be cut off before or after it takes effect.
func (m *memory) do(op func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls++
	var before, after bool
	if m.fail != nil {
		before, after = m.fail(m.calls)
	}
	if before {
		return errKilled
	}
	err := op()
	if after {
		return errKilled
	}
	return err
}

func (m *memory) Get(_ context.Context, key string) (value []byte, rev int64, err error) {
	err = m.do(func() error { value, rev = m.data[key].Value, m.data[key].Rev; return nil })
	return value, rev, err
}

func (m *memory) Create(_ context.Context, key string, value []byte) error {
	return m.do(func() error {
		if _, ok := m.data[key]; ok {
			return ErrExists
		}
		m.rev++
		m.data[key] = KeyValue{Key: key, Value: value, Rev: m.rev}
		return nil
	})
}

func (m *memory) Update(_ context.Context, key string, value []byte, rev int64) error {
	return m.do(func() error {
		if m.data[key].Rev != rev || rev == 0 {
			return ErrConflict
		}
		m.rev++
		m.data[key] = KeyValue{Key: key, Value: value, Rev: m.rev}
		return nil
	})
}

func (m *memory) List(_ context.Context, prefix string) ([]KeyValue, error) {
	var out []KeyValue
	err := m.do(func() error {
		for _, key := range slices.Sorted(maps.Keys(m.data)) {
			if strings.HasPrefix(key, prefix) {
				out = append(out, m.data[key])
			}
		}
		return nil
	})
	return out, err
}

var testFiles = []string{"tls/ca.crt", "tls/ca.key", EncryptionFile}

func testStore(kv KV, l datadir.Layout, password string, change ...func(*StoreConfig)) *Store {
	cfg := StoreConfig{KV: kv, Layout: l, Token: Token{Password: password}, Files: testFiles, Exclusive: true}
	cfg.Key = func() (*Key, error) { return cheapKey(password), nil }
	for _, f := range change {
		f(&cfg)
	}
	return NewStore(cfg)
}

// makeFiles makes what a first start makes; existing files are kept.
func makeFiles(t testing.TB, l datadir.Layout, seed string) {
	t.Helper()
	for _, name := range testFiles {
		if _, err := os.Stat(l.Server(name)); err != nil {
			put(t, l.Server(name), seed+" "+name)
		}
	}
}

// start is what a server's boot does.
func start(t testing.TB, s *Store, seed string) (Loaded, error) {
	t.Helper()
	got, err := s.Load(t.Context())
	if err != nil {
		return got, err
	}
	makeFiles(t, s.cfg.Layout, seed)
	return got, s.Save(t.Context())
}

func mustStart(t testing.TB, s *Store, seed string) Loaded {
	t.Helper()
	got, err := start(t, s, seed)
	if err != nil {
		t.Fatalf("start: %v (%s)", err, config.Hint(err))
	}
	return got
}

func TestStoreLife(t *testing.T) {
	kv, l := newMemory(), testLayout(t)
	if got := mustStart(t, testStore(kv, l, "pw"), "first"); !got.New {
		t.Errorf("first start: %+v", got)
	}
	if len(kv.data) != 1 || kv.data["/bootstrap/"+fingerprint("pw")].Rev == 0 {
		t.Fatalf("keys %v", slices.Collect(maps.Keys(kv.data)))
	}
	rev := kv.rev

	// A restart reads once, derives no key, and writes nothing.
	kv.calls = 0
	s := testStore(kv, l, "pw", func(c *StoreConfig) {
		c.Key = func() (*Key, error) { t.Error("a key was derived"); return nil, nil }
	})
	if got := mustStart(t, s, "second"); got.New || len(got.Restored) > 0 || kv.rev != rev || kv.calls != 1 {
		t.Errorf("restart: %+v, revision %d → %d, %d calls", got, rev, kv.rev, kv.calls)
	}

	// A second server gets everything.
	other := testLayout(t)
	if got := mustStart(t, testStore(kv, other, "pw"), "other"); !slices.Equal(got.Restored, sorted(testFiles)) || kv.rev != rev {
		t.Errorf("second server: %+v", got)
	}
	for _, name := range testFiles {
		if a, b := get(t, l.Server(name)), get(t, other.Server(name)); a != b {
			t.Errorf("%s: %q, %q", name, a, b)
		}
		a, errA := os.Stat(l.Server(name))
		b, errB := os.Stat(other.Server(name))
		if errA != nil || errB != nil || !a.ModTime().Equal(b.ModTime()) || b.Mode().Perm() != 0o600 {
			t.Errorf("%s: time or mode is not restored", name)
		}
	}

	// Files lost or emptied come back.
	if err := os.Remove(l.Server("tls/ca.key")); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(l.Server("tls/ca.crt"), 0); err != nil {
		t.Fatal(err)
	}
	if got := mustStart(t, testStore(kv, l, "pw"), "x"); !slices.Equal(got.Restored, []string{"tls/ca.crt", "tls/ca.key"}) {
		t.Errorf("restored %v", got.Restored)
	}
	if get(t, l.Server("tls/ca.key")) != "first tls/ca.key" {
		t.Error("the file was not restored")
	}
}

func sorted(s []string) []string { return slices.Sorted(slices.Values(s)) }

// TestAddedEntries: a later version has more files.
func TestAddedEntries(t *testing.T) {
	kv, l := newMemory(), testLayout(t)
	mustStart(t, testStore(kv, l, "pw"), "first")
	put(t, l.Server("tls/new.key"), "new")
	more := func(c *StoreConfig) { c.Files = append(slices.Clone(testFiles), "tls/new.key") }
	mustStart(t, testStore(kv, l, "pw", more), "x")
	fresh := testLayout(t)
	if got := mustStart(t, testStore(kv, fresh, "pw"), "x"); len(got.Restored) != 4 {
		t.Errorf("restored %v", got.Restored)
	}
	// The earlier version, which does not know the file, drops nothing.
	rev := kv.rev
	mustStart(t, testStore(kv, l, "pw"), "x")
	if kv.rev != rev {
		t.Error("the earlier version stored again")
	}
}

func TestStoreRefuses(t *testing.T) {
	tests := []struct {
		name     string
		password string
		damage   func(t *testing.T, kv *memory, l datadir.Layout)
		is       error
		text     string
		hint     string
	}{
		{
			name: "a file differs", password: "pw", text: "tls/ca.key", hint: "move these files away",
			damage: func(t *testing.T, _ *memory, l datadir.Layout) { put(t, l.Server("tls/ca.key"), "changed") },
		},
		{
			name: "one differs, another is missing", password: "pw", text: "tls/ca.key", hint: "move these files away",
			damage: func(t *testing.T, _ *memory, l datadir.Layout) {
				put(t, l.Server("tls/ca.key"), "changed")
				if err := os.Remove(l.Server("tls/ca.crt")); err != nil {
					t.Fatal(err)
				}
			},
		},
		{name: "another token", password: "other", is: ErrWrongToken, text: fingerprint("pw"), hint: "--token"},
		{
			name: "another token, same name", password: "pw", is: ErrWrongToken, text: "fingerprint", hint: "--token",
			damage: func(t *testing.T, kv *memory, _ datadir.Layout) {
				kv.data[Prefix+fingerprint("pw")] = KeyValue{Value: mustSeal(t, "unlike", testEntries()), Rev: 9}
			},
		},
		{
			name: "damaged", password: "pw", is: ErrDamaged, text: "checksum", hint: "snapshot",
			damage: func(_ *testing.T, kv *memory, _ datadir.Layout) {
				value := slices.Clone(kv.data[Prefix+fingerprint("pw")].Value)
				value[len(value)/2] ^= 1
				kv.data[Prefix+fingerprint("pw")] = KeyValue{Value: value, Rev: 9}
			},
		},
		{
			name: "later version", password: "pw", is: ErrVersion, text: "version 7", hint: "release",
			damage: func(_ *testing.T, kv *memory, _ datadir.Layout) {
				kv.data[Prefix+fingerprint("pw")] = KeyValue{Value: []byte(`{"format":"kelson-bootstrap","version":7}` + "\nx"), Rev: 9}
			},
		},
		{
			name: "datastore fails", password: "pw", is: errKilled, text: "read bootstrap data",
			damage: func(_ *testing.T, kv *memory, _ datadir.Layout) {
				kv.fail = func(int) (bool, bool) { return true, false }
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			kv, l := newMemory(), testLayout(t)
			mustStart(t, testStore(kv, l, "pw"), "first")
			if tt.damage != nil {
				tt.damage(t, kv, l)
			}
			before, rev := files(t, l), kv.rev
			_, err := start(t, testStore(kv, l, tt.password), "x")
			if err == nil || !strings.Contains(err.Error(), tt.text) || !strings.Contains(config.Hint(err), tt.hint) || (tt.is != nil && !errors.Is(err, tt.is)) {
				t.Errorf("error %v (hint %q)", err, config.Hint(err))
			}
			if !maps.Equal(before, files(t, l)) || kv.rev != rev {
				t.Error("something was changed")
			}
		})
	}
}

func files(t testing.TB, l datadir.Layout) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, name := range testFiles {
		if data, err := os.ReadFile(l.Server(name)); err == nil {
			out[name] = string(data)
		}
	}
	return out
}

func TestSaveWithoutLoad(t *testing.T) {
	if err := testStore(newMemory(), testLayout(t), "pw").Save(t.Context()); err == nil {
		t.Error("no error")
	}
}

// TestKilledAtEachStep cuts the first start off before and after each
// operation of the datastore and each making of a file; the next start works,
// keeps what was there, and a further server gets the same files.
func TestKilledAtEachStep(t *testing.T) {
	kv := newMemory()
	mustStart(t, testStore(kv, testLayout(t), "pw"), "x")
	total := kv.calls
	if total < 5 {
		t.Fatalf("only %d calls", total)
	}
	for call := 1; call <= total; call++ {
		for _, after := range []bool{false, true} {
			for made := range len(testFiles) + 1 {
				t.Run(fmt.Sprintf("call %d after %t files %d", call, after, made), func(t *testing.T) {
					kv, l := newMemory(), testLayout(t)
					kv.fail = func(n int) (bool, bool) { return n > call || n == call && !after, n == call && after }
					s := testStore(kv, l, "pw")
					if _, err := s.Load(t.Context()); err == nil {
						for _, name := range testFiles[:made] {
							put(t, l.Server(name), "first "+name)
						}
						if made == len(testFiles) && !errors.Is(s.Save(t.Context()), errKilled) {
							t.Error("the kill was not noticed")
						}
					}
					kept := files(t, l)
					kv.fail = nil
					mustStart(t, testStore(kv, l, "pw"), "second")
					for name, data := range kept {
						if got := get(t, l.Server(name)); got != data {
							t.Errorf("%s: %q became %q", name, data, got)
						}
					}
					other := testLayout(t)
					mustStart(t, testStore(kv, other, "pw"), "other")
					if !maps.Equal(files(t, l), files(t, other)) {
						t.Error("a further server has other files")
					}
				})
			}
		}
	}
}

// TestKilledRestore cuts a restore off at each write.
func TestKilledRestore(t *testing.T) {
	kv, l := newMemory(), testLayout(t)
	mustStart(t, testStore(kv, l, "pw"), "first")
	for n := range len(testFiles) {
		other := testLayout(t)
		s := testStore(kv, other, "pw")
		write, left := s.write, n
		s.write = func(path string, data []byte, mode os.FileMode) error {
			if left--; left < 0 {
				return errKilled
			}
			return write(path, data, mode)
		}
		if _, err := s.Load(t.Context()); !errors.Is(err, errKilled) {
			t.Errorf("write %d: %v", n, err)
		}
		mustStart(t, testStore(kv, other, "pw"), "other")
		if !maps.Equal(files(t, l), files(t, other)) {
			t.Errorf("write %d: other files", n)
		}
	}
}

// TestAbandonedLockOfAnotherToken: a start whose token was lost before
// anything was stored does not block the next one.
func TestAbandonedLockOfAnotherToken(t *testing.T) {
	kv := newMemory()
	if _, err := testStore(kv, testLayout(t), "lost").Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := mustStart(t, testStore(kv, testLayout(t), "pw"), "x"); !got.New {
		t.Errorf("%+v", got)
	}
}

func shared(c *StoreConfig) { c.Exclusive = false; c.LockDeadline = 10 * time.Second }

// TestRace starts several servers at once on an empty datastore.
func TestRace(t *testing.T) {
	kv := newMemory()
	layouts := make([]datadir.Layout, 5)
	loaded, errs := make([]Loaded, len(layouts)), make([]error, len(layouts))
	for i := range layouts {
		layouts[i] = testLayout(t)
	}
	var wg sync.WaitGroup
	for i, l := range layouts {
		wg.Go(func() {
			s := testStore(kv, l, "pw", shared)
			s.poll = time.Millisecond
			loaded[i], errs[i] = start(t, s, fmt.Sprint("server ", i))
		})
	}
	wg.Wait()
	creators := 0
	for i := range layouts {
		if errs[i] != nil {
			t.Errorf("server %d: %v", i, errs[i])
		}
		if loaded[i].New {
			creators++
		}
		if !maps.Equal(files(t, layouts[0]), files(t, layouts[i])) {
			t.Errorf("server %d has other files", i)
		}
	}
	if creators != 1 {
		t.Errorf("%d servers made the first data", creators)
	}
}

func TestDeadLock(t *testing.T) {
	dirs := []datadir.Layout{testLayout(t), testLayout(t)}
	synctest.Test(t, func(t *testing.T) {
		kv := newMemory()
		slow := testStore(kv, dirs[0], "pw", shared)
		if _, err := slow.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		if got := mustStart(t, testStore(kv, dirs[1], "pw", shared), "second"); !got.New {
			t.Errorf("%+v", got)
		}
		if waited := time.Since(begin); waited < 10*time.Second || waited > 11*time.Second {
			t.Errorf("took over after %s", waited)
		}
		// The first creator was only slow: it must not overwrite.
		makeFiles(t, dirs[0], "slow")
		if err := slow.Save(t.Context()); !errors.Is(err, ErrConflict) {
			t.Errorf("the slow creator: %v", err)
		}
	})
}

func TestLockHeldUntilTimeout(t *testing.T) {
	dirs := []datadir.Layout{testLayout(t), testLayout(t)}
	synctest.Test(t, func(t *testing.T) {
		kv := newMemory()
		if _, err := testStore(kv, dirs[0], "pw", shared).Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := testStore(kv, dirs[1], "pw", shared).Load(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "another server holds the lock") {
			t.Errorf("error %v", err)
		}
	})
}

// TestDefaultKey runs the real derivation, as the node does.
func TestDefaultKey(t *testing.T) {
	kv, l := newMemory(), testLayout(t)
	none := func(c *StoreConfig) { c.Key = nil }
	mustStart(t, testStore(kv, l, "pw", none), "first")
	put(t, l.Server("tls/new"), "x")
	more := func(c *StoreConfig) { c.Key, c.Files = nil, append(slices.Clone(testFiles), "tls/new") }
	mustStart(t, testStore(kv, l, "pw", more), "x")
	if entries, err := Open(kv.data[Prefix+fingerprint("pw")].Value, "pw"); err != nil || len(entries) != 4 {
		t.Errorf("%d entries, %v", len(entries), err)
	}
}

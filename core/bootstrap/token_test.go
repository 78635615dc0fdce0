package bootstrap

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/datadir"
)

var hashA, hashB = strings.Repeat("a1", 32), CAHash([]byte("bundle"))

func TestParseToken(t *testing.T) {
	tests := []struct {
		name string
		in   string
		want Token
		err  string
	}{
		{name: "short", in: "secret", want: Token{Password: "secret"}},
		{name: "white space around", in: " secret\n", want: Token{Password: "secret"}},
		{name: "short with a colon", in: "a:b", want: Token{Password: "a:b"}},
		{name: "short that starts like a full one", in: "K10secret", want: Token{Password: "K10secret"}},
		{name: "server", in: "K10" + hashA + "::server:pw", want: Token{CAHash: hashA, User: "server", Password: "pw"}},
		{name: "upper-case hash", in: "K10" + strings.ToUpper(hashA) + "::server:pw", want: Token{CAHash: hashA, User: "server", Password: "pw"}},
		{name: "password with colons", in: "K10" + hashA + "::server:p:w::x", want: Token{CAHash: hashA, User: "server", Password: "p:w::x"}},
		{name: "node", in: "K10" + hashA + "::node:pw", want: Token{CAHash: hashA, User: "node", Password: "pw"}},
		{name: "bootstrap", in: "K10" + hashA + "::abc123.0123456789abcdef", want: Token{CAHash: hashA, User: "abc123", Password: "0123456789abcdef", bootstrap: true}},
		{name: "short bootstrap", in: "abc123.0123456789abcdef", want: Token{User: "abc123", Password: "0123456789abcdef", bootstrap: true}},
		{name: "empty", in: " \n", err: "empty"},
		{name: "two words", in: "a b", err: "white space"},
		{name: "control character", in: "a\x00b", err: "cannot be printed"},
		{name: "too long", in: strings.Repeat("x", maxToken+1), err: "longer than"},
		{name: "hash cut off", in: "K10" + hashA[:40] + "::server:pw", err: "has 40 characters"},
		{name: "hash not hexadecimal", in: "K10" + strings.Repeat("z", 64) + "::server:pw", err: "CA hash"},
		{name: "cut off after the hash", in: "K10" + hashA + ":", err: "cut off after the CA hash"},
		{name: "beginning lost", in: hashA + "::server:pw", err: "beginning lost"},
		{name: "no password", in: "K10" + hashA + "::server:", err: "password is empty"},
		{name: "nothing after the hash", in: "K10" + hashA + "::", err: "after"},
		{name: "unknown user", in: "K10" + hashA + "::root:pw", err: "must say server or node"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseToken(tt.in)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error %v, want it to contain %q", err, tt.err)
				}
				return
			}
			if err != nil || got != tt.want {
				t.Errorf("got %#v, %v", got, err)
			}
			if again, err := ParseToken(got.Secret()); err != nil || again != got {
				t.Errorf("Secret does not parse to the same: %#v, %v", again, err)
			}
			for _, format := range []string{"%s", "%v", "%+v", "%#v"} {
				if out := fmt.Sprintf(format, got); strings.Contains(out, got.Password) {
					t.Errorf("%s prints the password: %s", format, out)
				}
			}
		})
	}
}

func FuzzParseToken(f *testing.F) {
	for _, s := range []string{"", "secret", "K10" + hashA + "::server:pw", "K10" + hashA + "::abc123.0123456789abcdef", "K10::", "K10" + hashA + "::node:"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseToken(s)
		if err != nil {
			if len(s) > 30 && strings.Contains(err.Error(), s) {
				t.Errorf("the error reveals the token: %v", err)
			}
			return
		}
		if got.Password == "" {
			t.Errorf("%q: no password", s)
		}
		if again, err := ParseToken(got.Secret()); err != nil || again != got {
			t.Errorf("%q: %#v became %#v, %v", s, got, again, err)
		}
	})
}

func testLayout(t testing.TB) datadir.Layout {
	t.Helper()
	dir := t.TempDir()
	return datadir.Layout{Root: dir, Etc: filepath.Join(dir, "etc")}
}

func put(t testing.TB, path, data string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

func get(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestGeneratedToken(t *testing.T) {
	l := testLayout(t)
	early, err := LoadToken(l, config.Token{})
	if err != nil || len(early.Password) != 32 {
		t.Fatalf("%s, %v", early, err)
	}
	if got := get(t, TokenFile(l)); got != early.Password+"\n" {
		t.Fatalf("the token is not on disk before it is used: %q", got)
	}
	again, err := LoadToken(l, config.Token{})
	if err != nil || again != early {
		t.Errorf("second call: %s, %v", again, err)
	}
	full, err := EnsureToken(l, config.Token{}, []byte("bundle"))
	if err != nil || full.Password != early.Password || full.CAHash != hashB {
		t.Errorf("full form: %s, %v", full, err)
	}
	if got, want := get(t, l.Server("node-token")), "K10"+hashB+"::server:"+early.Password+"\n"; got != want {
		t.Errorf("node-token: %q, want %q", got, want)
	}
	info, err := os.Stat(TokenFile(l))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if kept, err := EnsureToken(l, config.Token{}, []byte("bundle")); err != nil || kept != full {
		t.Errorf("restart: %s, %v", kept, err)
	}
}

func TestConfiguredToken(t *testing.T) {
	full := func(password string) string { return "K10" + hashB + "::server:" + password }
	tests := []struct {
		name   string
		onDisk string
		value  string
		want   string // password
		err    string
		hint   string
	}{
		{name: "short, new", value: "pw", want: "pw"},
		{name: "full, new", value: full("pw"), want: "pw"},
		{name: "full, of another authority", value: "K10" + hashA + "::server:pw", err: "server CA has the hash a1a1", hint: "token of this cluster"},
		{name: "same as on disk", onDisk: full("pw"), value: "pw", want: "pw"},
		{name: "same as on disk, full", onDisk: full("pw"), value: full("pw"), want: "pw"},
		{name: "same password, other authority", onDisk: full("pw"), value: "K10" + hashA + "::server:pw", err: "server CA has the hash a1a1", hint: "token of this cluster"},
		{name: "authority replaced since", onDisk: "K10" + hashA + "::server:pw", want: "pw"},
		{name: "other than on disk", onDisk: full("pw"), value: "other", err: "fingerprint " + fingerprint("other"), hint: "server/token"},
		{name: "other than an unfinished one", onDisk: "abandoned", value: "pw", want: "pw"},
		{name: "damaged on disk", onDisk: "K10x::y", err: "CA hash", hint: "restore the file"},
		{name: "agents only", value: "K10" + hashB + "::node:pw", err: "agents only", hint: "server token"},
		{name: "bootstrap token", value: "abc123.0123456789abcdef", err: "agents only", hint: "server token"},
		{name: "malformed", value: "a b", err: "--token: parse token"},
		{name: "put there by hand", onDisk: "mine", want: "mine"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := testLayout(t)
			if tt.onDisk != "" {
				put(t, TokenFile(l), tt.onDisk)
			}
			got, err := EnsureToken(l, config.Token{Value: tt.value}, []byte("bundle"))
			if tt.err == "" {
				if err != nil || got.Password != tt.want || strings.TrimSpace(get(t, TokenFile(l))) != full(tt.want) {
					t.Errorf("got %s, %v, on disk %q", got, err, get(t, TokenFile(l)))
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.err) || !strings.Contains(config.Hint(err), tt.hint) {
				t.Errorf("error %v (hint %q), want %q (%q)", err, config.Hint(err), tt.err, tt.hint)
			}
			if tt.onDisk != "" && get(t, TokenFile(l)) != tt.onDisk {
				t.Error("the file was changed")
			}
			if err != nil && tt.value != "" && strings.Contains(err.Error(), tt.value) && len(tt.value) > 10 {
				t.Errorf("the error reveals the token: %v", err)
			}
		})
	}
}

func TestTokenFile(t *testing.T) {
	l := testLayout(t)
	file := filepath.Join(t.TempDir(), "secret")
	put(t, file, "from-file\n")
	if got, err := LoadToken(l, config.Token{File: file}); err != nil || got.Password != "from-file" {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := LoadToken(testLayout(t), config.Token{File: file + "x"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

package sign

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func read(t *testing.T, elem ...string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(append([]string{"testdata", "minisign"}, elem...)...))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func generate(t *testing.T) SecretKey {
	t.Helper()
	k, err := Generate()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestMinisignsFiles reads what minisign 0.11 wrote.
func TestMinisignsFiles(t *testing.T) {
	public, err := ParsePublicKey(read(t, "key.pub"))
	if err != nil {
		t.Fatal(err)
	}
	if public.ID.String() != "888E6DB3CEA1C72D" || !bytes.Equal(bytes.Split(public.Encode(), []byte("\n"))[1], bytes.Split(read(t, "key.pub"), []byte("\n"))[1]) {
		t.Errorf("public key read as %s", public.Encode())
	}
	file := read(t, "file.txt")
	signed, err := Verify(bytes.NewReader(file), read(t, "file.txt.minisig"), []PublicKey{public})
	if err != nil || signed.Comment != "a trusted comment" || signed.By != public.ID {
		t.Errorf("got %+v, %v", signed, err)
	}
	if _, err := Verify(bytes.NewReader(file), read(t, "legacy.minisig"), []PublicKey{public}); err == nil || !strings.Contains(err.Error(), "prehashed") {
		t.Errorf("a signature of the old kind: %v", err)
	}
	secret, err := ParseSecretKey(read(t, "key.sec"))
	if err != nil {
		t.Fatal(err)
	}
	ours, err := secret.Sign(bytes.NewReader(file), "a trusted comment")
	if err != nil {
		t.Fatal(err)
	}
	// ed25519 is deterministic: all but the untrusted comment is the same.
	if _, want, _ := bytes.Cut(read(t, "file.txt.minisig"), []byte("\n")); !bytes.HasSuffix(ours, want) {
		t.Errorf("got\n%s", ours)
	}
	var hinted interface{ Hint() string }
	if _, err := ParseSecretKey(read(t, "pw.sec")); !errors.As(err, &hinted) {
		t.Errorf("a key with a password: %v", err)
	}
}

// TestMinisignReadsOurs needs the program.
func TestMinisignReadsOurs(t *testing.T) {
	program, err := exec.LookPath("minisign")
	if err != nil {
		t.Skip("minisign is not installed")
	}
	dir, k := t.TempDir(), generate(t)
	signature, err := k.Sign(strings.NewReader("text"), "comment")
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"f": []byte("text"), "f.minisig": signature, "k.pub": k.Public().Encode(), "k.sec": k.Encode()} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range []string{"-V -p k.pub -m f", "-S -s k.sec -m f", "-V -p k.pub -m f"} {
		cmd := exec.Command(program, strings.Fields(args)...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("minisign %s: %v\n%s", args, err, out)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	k := generate(t)
	again, err := ParseSecretKey(k.Encode())
	if err != nil {
		t.Fatal(err)
	}
	public, err := ParsePublicKey([]byte(again.Public().String()))
	if err != nil {
		t.Fatal(err)
	}
	signature, err := again.Sign(strings.NewReader("text"), "c")
	if err != nil {
		t.Fatal(err)
	}
	signed, err := Verify(strings.NewReader("text"), signature, []PublicKey{generate(t).Public(), public})
	if err != nil || signed.By != public.ID || signed.Comment != "c" {
		t.Errorf("got %+v, %v", signed, err)
	}
	if id, err := SignedBy(signature); err != nil || id != public.ID {
		t.Errorf("signed by %s, %v", id, err)
	}
}

func TestRefused(t *testing.T) {
	k := generate(t)
	keys := []PublicKey{k.Public()}
	good, err := k.Sign(strings.NewReader("text"), "comment")
	if err != nil {
		t.Fatal(err)
	}
	forger := generate(t)
	forger.id = k.id
	forged, err := forger.Sign(strings.NewReader("text"), "comment")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		text, signature string
		keys            []PublicKey
		want            error
	}{
		"another text":     {"Text", string(good), keys, ErrBadSignature},
		"another comment":  {"text", strings.Replace(string(good), "trusted comment: comment", "trusted comment: Comment", 1), keys, ErrBadSignature},
		"another key":      {"text", string(good), []PublicKey{generate(t).Public()}, ErrUnknownKey},
		"no key":           {"text", string(good), nil, ErrUnknownKey},
		"an empty key":     {"text", string(good), []PublicKey{{ID: k.id}}, ErrUnknownKey},
		"the same id":      {"text", string(forged), keys, ErrBadSignature},
		"nothing":          {"text", "", keys, nil},
		"two lines":        {"text", strings.Join(strings.SplitN(string(good), "\n", 3)[:2], "\n"), keys, nil},
		"a fifth line":     {"text", string(good) + "more\n", keys, nil},
		"not base64":       {"text", strings.Replace(string(good), "\nRU", "\n**", 1), keys, nil},
		"a huge signature": {"text", strings.Repeat("a", maxText+1), keys, nil},
	} {
		t.Run(name, func(t *testing.T) {
			signed, err := Verify(strings.NewReader(c.text), []byte(c.signature), c.keys)
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("got %+v, %v, want %v", signed, err, c.want)
			}
		})
	}
	if _, err := k.Sign(strings.NewReader("x"), "two\nlines"); err == nil {
		t.Error("a comment of two lines was signed")
	}
	if _, err := (SecretKey{}).Sign(strings.NewReader("x"), ""); err == nil {
		t.Error("signed without a key")
	}
}

func TestDamagedKeys(t *testing.T) {
	file := generate(t).Encode()
	lines := strings.Split(string(file), "\n")
	for _, bad := range []string{"", lines[0], lines[1], "x\n" + lines[1], lines[0] + "\n" + lines[1][:40], lines[0] + "\n" + flip(lines[1], 100), lines[0] + "\n" + flip(lines[1], 205)} {
		if k, err := ParseSecretKey([]byte(bad)); err == nil {
			t.Errorf("%q was read as %v", bad, k)
		}
	}
	for _, bad := range []string{"", "RWQ", "a\nb\nc", strings.Replace(generate(t).Public().String(), "RW", "AA", 1)} {
		if k, err := ParsePublicKey([]byte(bad)); err == nil {
			t.Errorf("%q was read as %v", bad, k)
		}
	}
}

func flip(s string, at int) string {
	b := []byte(s)
	b[at] = 'A' + (b[at]-'A'+1)%26
	return string(b)
}

func TestSecretIsNotPrinted(t *testing.T) {
	k := generate(t)
	inJSON, err := json.Marshal(map[string]any{"k": k})
	if err != nil {
		t.Fatal(err)
	}
	for _, out := range []string{fmt.Sprint(k), fmt.Sprintf("%+v", k), fmt.Sprintf("%#v", &k), fmt.Sprintf("%x", k), fmt.Sprintf("%v", []any{k}), string(inJSON)} {
		if !strings.Contains(out, k.id.String()) || strings.Contains(out, encode(k.key)[:12]) || len(out) > 60 {
			t.Errorf("printed as %s", out)
		}
	}
}

func FuzzParse(f *testing.F) {
	k, err := Generate()
	if err != nil {
		f.Fatal(err)
	}
	signature, err := k.Sign(strings.NewReader("text"), "c")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(signature)
	f.Add(k.Encode())
	f.Add(k.Public().Encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		if s, err := Verify(strings.NewReader("other"), data, []PublicKey{k.Public()}); err == nil {
			t.Fatalf("verified as %+v", s)
		}
		if key, err := ParsePublicKey(data); err == nil {
			if again, err := ParsePublicKey(key.Encode()); err != nil || again.String() != key.String() {
				t.Fatal(again, err)
			}
		}
		if key, err := ParseSecretKey(data); err == nil {
			if _, err := ParseSecretKey(key.Encode()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

package bootstrap

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/kelson-io/kelson/core/config"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestEncryptionConfig(t *testing.T) {
	day := time.Date(2026, 7, 9, 1, 2, 3, 0, time.UTC)
	secret := regexp.MustCompile(`"secret": "[A-Za-z0-9+/]{43}="`) // 32 bytes
	for _, provider := range []string{"secretbox", "aescbc", "aesgcm"} {
		t.Run(provider, func(t *testing.T) {
			path := EncryptionPath(testLayout(t))
			if err := ensureEncryption(path, provider, day); err != nil {
				t.Fatal(err)
			}
			data := get(t, path)
			got := secret.ReplaceAllString(data, `"secret": "…"`)
			golden := filepath.Join("testdata", provider+".json")
			if *update {
				put(t, golden, got)
			}
			if want := get(t, golden); got != want {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
			info, err := os.Stat(path)
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("mode %v, %v", info.Mode(), err)
			}
			if err := EnsureEncryptionConfig(path, "secretbox"); err != nil || get(t, path) != data {
				t.Errorf("an existing file was changed (%v)", err)
			}
		})
	}
}

func TestEncryptionRefused(t *testing.T) {
	tests := []struct{ name, onDisk, provider, text, hint string }{
		{name: "unknown provider", provider: "rot13", text: "rot13"},
		{name: "empty file", onDisk: " ", provider: "aescbc", text: "encryption-config.json", hint: "bootstrap data"},
		{name: "truncated", onDisk: `{"kind": "Encryp`, provider: "aescbc", text: "unexpected end", hint: "bootstrap data"},
		{name: "something else", onDisk: `{"kind": "Pod"}`, provider: "aescbc", text: `kind is "Pod"`, hint: "bootstrap data"},
		{name: "no resources", onDisk: `{"kind": "EncryptionConfiguration"}`, provider: "aescbc", text: "no resources", hint: "bootstrap data"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := EncryptionPath(testLayout(t))
			if tt.onDisk != "" {
				put(t, path, tt.onDisk)
			}
			err := EnsureEncryptionConfig(path, tt.provider)
			if err == nil || !strings.Contains(err.Error(), tt.text) || !strings.Contains(config.Hint(err), tt.hint) {
				t.Errorf("error %v (hint %q)", err, config.Hint(err))
			}
			if data, err := os.ReadFile(path); string(data) != tt.onDisk {
				t.Errorf("the file became %q (%v)", data, err)
			}
		})
	}
}

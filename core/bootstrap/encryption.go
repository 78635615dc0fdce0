package bootstrap

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/datadir"
)

// EncryptionFile is, relative to server/, the API server's configuration of
// encryption at rest; it belongs to the bootstrap data.
const EncryptionFile = "cred/encryption-config.json"

type encryptionConfig struct {
	Kind       string               `json:"kind"`
	APIVersion string               `json:"apiVersion"`
	Resources  []encryptedResources `json:"resources"`
}

type encryptedResources struct {
	Resources []string                      `json:"resources"`
	Providers []map[string]providerSettings `json:"providers"`
}

type providerSettings struct {
	Keys []encryptionKey `json:"keys,omitempty"`
}

type encryptionKey struct {
	Name   string `json:"name"`
	Secret []byte `json:"secret"`
}

// EncryptionPath is where the configuration lies in a data dir.
func EncryptionPath(l datadir.Layout) string { return l.Cred("encryption-config.json") }

// EnsureEncryptionConfig writes, if path does not exist, the API server's
// EncryptionConfiguration for Secrets with a new key of the provider
// (secretbox, aescbc or aesgcm) first and identity last. A file that exists is
// kept whatever its provider, and refused if it cannot be one: a new key would
// make every stored secret unreadable.
func EnsureEncryptionConfig(path, provider string) error {
	return ensureEncryption(path, provider, time.Now())
}

func ensureEncryption(path, provider string, now time.Time) error {
	data, err := os.ReadFile(path)
	if err == nil {
		return checkEncryption(path, data)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read encryption configuration: %w", err)
	}
	if !slices.Contains([]string{"secretbox", "aescbc", "aesgcm"}, provider) {
		return fmt.Errorf("encryption of secrets: provider %q is none of secretbox, aescbc, aesgcm", provider)
	}
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return fmt.Errorf("generate encryption key: %w", err)
	}
	key := encryptionKey{Name: provider + "key-" + now.UTC().Format("20060102"), Secret: secret}
	data, err = json.MarshalIndent(encryptionConfig{
		Kind:       "EncryptionConfiguration",
		APIVersion: "apiserver.config.k8s.io/v1",
		Resources: []encryptedResources{{
			Resources: []string{"secrets"},
			Providers: []map[string]providerSettings{{provider: {Keys: []encryptionKey{key}}}, {"identity": {}}},
		}},
	}, "", "  ")
	if err != nil {
		return fmt.Errorf("encode encryption configuration: %w", err)
	}
	if err := datadir.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("write encryption configuration: %w", err)
	}
	if err := datadir.WriteFile(path, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write encryption configuration: %w", err)
	}
	return nil
}

func checkEncryption(path string, data []byte) error {
	var c encryptionConfig
	err := json.Unmarshal(data, &c)
	switch {
	case err != nil:
	case c.Kind != "EncryptionConfiguration":
		err = fmt.Errorf("its kind is %q instead of EncryptionConfiguration", c.Kind)
	case len(c.Resources) == 0:
		err = errors.New("it names no resources")
	default:
		return nil
	}
	return config.Hinted(fmt.Errorf("read encryption configuration %s: %w", path, err),
		"remove the file to have it restored from the bootstrap data in the datastore; without that copy the stored secrets are lost")
}

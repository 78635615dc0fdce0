// Package bootstrap keeps what every server of a cluster has to share: the
// token, and the bootstrap data (authorities, service-account key, encryption
// configuration) that is stored encrypted in the datastore, so that a second
// server or a restore starts from the datastore address and the token alone.
//
// Token. server/token holds either a password as the administrator gave it, or
// the full form K10<SHA-256 of the server CA bundle>::server:<password>, which
// lets a joining node verify whom it talks to. The file is written before
// anything is stored under the password, so that no crash leaves data that
// nobody holds the token of.
//
// Bootstrap data. The entries are encrypted with a random data key, which is
// wrapped under a key derived from the token's password with Argon2id (see
// Seal). A new token rewrites the wrapping only. The value lies in the datastore
// under a name derived from the password; an empty value is the lock of the
// server that is making the first authorities.
//
// Order at boot: LoadToken, Store.Load (locks, or restores missing files),
// then whoever makes files, then EnsureToken (a token of another cluster is
// refused before anything is stored under it), then Store.Save.
//
// Concurrency: functions and Keys may be used by several goroutines; a Store
// belongs to one.
package bootstrap

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// What Open, Rewrap and Store.Load return when the stored value cannot be used.
var (
	ErrWrongToken = errors.New("the token is not the one the bootstrap data is encrypted under")
	ErrDamaged    = errors.New("the bootstrap data is damaged")
	ErrVersion    = errors.New("the bootstrap data is in a format that this version does not know")
)

// Entry is one file of the bootstrap data.
type Entry struct {
	Data    []byte      `json:"data"`
	Mode    os.FileMode `json:"mode"` // permission bits
	ModTime time.Time   `json:"modTime"`
}

// Entries are the files of the bootstrap data by slash-separated name,
// relative to server/.
type Entries map[string]Entry

// names returns the names in order.
func (e Entries) names() []string { return slices.Sorted(maps.Keys(e)) }

// validate refuses names that would leave the folder they are restored to.
func (e Entries) validate() error {
	for _, name := range e.names() {
		if !validName(name) {
			return fmt.Errorf("bootstrap data: entry name %q is not a plain relative path", name)
		}
	}
	return nil
}

func validName(name string) bool {
	local := filepath.FromSlash(name)
	return name != "" && name != "." && filepath.IsLocal(local) && filepath.Clean(local) == local && !strings.ContainsAny(name, "\x00\\")
}

// digest identifies names and contents. Contents must not be guessable, since
// the digest is stored in plain: private keys make it so.
func (e Entries) digest() string {
	h := sha256.New()
	var size [8]byte
	add := func(data []byte) {
		binary.BigEndian.PutUint64(size[:], uint64(len(data)))
		h.Write(size[:])
		h.Write(data)
	}
	for _, name := range e.names() {
		add([]byte(name))
		add(e[name].Data)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Package sign signs and verifies files with ed25519 keys in minisign's file
// formats: a key or signature made here is one for minisign, and the other way
// round. Signatures are of the prehashed kind (BLAKE2b-512 of the file), and
// secret keys have no password.
//
// Invariants: a SecretKey prints as its id only; Verify accepts nothing but a
// signature by one of the given keys, whose trusted comment is covered too. The
// package keeps no state.
package sign

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/crypto/blake2b"
)

const (
	algKey       = "Ed" // of keys, and of signatures over the file itself
	algPrehashed = "ED"
	algChecksum  = "B2"

	untrusted = "untrusted comment: "
	trusted   = "trusted comment: "

	// maxText bounds a key or signature file.
	maxText = 16 << 10
)

// The reasons why Verify refuses a well-formed signature.
var (
	ErrUnknownKey   = errors.New("signed by a key that is not trusted")
	ErrBadSignature = errors.New("the signature does not fit the file")
)

// ID tells keys apart. It proves nothing.
type ID [8]byte

// String is the id as minisign writes it: 16 hexadecimal digits.
func (id ID) String() string { return fmt.Sprintf("%016X", binary.LittleEndian.Uint64(id[:])) }

// PublicKey verifies signatures.
type PublicKey struct {
	ID  ID
	Key ed25519.PublicKey
}

// SecretKey makes signatures. It has no password: its file must be kept.
type SecretKey struct {
	id  ID
	key ed25519.PrivateKey
}

// Signed is what a valid signature says.
type Signed struct {
	By      ID
	Comment string // the trusted comment
}

// Generate makes a new key.
func Generate() (SecretKey, error) {
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return SecretKey{}, fmt.Errorf("generate key: %w", err)
	}
	sum := blake2b.Sum256(public)
	k := SecretKey{key: key}
	copy(k.id[:], sum[:])
	return k, nil
}

// Public is the key that verifies what k signs.
func (k SecretKey) Public() PublicKey {
	public, ok := k.key.Public().(ed25519.PublicKey)
	if !ok {
		return PublicKey{}
	}
	return PublicKey{ID: k.id, Key: public}
}

// String does not tell the secret.
func (k SecretKey) String() string { return "secret key " + k.id.String() }

// Format keeps every verb of fmt from printing the secret.
func (k SecretKey) Format(f fmt.State, _ rune) { fmt.Fprint(f, k.String()) }

// MarshalText keeps encoders from writing the secret; Encode writes it.
func (k SecretKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// Sign returns the signature file of what r holds. comment is covered by the
// signature and must be one line.
func (k SecretKey) Sign(r io.Reader, comment string) ([]byte, error) {
	if strings.ContainsAny(comment, "\r\n") {
		return nil, errors.New("sign: the comment must be one line")
	}
	if len(k.key) != ed25519.PrivateKeySize {
		return nil, errors.New("sign: no key")
	}
	sum, err := prehash(r)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	signature := ed25519.Sign(k.key, sum)
	global := ed25519.Sign(k.key, append(bytes.Clone(signature), comment...))
	raw := append([]byte(algPrehashed), k.id[:]...)
	raw = append(raw, signature...)
	return fmt.Appendf(nil, "%ssignature by %s\n%s\n%s%s\n%s\n", untrusted, k.id, encode(raw), trusted, comment, encode(global)), nil
}

// Verify checks the signature file of what r holds against keys. The error is
// ErrUnknownKey, ErrBadSignature, or about the signature's form.
func Verify(r io.Reader, signature []byte, keys []PublicKey) (Signed, error) {
	s, err := parseSignature(signature)
	if err != nil {
		return Signed{}, err
	}
	var sum []byte
	for _, key := range keys {
		if key.ID != s.id || len(key.Key) != ed25519.PublicKeySize {
			continue
		}
		if sum == nil {
			if sum, err = prehash(r); err != nil {
				return Signed{}, fmt.Errorf("verify: %w", err)
			}
		}
		if ed25519.Verify(key.Key, sum, s.signature) && ed25519.Verify(key.Key, append(bytes.Clone(s.signature), s.comment...), s.global) {
			return Signed{By: s.id, Comment: s.comment}, nil
		}
	}
	if sum == nil {
		return Signed{}, fmt.Errorf("%w: %s", ErrUnknownKey, s.id)
	}
	return Signed{}, fmt.Errorf("%w: key %s", ErrBadSignature, s.id)
}

// SignedBy returns the id of the key that a signature file claims, unverified.
func SignedBy(signature []byte) (ID, error) {
	s, err := parseSignature(signature)
	return s.id, err
}

func prehash(r io.Reader) ([]byte, error) {
	h, err := blake2b.New512(nil)
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(h, r); err != nil {
		return nil, err
	}
	return h.Sum(nil), nil
}

func encode(raw []byte) string { return base64.StdEncoding.EncodeToString(raw) }

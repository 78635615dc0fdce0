package sign

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/blake2b"
)

// String is the key in one line, as trust lists hold it.
func (k PublicKey) String() string {
	raw := append([]byte(algKey), k.ID[:]...)
	return encode(append(raw, k.Key...))
}

// Encode returns the key's file.
func (k PublicKey) Encode() []byte {
	return fmt.Appendf(nil, "%sminisign public key %s\n%s\n", untrusted, k.ID, k)
}

// ParsePublicKey reads a key's file, or the key in one line.
func ParsePublicKey(data []byte) (PublicKey, error) {
	lines, err := split(data)
	if err != nil {
		return PublicKey{}, fmt.Errorf("public key: %w", err)
	}
	if len(lines) == 2 && strings.HasPrefix(lines[0], untrusted) {
		lines = lines[1:]
	}
	if len(lines) != 1 {
		return PublicKey{}, fmt.Errorf("public key: want one line, or two with a comment, found %d", len(lines))
	}
	raw, err := decode(lines[0], 2+8+ed25519.PublicKeySize)
	if err != nil {
		return PublicKey{}, fmt.Errorf("public key: %w", err)
	}
	if string(raw[:2]) != algKey {
		return PublicKey{}, fmt.Errorf("public key: unknown algorithm %q", raw[:2])
	}
	return PublicKey{ID: ID(raw[2:10]), Key: bytes.Clone(raw[10:])}, nil
}

// The layout of a secret key: algorithm, password function, checksum
// function, salt and limits of the password function, id, key, checksum.
const (
	keyAt       = 2 + 2 + 2 + 32 + 8 + 8
	checksumAt  = keyAt + 8 + ed25519.PrivateKeySize
	secretBytes = checksumAt + blake2b.Size256
)

// Encode returns the key's file, which must be readable by its owner only.
func (k SecretKey) Encode() []byte {
	raw := make([]byte, keyAt, secretBytes)
	copy(raw, algKey)
	copy(raw[4:], algChecksum)
	raw = append(raw, k.id[:]...)
	raw = append(raw, k.key...)
	raw = append(raw, k.checksum()...)
	return fmt.Appendf(nil, "%sminisign secret key %s, without a password\n%s\n", untrusted, k.id, encode(raw))
}

func (k SecretKey) checksum() []byte {
	sum := blake2b.Sum256(append(append([]byte(algKey), k.id[:]...), k.key...))
	return sum[:]
}

// ParseSecretKey reads a key's file.
func ParseSecretKey(data []byte) (SecretKey, error) {
	lines, err := split(data)
	if err != nil {
		return SecretKey{}, fmt.Errorf("secret key: %w", err)
	}
	if len(lines) != 2 || !strings.HasPrefix(lines[0], untrusted) {
		return SecretKey{}, errors.New("secret key: want a comment and the key, two lines")
	}
	raw, err := decode(lines[1], secretBytes)
	if err != nil {
		return SecretKey{}, fmt.Errorf("secret key: %w", err)
	}
	switch {
	case string(raw[:2]) != algKey || string(raw[4:6]) != algChecksum:
		return SecretKey{}, errors.New("secret key: unknown algorithm")
	case raw[2] != 0 || raw[3] != 0:
		return SecretKey{}, passwordError{}
	}
	k := SecretKey{id: ID(raw[keyAt : keyAt+8]), key: bytes.Clone(raw[keyAt+8 : checksumAt])}
	// minisign leaves the checksum out of keys without a password.
	if sum := raw[checksumAt:]; !bytes.Equal(sum, make([]byte, len(sum))) && !bytes.Equal(sum, k.checksum()) {
		return SecretKey{}, errors.New("secret key: damaged: the checksum is wrong")
	}
	if !bytes.Equal(ed25519.NewKeyFromSeed(k.key.Seed()), k.key) {
		return SecretKey{}, errors.New("secret key: damaged: its halves do not belong together")
	}
	return k, nil
}

// passwordError refuses a key that minisign protects with a password.
type passwordError struct{}

func (passwordError) Error() string { return "secret key: it has a password" }
func (passwordError) Hint() string {
	return "remove the password with 'minisign -C -W', or make a key with 'kelson plugin keygen'"
}

type signature struct {
	id        ID
	signature []byte
	comment   string
	global    []byte
}

func parseSignature(data []byte) (signature, error) {
	lines, err := split(data)
	if err != nil {
		return signature{}, fmt.Errorf("signature: %w", err)
	}
	if len(lines) != 4 || !strings.HasPrefix(lines[0], untrusted) || !strings.HasPrefix(lines[2], trusted) {
		return signature{}, errors.New("signature: want four lines: comment, signature, trusted comment, signature of both")
	}
	raw, err := decode(lines[1], 2+8+ed25519.SignatureSize)
	if err != nil {
		return signature{}, fmt.Errorf("signature: %w", err)
	}
	global, err := decode(lines[3], ed25519.SignatureSize)
	if err != nil {
		return signature{}, fmt.Errorf("signature: %w", err)
	}
	if string(raw[:2]) != algPrehashed {
		return signature{}, fmt.Errorf("signature: want the prehashed kind %s, found %q", algPrehashed, raw[:2])
	}
	return signature{id: ID(raw[2:10]), signature: raw[10:], comment: strings.TrimPrefix(lines[2], trusted), global: global}, nil
}

// split returns the lines without their ends; empty ones at the end do not count.
func split(data []byte) ([]string, error) {
	if len(data) > maxText {
		return nil, fmt.Errorf("the file has %d bytes, at most %d", len(data), maxText)
	}
	lines := strings.Split(strings.TrimRight(string(data), "\r\n"), "\n")
	for i := range lines {
		lines[i] = strings.TrimSuffix(lines[i], "\r")
	}
	return lines, nil
}

func decode(line string, length int) ([]byte, error) {
	raw, err := base64.StdEncoding.Strict().DecodeString(line)
	if err != nil {
		return nil, fmt.Errorf("not base64: %w", err)
	}
	if len(raw) != length {
		return nil, fmt.Errorf("want %d bytes, found %d", length, len(raw))
	}
	return raw, nil
}

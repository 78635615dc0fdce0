package bootstrap

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"sync"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"
)

// The sealed form, version 1:
//
//	JSON header, newline, ciphertext of the entries, SHA-256 of all before it
//
// Both ciphers are XChaCha20-Poly1305 with random nonces. The checksum tells
// damage from a wrong token; it protects nothing.
const (
	formatName    = "kelson-bootstrap"
	formatVersion = 1
	kdfName       = "argon2id"
	cipherName    = "xchacha20-poly1305"
	saltSize      = 16
	maxHeader     = 16 << 10
)

// What a key derivation costs: 32 MiB and about 30 ms on two cores. RFC 9106
// asks for three passes over 64 MiB where memory is short, OWASP for two over
// 19 MiB; the password that Kelson makes itself has 128 random bits and needs
// neither.
const (
	kdfTime    = 2
	kdfMemory  = 32 << 10 // KiB
	kdfThreads = 2
)

// Bounds on what a stored header may ask for.
const (
	maxKDFTime    = 16
	maxKDFMemory  = 512 << 10 // KiB
	maxKDFThreads = 16
)

type header struct {
	Format  string     `json:"format"`
	Version int        `json:"version"`
	KDF     kdfParams  `json:"kdf"`
	Wrapped sealedKey  `json:"wrappedKey"`
	Payload sealedBody `json:"payload"`
}

type kdfParams struct {
	Name    string `json:"name"`
	Time    uint32 `json:"time"`
	Memory  uint32 `json:"memoryKiB"`
	Threads uint8  `json:"threads"`
	Salt    []byte `json:"salt"`
}

type sealedKey struct {
	Cipher string `json:"cipher"`
	Nonce  []byte `json:"nonce"`
	Key    []byte `json:"key"`
}

type sealedBody struct {
	Cipher string `json:"cipher"`
	Nonce  []byte `json:"nonce"`
	Digest string `json:"digest"` // of the entries; also authenticated
}

// Key is the key that data keys are wrapped under: a password after the key
// derivation, which is the slow part.
type Key struct {
	params kdfParams
	key    []byte
}

// NewKey derives a key from the password with a new salt.
func NewKey(password string) (*Key, error) {
	salt := make([]byte, saltSize)
	if _, err := rand.Read(salt); err != nil {
		return nil, fmt.Errorf("generate salt: %w", err)
	}
	return deriveKey(password, kdfParams{Name: kdfName, Time: kdfTime, Memory: kdfMemory, Threads: kdfThreads, Salt: salt}), nil
}

// StartKey begins NewKey in the background, so that the derivation runs beside
// other work of the boot; the returned function waits for it.
func StartKey(password string) func() (*Key, error) {
	wait := sync.OnceValues(func() (*Key, error) { return NewKey(password) })
	go wait() //nolint:errcheck // whoever needs the key gets the error
	return wait
}

func deriveKey(password string, p kdfParams) *Key {
	return &Key{params: p, key: argon2.IDKey([]byte(password), p.Salt, p.Time, p.Memory, p.Threads, chacha20poly1305.KeySize)}
}

// Seal encrypts the entries under the password. It takes the time and memory
// of one key derivation.
func Seal(entries Entries, password string) ([]byte, error) {
	key, err := NewKey(password)
	if err != nil {
		return nil, err
	}
	return key.Seal(entries)
}

// Seal encrypts the entries with a new data key, wrapped under this key.
func (k *Key) Seal(entries Entries) ([]byte, error) {
	if err := entries.validate(); err != nil {
		return nil, err
	}
	plain, err := json.Marshal(entries)
	if err != nil {
		return nil, fmt.Errorf("seal bootstrap data: %w", err)
	}
	data := make([]byte, chacha20poly1305.KeySize)
	if _, err := rand.Read(data); err != nil {
		return nil, fmt.Errorf("seal bootstrap data: %w", err)
	}
	h := header{Format: formatName, Version: formatVersion, Payload: sealedBody{Cipher: cipherName, Digest: entries.digest()}}
	var body []byte
	if h.Payload.Nonce, body, err = encrypt(data, plain, h.Payload.aad()); err != nil {
		return nil, fmt.Errorf("seal bootstrap data: %w", err)
	}
	if err := k.wrap(&h, data); err != nil {
		return nil, err
	}
	return assemble(h, body)
}

func (k *Key) wrap(h *header, data []byte) (err error) {
	h.KDF = k.params
	h.Wrapped.Cipher = cipherName
	if h.Wrapped.Nonce, h.Wrapped.Key, err = encrypt(k.key, data, wrapAAD()); err != nil {
		return fmt.Errorf("wrap data key: %w", err)
	}
	return nil
}

// Open decrypts what Seal returned. The error is ErrWrongToken, ErrDamaged or
// ErrVersion when that is the reason.
func Open(blob []byte, password string) (Entries, error) {
	entries, _, err := openKey(blob, password)
	return entries, err
}

// openKey also returns the key, for sealing again without a derivation.
func openKey(blob []byte, password string) (Entries, *Key, error) {
	h, body, err := split(blob)
	if err != nil {
		return nil, nil, err
	}
	key := deriveKey(password, h.KDF)
	data, err := decrypt(key.key, h.Wrapped.Nonce, h.Wrapped.Key, wrapAAD())
	if err != nil {
		return nil, nil, ErrWrongToken
	}
	plain, err := decrypt(data, h.Payload.Nonce, body, h.Payload.aad())
	if err != nil {
		return nil, nil, fmt.Errorf("%w: its contents do not decrypt", ErrDamaged)
	}
	var entries Entries
	if err := json.Unmarshal(plain, &entries); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err := entries.validate(); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return entries, key, nil
}

// Rewrap makes the value readable with a new password instead of the old one.
// The entries are not decrypted; only the wrapping of their key changes.
func Rewrap(blob []byte, oldPassword, newPassword string) ([]byte, error) {
	h, body, err := split(blob)
	if err != nil {
		return nil, err
	}
	data, err := decrypt(deriveKey(oldPassword, h.KDF).key, h.Wrapped.Nonce, h.Wrapped.Key, wrapAAD())
	if err != nil {
		return nil, ErrWrongToken
	}
	key, err := NewKey(newPassword)
	if err != nil {
		return nil, err
	}
	if err := key.wrap(&h, data); err != nil {
		return nil, err
	}
	return assemble(h, body)
}

func assemble(h header, body []byte) ([]byte, error) {
	head, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("seal bootstrap data: %w", err)
	}
	out := append(append(head, '\n'), body...)
	sum := sha256.Sum256(out)
	return append(out, sum[:]...), nil
}

// split checks the form, without any key, and returns header and ciphertext.
func split(blob []byte) (header, []byte, error) {
	var h header
	line, _, found := bytes.Cut(blob[:min(len(blob), maxHeader)], []byte("\n"))
	if !found {
		return h, nil, fmt.Errorf("%w: it has no header", ErrDamaged)
	}
	var id struct {
		Format  string `json:"format"`
		Version int    `json:"version"`
	}
	if err := json.Unmarshal(line, &id); err != nil || id.Format != formatName {
		return h, nil, fmt.Errorf("%w: its header is unreadable", ErrDamaged)
	}
	if id.Version != formatVersion {
		return h, nil, fmt.Errorf("%w: version %d, known is %d; use the release that wrote it, or a newer one", ErrVersion, id.Version, formatVersion)
	}
	rest := blob[len(line)+1:]
	if len(rest) < sha256.Size {
		return h, nil, fmt.Errorf("%w: it is cut off", ErrDamaged)
	}
	body, sum := rest[:len(rest)-sha256.Size], rest[len(rest)-sha256.Size:]
	if want := sha256.Sum256(blob[:len(blob)-sha256.Size]); !bytes.Equal(sum, want[:]) {
		return h, nil, fmt.Errorf("%w: its checksum does not match", ErrDamaged)
	}
	if err := json.Unmarshal(line, &h); err != nil {
		return h, nil, fmt.Errorf("%w: header: %w", ErrDamaged, err)
	}
	return h, body, h.check()
}

func (h header) check() error {
	k := h.KDF
	switch {
	case k.Name != kdfName || h.Wrapped.Cipher != cipherName || h.Payload.Cipher != cipherName:
		return fmt.Errorf("%w: it names algorithms %q, %q, %q", ErrVersion, k.Name, h.Wrapped.Cipher, h.Payload.Cipher)
	case k.Time < 1 || k.Time > maxKDFTime || k.Memory < 8 || k.Memory > maxKDFMemory || k.Threads < 1 || k.Threads > maxKDFThreads || len(k.Salt) < 8:
		return fmt.Errorf("%w: its key derivation asks for %d passes over %d KiB in %d threads", ErrDamaged, k.Time, k.Memory, k.Threads)
	case len(h.Wrapped.Nonce) != chacha20poly1305.NonceSizeX || len(h.Payload.Nonce) != chacha20poly1305.NonceSizeX:
		return fmt.Errorf("%w: a nonce has the wrong size", ErrDamaged)
	}
	return nil
}

func wrapAAD() []byte { return []byte(formatName + "/1 key") }

func (p sealedBody) aad() []byte { return []byte(formatName + "/1 data " + p.Digest) }

func encrypt(key, plain, aad []byte) (nonce, sealed []byte, err error) {
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, nil, err
	}
	nonce = make([]byte, aead.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return nil, nil, err
	}
	return nonce, aead.Seal(nil, nonce, plain, aad), nil
}

func decrypt(key, nonce, sealed, aad []byte) ([]byte, error) {
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, err
	}
	return aead.Open(nil, nonce, sealed, aad)
}

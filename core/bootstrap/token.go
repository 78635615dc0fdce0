package bootstrap

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode"

	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/datadir"
)

const (
	tokenPrefix     = "K10"
	tokenSeparator  = "::"
	tokenServerUser = "server"
	tokenNodeUser   = "node"
	maxToken        = 1024
	caHashSize      = 2 * sha256.Size
)

// Token is a parsed token.
//
//	password                               short: nothing says which cluster it is for
//	K10<CA hash>::server:<password>        full
//	K10<CA hash>::node:<password>          full, for agents only
//	K10<CA hash>::<id 6>.<secret 16>       bootstrap token, or short: <id>.<secret>
type Token struct {
	CAHash   string // SHA-256 of the server CA bundle, hex; "" in the short form
	User     string // "server", "node", or the id of a bootstrap token; "" in the short form
	Password string // or the secret of a bootstrap token

	bootstrap bool
}

// ParseToken reads any form of a token. Its errors never contain the token.
func ParseToken(s string) (Token, error) {
	s = strings.TrimSpace(s)
	switch {
	case s == "":
		return Token{}, errors.New("parse token: it is empty")
	case len(s) > maxToken:
		return Token{}, fmt.Errorf("parse token: it is longer than %d characters", maxToken)
	case strings.ContainsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }):
		return Token{}, errors.New("parse token: it contains white space or characters that cannot be printed")
	}
	rest, full := strings.CutPrefix(s, tokenPrefix)
	hash, cred, found := strings.Cut(rest, tokenSeparator)
	if !full || !found {
		if full && len(rest) >= caHashSize && isHex(rest[:caHashSize]) {
			return Token{}, errors.New("parse token: it is cut off after the CA hash (expected K10<hash>::server:<password>)")
		}
		if strings.Contains(s, tokenSeparator) {
			return Token{}, errors.New("parse token: it contains \"::\" but does not start with K10; was its beginning lost?")
		}
		return shortToken(s), nil
	}
	if len(hash) != caHashSize || !isHex(hash) {
		return Token{}, fmt.Errorf("parse token: between K10 and \"::\" it has %d characters instead of the %d hexadecimal ones of the CA hash", len(hash), caHashSize)
	}
	t := Token{CAHash: strings.ToLower(hash)}
	if user, password, ok := strings.Cut(cred, ":"); ok {
		t.User, t.Password = user, password
	} else if id, secret, ok := bootstrapToken(cred); ok {
		t.User, t.Password, t.bootstrap = id, secret, true
	} else {
		return Token{}, errors.New("parse token: after \"::\" it needs server:<password>, node:<password>, or a bootstrap token")
	}
	if !t.bootstrap && t.User != tokenServerUser && t.User != tokenNodeUser {
		return Token{}, errors.New("parse token: after \"::\" it must say server or node")
	}
	if t.Password == "" {
		return Token{}, errors.New("parse token: its password is empty")
	}
	return t, nil
}

func shortToken(s string) Token {
	if id, secret, ok := bootstrapToken(s); ok {
		return Token{User: id, Password: secret, bootstrap: true}
	}
	return Token{Password: s}
}

// bootstrapToken splits Kubernetes' form, [a-z0-9]{6}.[a-z0-9]{16}.
func bootstrapToken(s string) (id, secret string, ok bool) {
	id, secret, ok = strings.Cut(s, ".")
	plain := func(s string) bool {
		return strings.IndexFunc(s, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') }) < 0
	}
	return id, secret, ok && len(id) == 6 && len(secret) == 16 && plain(id) && plain(secret)
}

func isHex(s string) bool {
	_, err := hex.DecodeString(s)
	return err == nil
}

// IsBootstrap says whether it is a Kubernetes bootstrap token, which can join
// agents but never a server.
func (t Token) IsBootstrap() bool { return t.bootstrap }

// Secret is the token as it is given to a joining node.
func (t Token) Secret() string {
	cred := t.Password
	switch {
	case t.bootstrap:
		cred = t.User + "." + t.Password
	case t.CAHash != "":
		cred = t.User + ":" + t.Password
	}
	if t.CAHash == "" {
		return cred
	}
	return tokenPrefix + t.CAHash + tokenSeparator + cred
}

// String identifies the token without revealing it.
func (t Token) String() string {
	if t.CAHash == "" {
		return "token " + t.Fingerprint()
	}
	return fmt.Sprintf("token %s of cluster %.12s", t.Fingerprint(), t.CAHash)
}

// GoString is String, so that %#v does not reveal the token either.
func (t Token) GoString() string { return t.String() }

// Fingerprint identifies the password in messages; it is also the name of the
// bootstrap data in the datastore.
func (t Token) Fingerprint() string { return fingerprint(t.Password) }

func fingerprint(password string) string {
	sum := sha256.Sum256([]byte(password))
	return hex.EncodeToString(sum[:])[:12]
}

// CAHash is what the full form of a token says about the server CA bundle.
func CAHash(bundle []byte) string {
	sum := sha256.Sum256(bundle)
	return hex.EncodeToString(sum[:])
}

// TokenFile is where the server keeps its token.
func TokenFile(l datadir.Layout) string { return l.Server("token") }

// LoadToken returns the server's token: the configured one, else the one of
// this data dir, else a new one. What is not on disk yet is written there
// before it returns, in the short form while the authorities do not exist.
func LoadToken(l datadir.Layout, c config.Token) (Token, error) {
	path := TokenFile(l)
	wanted, source, err := configuredToken(c)
	if err != nil {
		return Token{}, err
	}
	kept, err := readToken(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Token{}, config.Hinted(err, "restore the file, or remove it and start with --token")
	}
	exists := err == nil
	switch {
	case source == "" && exists:
		return kept, nil
	case source == "":
		if wanted, err = generateToken(); err != nil {
			return Token{}, err
		}
	case exists && kept.Password == wanted.Password:
		return wanted, nil
	case exists && kept.CAHash != "":
		return Token{}, config.Hinted(
			fmt.Errorf("the token from %s (fingerprint %s) is not the one of this data dir (fingerprint %s in %s)", source, wanted.Fingerprint(), kept.Fingerprint(), path),
			fmt.Sprintf("start with the token in %s, or without any; to change it use kelson token rotate; nothing was changed", path))
	}
	if err := datadir.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return Token{}, fmt.Errorf("store token: %w", err)
	}
	if err := datadir.WriteFile(path, []byte(Token{Password: wanted.Password}.Secret()+"\n"), 0o600); err != nil {
		return Token{}, fmt.Errorf("store token: %w", err)
	}
	return wanted, nil
}

// EnsureToken is LoadToken once the authorities exist: a configured token is
// checked against them, the file gets its full form, and node-token links to it.
// The hash in the file follows the authorities; it is this server's own note.
func EnsureToken(l datadir.Layout, c config.Token, caBundle []byte) (Token, error) {
	path, hash := TokenFile(l), CAHash(caBundle)
	wanted, source, err := configuredToken(c)
	if err != nil {
		return Token{}, err
	}
	if wanted.CAHash != "" && wanted.CAHash != hash {
		return Token{}, foreignToken(source, wanted.CAHash, hash)
	}
	t, err := LoadToken(l, c)
	if err != nil {
		return Token{}, err
	}
	t = Token{CAHash: hash, User: tokenServerUser, Password: t.Password}
	if kept, err := readToken(path); err != nil || kept != t {
		if err := datadir.WriteFile(path, []byte(t.Secret()+"\n"), 0o600); err != nil {
			return Token{}, fmt.Errorf("store token: %w", err)
		}
	}
	link := l.Server("node-token")
	if err := os.Symlink("token", link); err != nil && !errors.Is(err, fs.ErrExist) {
		return Token{}, fmt.Errorf("link %s: %w", link, err)
	}
	return t, nil
}

func foreignToken(source, has, want string) error {
	return config.Hinted(
		fmt.Errorf("the token from %s is for a cluster whose server CA has the hash %.12s…, and the one here has %.12s…", source, has, want),
		"use the token of this cluster (or its password alone), or the server-ca.crt and .key that the token was made for")
}

// configuredToken returns the token of the configuration and where it came
// from, "" if none is configured.
func configuredToken(c config.Token) (t Token, source string, err error) {
	value := c.Value
	switch {
	case value != "":
		source = "--token"
	case c.File != "":
		data, err := os.ReadFile(c.File)
		if err != nil {
			return Token{}, "", fmt.Errorf("read token: %w", err)
		}
		value, source = string(data), c.File
	default:
		return Token{}, "", nil
	}
	if t, err = ParseToken(value); err != nil {
		return Token{}, "", fmt.Errorf("%s: %w", source, err)
	}
	return t, source, serverToken(t, source)
}

func readToken(path string) (Token, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Token{}, fmt.Errorf("read token: %w", err)
	}
	t, err := ParseToken(string(data))
	if err != nil {
		return Token{}, fmt.Errorf("%s: %w", path, err)
	}
	return t, serverToken(t, path)
}

// serverToken refuses tokens that only an agent can use.
func serverToken(t Token, source string) error {
	if t.bootstrap || t.User == tokenNodeUser {
		return config.Hinted(fmt.Errorf("%s: the token is for agents only and cannot start a server", source), "use the server token (server/token in the data dir of a server)")
	}
	return nil
}

func generateToken() (Token, error) {
	raw := make([]byte, 16)
	if _, err := rand.Read(raw); err != nil {
		return Token{}, fmt.Errorf("generate token: %w", err)
	}
	return Token{Password: hex.EncodeToString(raw)}, nil
}

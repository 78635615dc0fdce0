package config

import (
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
)

// redacted is all that a Secret ever prints.
const redacted = "[secret]"

// Secret is a value that must not be seen. No formatting verb, encoder or
// logger prints it, not even as part of a struct; Reveal is the only way to it.
// In a configuration it is given by name, {"secret": "NAME"}; the value comes
// beside the configuration. The zero value is no secret.
type Secret struct{ at **sealed }

// sealed is behind two pointers because fmt prints unexported fields without
// asking their methods. Through one pointer it would still see: for a verb that
// does not fit it prints what a pointer to a struct points to.
type sealed struct{ name, value string }

// NewSecret is a secret of a known value.
func NewSecret(value string) Secret {
	return seal(sealed{value: value})
}

func seal(s sealed) Secret {
	at := &s
	return Secret{&at}
}

// open is what the secret holds, nothing for the zero value.
func (s Secret) open() sealed {
	if s.at == nil {
		return sealed{}
	}
	return **s.at
}

// Reveal is the value, "" if there is none.
func (s Secret) Reveal() string { return s.open().value }

// Name is the name by which the configuration refers to the secret.
func (s Secret) Name() string { return s.open().name }

// IsSet tells whether the configuration gives this secret. While it is only
// validated, a secret that is set may have no value yet.
func (s Secret) IsSet() bool { return s.at != nil }

// Equal compares name and value, in constant time for the value.
func (s Secret) Equal(other Secret) bool {
	return s.IsSet() == other.IsSet() && s.Name() == other.Name() &&
		subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(other.Reveal())) == 1
}

func (s Secret) String() string { return redacted }

// GoString redacts %#v.
func (s Secret) GoString() string { return redacted }

// Format redacts every verb.
func (s Secret) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) } //nolint:errcheck // a fmt.State takes all

// LogValue redacts slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON redacts.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// MarshalText redacts, also for YAML and XML.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// String is for printers that follow pointers and call methods of unexported
// fields.
func (s sealed) String() string { return redacted }

// GoString is as String.
func (s sealed) GoString() string { return redacted }

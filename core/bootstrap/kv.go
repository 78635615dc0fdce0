package bootstrap

import (
	"context"
	"errors"
)

// Prefix is what all bootstrap keys in the datastore start with.
const Prefix = "/bootstrap/"

// What a KV returns when the key is not in the state that the caller expects.
var (
	ErrExists   = errors.New("the key exists already")
	ErrConflict = errors.New("the key was changed meanwhile")
)

// KeyValue is a key of the datastore.
type KeyValue struct {
	Key   string
	Value []byte
	Rev   int64
}

// KV is the datastore as the bootstrap data needs it. Values may be empty.
type KV interface {
	// Get returns revision 0 and no error for a key that does not exist.
	Get(ctx context.Context, key string) (value []byte, rev int64, err error)
	// Create returns ErrExists when the key exists.
	Create(ctx context.Context, key string, value []byte) error
	// Update returns ErrConflict when the key is not at the revision.
	Update(ctx context.Context, key string, value []byte, rev int64) error
	// List returns the keys that start with the prefix.
	List(ctx context.Context, prefix string) ([]KeyValue, error)
}

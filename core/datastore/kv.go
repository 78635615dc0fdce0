package datastore

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kelson-io/kelson/core/bootstrap"
)

// KV is the few plain operations that the bootstrap data needs, over the same
// endpoint as the API server's. It uses only the transaction shapes that kine
// serves.
type KV struct {
	Client func() (*clientv3.Client, error)
}

var _ bootstrap.KV = KV{}

// Get implements bootstrap.KV.
func (kv KV) Get(ctx context.Context, key string) ([]byte, int64, error) {
	client, err := kv.Client()
	if err != nil {
		return nil, 0, err
	}
	resp, err := client.Get(ctx, key)
	if err != nil {
		return nil, 0, fmt.Errorf("get %s: %w", key, err)
	}
	if len(resp.Kvs) == 0 {
		return nil, 0, nil
	}
	return resp.Kvs[0].Value, resp.Kvs[0].ModRevision, nil
}

// Create implements bootstrap.KV.
func (kv KV) Create(ctx context.Context, key string, value []byte) error {
	client, err := kv.Client()
	if err != nil {
		return err
	}
	resp, err := client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, string(value))).
		Commit()
	if err != nil {
		return fmt.Errorf("create %s: %w", key, err)
	}
	if !resp.Succeeded {
		return fmt.Errorf("create %s: %w", key, bootstrap.ErrExists)
	}
	return nil
}

// Update implements bootstrap.KV.
func (kv KV) Update(ctx context.Context, key string, value []byte, rev int64) error {
	client, err := kv.Client()
	if err != nil {
		return err
	}
	resp, err := client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(key), "=", rev)).
		Then(clientv3.OpPut(key, string(value))).
		Else(clientv3.OpGet(key)).
		Commit()
	if err != nil {
		return fmt.Errorf("update %s: %w", key, err)
	}
	if !resp.Succeeded {
		return fmt.Errorf("update %s: %w", key, bootstrap.ErrConflict)
	}
	return nil
}

// List implements bootstrap.KV.
func (kv KV) List(ctx context.Context, prefix string) ([]bootstrap.KeyValue, error) {
	client, err := kv.Client()
	if err != nil {
		return nil, err
	}
	resp, err := client.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", prefix, err)
	}
	out := make([]bootstrap.KeyValue, 0, len(resp.Kvs))
	for _, item := range resp.Kvs {
		out = append(out, bootstrap.KeyValue{Key: string(item.Key), Value: item.Value, Rev: item.ModRevision})
	}
	return out, nil
}

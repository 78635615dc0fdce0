package datastore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/drivers/generic"
	"github.com/k3s-io/kine/pkg/drivers/sqlite"
	"github.com/k3s-io/kine/pkg/server"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/kelson-io/kelson/core/boot"
	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/datadir"
)

// Kine's own defaults live in its command line; these are the same values.
const (
	notifyInterval   = 5 * time.Second // watch progress
	compactTimeout   = 5 * time.Second
	compactMinRetain = 1000
	compactBatchSize = 1000
	pollBatchSize    = 500
	pollInterval     = time.Second
	emulatedEtcd     = "3.6.11"
	maxMessage       = 2<<20 + 512<<10 // etcd's request limit and gRPC's overhead
	stopGrace        = 2 * time.Second
	minPing          = 5 * time.Second // as etcd's server
)

// Kine is the boot step of the built-in datastore.
type Kine struct {
	layout datadir.Layout
	config config.Datastore
	log    hclog.Logger

	mu     sync.Mutex
	server *grpc.Server
	cancel context.CancelFunc // ends the backend
	wg     *sync.WaitGroup    // the backend's goroutines
	serve  chan error         // result of the gRPC server
	exited chan error
	client *clientv3.Client
}

var (
	_ boot.Step    = (*Kine)(nil)
	_ boot.Watched = (*Kine)(nil)
)

// New returns the step; nothing is opened yet.
func New(layout datadir.Layout, cfg config.Datastore, log hclog.Logger) *Kine {
	return &Kine{layout: layout, config: cfg, log: log, exited: make(chan error, 1)}
}

// Name implements boot.Step.
func (*Kine) Name() string { return "datastore" }

// Endpoint is the URL that the API server dials.
func (k *Kine) Endpoint() string { return "unix://" + k.socket() }

func (k *Kine) socket() string { return k.layout.RunPath("kine.sock") }

// Start implements boot.Step: it checks the database, opens it and listens.
func (k *Kine) Start(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	path := databasePath(k.layout)
	k.log.Info("Using datastore", "kind", "sqlite", "path", path, "durability", k.config.Durability)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("create database folder: %w", err)
	}
	if err := check(ctx, k.layout); err != nil {
		return err
	}
	bctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	wg := &sync.WaitGroup{}
	backend, err := k.open(bctx, wg, path)
	if err == nil {
		err = k.listen(bctx, backend)
	}
	if err != nil {
		cancel()
		wg.Wait()
		return err
	}
	k.cancel, k.wg = cancel, wg
	return nil
}

func (k *Kine) open(ctx context.Context, wg *sync.WaitGroup, path string) (server.Backend, error) {
	_, backend, err := sqlite.New(ctx, wg, &drivers.Config{
		DataSourceName:       dsn(path, k.config.Durability),
		ConnectionPoolConfig: generic.ConnectionPoolConfig{},
		CompactTimeout:       compactTimeout,
		CompactMinRetain:     compactMinRetain,
		CompactBatchSize:     compactBatchSize,
		PollBatchSize:        pollBatchSize,
		PollInterval:         pollInterval,
	})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	if err := backend.Start(ctx); err != nil {
		return nil, fmt.Errorf("start kine on %s: %w", path, err)
	}
	return backend, nil
}

// listen serves the backend's etcd face on the socket, for root only.
func (k *Kine) listen(ctx context.Context, backend server.Backend) error {
	socket := k.socket()
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove stale socket: %w", err)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("listen for kine: %w", err)
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		return errors.Join(fmt.Errorf("protect %s: %w", socket, err), listener.Close())
	}
	k.server = grpc.NewServer(
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(1<<31-1),
		// The API server pings every 30 s; gRPC's own policy would hang up on it.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPing, PermitWithoutStream: true}),
	)
	server.New(backend, "unix", notifyInterval, emulatedEtcd).Register(k.server)
	k.serve = make(chan error, 1)
	go func(s *grpc.Server, result chan<- error) {
		err := s.Serve(listener)
		if err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			k.exited <- fmt.Errorf("serve %s: %w", socket, err)
		}
		result <- err
	}(k.server, k.serve)
	k.log.Info("Kine available at unix://" + socket)
	return nil
}

// Ready implements boot.Step: a read through the socket succeeds.
func (k *Kine) Ready(ctx context.Context) error {
	client, err := k.Client()
	if err != nil {
		return err
	}
	if _, err := client.Get(ctx, "/kelson/ready"); err != nil {
		return fmt.Errorf("read through %s: %w", k.socket(), err)
	}
	return nil
}

// Client returns a client of the endpoint; it is closed by Stop.
func (k *Kine) Client() (*clientv3.Client, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.client != nil {
		return k.client, nil
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{k.Endpoint()}, DialTimeout: 10 * time.Second})
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", k.Endpoint(), err)
	}
	k.client = client
	return client, nil
}

// Exited implements boot.Watched.
func (k *Kine) Exited() <-chan error { return k.exited }

// Stop implements boot.Step: requests drain, then the database is closed, which
// folds its write-ahead log in.
func (k *Kine) Stop(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	var errs []error
	if k.client != nil {
		if err := k.client.Close(); err != nil && !errors.Is(err, context.Canceled) {
			errs = append(errs, fmt.Errorf("close client: %w", err))
		}
		k.client = nil
	}
	if k.cancel == nil {
		return errors.Join(errs...)
	}
	force := time.AfterFunc(stopGrace, k.server.Stop) // watches never end by themselves
	k.server.GracefulStop()
	force.Stop()
	k.cancel()
	k.cancel = nil
	closed := make(chan struct{})
	go func() { k.wg.Wait(); close(closed) }()
	select {
	case <-closed:
	case <-ctx.Done():
		errs = append(errs, fmt.Errorf("close database: %w", context.Cause(ctx)))
	}
	return errors.Join(errs...)
}

package serve

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/kelson-io/kelson/sdk/internal/wire"
	"github.com/kelson-io/kelson/sdk/plugin"
	pluginv1 "github.com/kelson-io/kelson/sdk/proto/plugin/v1"
)

// The handshake between host and plugin.
const (
	// CookieKey and CookieValue are the variable that the host sets, so that a
	// program knows that it is not run by hand. It is no protection.
	CookieKey   = "KELSON_PLUGIN"
	CookieValue = "kelson.plugin.v1"
	// ProtocolVersion is the version of the handshake and the base contract.
	ProtocolVersion = 1
	// SocketDirKey is the variable with the folder for the socket.
	SocketDirKey = goplugin.EnvUnixSocketDir
	// LifetimeKey is the variable with the plugin's lifetime; LifetimeNode is the
	// value with which it outlives the host.
	LifetimeKey  = "KELSON_PLUGIN_LIFETIME"
	LifetimeNode = "node"
)

const (
	// drainTime bounds the drain of a program that ends by itself; a host that
	// wants to give more time calls Drain.
	drainTime = 5 * time.Second
	// stopTime bounds the end of the gRPC server.
	stopTime = 2 * time.Second
	// maxSocketPath is what fits into a socket address.
	maxSocketPath = 107
)

// serve runs the plugin for the host until it is told to end.
func serve(proc Process, p plugin.Plugin, services []func(grpc.ServiceRegistrar)) error {
	if err := p.Info().Check(); err != nil {
		return fmt.Errorf("describe the plugin: %w", err)
	}
	if err := refuse(proc.Getenv); err != nil {
		return err
	}
	if err := protectMemory(); err != nil {
		return err
	}
	// Before the socket exists: a host that dies in between is noticed.
	end := endings(proc)
	base := plugin.NewServer(p)
	server := &server{proc: proc, services: append([]func(grpc.ServiceRegistrar){base.Register}, services...)}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done, err := server.start(ctx)
	if err != nil {
		return err
	}
	select {
	case <-done:
		return nil
	case why := <-end:
		fmt.Fprintf(proc.Stderr, "%s: draining, then ending\n", why)
	}
	drained := make(chan error, 1)
	go func() { // with a context of its own: ctx ends with the server
		limit, release := context.WithTimeout(context.Background(), drainTime)
		defer release()
		_, err := base.Drain(limit, &pluginv1.DrainRequest{})
		drained <- err
	}()
	select {
	case err = <-drained:
	case <-time.After(drainTime):
		err = errors.New("not done in time")
	case why := <-end:
		err = fmt.Errorf("cut short: %s", why)
	}
	if err != nil {
		fmt.Fprintf(proc.Stderr, "drain: %v\n", err)
	}
	cancel()
	select {
	case <-done:
	case <-time.After(stopTime):
	}
	return nil
}

// refuse names what the host may not ask for.
func refuse(getenv func(string) string) error {
	if getenv("PLUGIN_CLIENT_CERT") != "" {
		return errors.New("the host asks for AutoMTLS, which Kelson's plugins do not speak: the socket's mode protects it")
	}
	if getenv("PLUGIN_MULTIPLEX_GRPC") != "" {
		return errors.New("the host asks for multiplexing, which Kelson's plugins do not speak")
	}
	dir := getenv(SocketDirKey)
	if n := len(filepath.Join(dir, "plugin0123456789")); n > maxSocketPath {
		return fmt.Errorf("make a socket in %s: its path would have %d characters, at most %d: %s must be shorter", dir, n, maxSocketPath, SocketDirKey)
	}
	return nil
}

// server runs go-plugin's server in its test mode. In the other mode it would
// replace os.Stdout and os.Stderr by pipes that block the plugin once nobody
// reads them, end the process by itself, and could not be told to stop.
type server struct {
	proc     Process
	services []func(grpc.ServiceRegistrar)
}

// start serves until ctx ends or the host says so, which closes done.
func (s *server) start(ctx context.Context) (done <-chan struct{}, err error) {
	listening := make(chan *goplugin.ReattachConfig, 1)
	closed := make(chan struct{})
	// What go-plugin logs matters only if it cannot start: at the end it calls
	// the closed listener an error.
	var said bytes.Buffer
	// The socket is made inside; nothing may see it with a wider mode.
	umask := unix.Umask(0o177)
	go goplugin.Serve(&goplugin.ServeConfig{
		HandshakeConfig: goplugin.HandshakeConfig{ProtocolVersion: ProtocolVersion, MagicCookieKey: CookieKey, MagicCookieValue: CookieValue},
		Plugins:         goplugin.PluginSet{"plugin": &registration{services: s.services}},
		GRPCServer: func(opts []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(wire.ServerOptions(s.proc.Stderr), opts...)...)
		},
		Logger: hclog.New(&hclog.LoggerOptions{Level: hclog.Error, Output: &said, DisableTime: true}),
		Test:   &goplugin.ServeTestConfig{Context: ctx, ReattachConfigCh: listening, CloseCh: closed},
	})
	select {
	case at := <-listening:
		unix.Umask(umask)
		if _, err := fmt.Fprintf(s.proc.Stdout, "%d|%d|%s|%s|%s|\n", goplugin.CoreProtocolVersion, ProtocolVersion, at.Addr.Network(), at.Addr.String(), goplugin.ProtocolGRPC); err != nil {
			return closed, fmt.Errorf("tell the host the socket: %w", err)
		}
		return closed, s.releaseStdout()
	case <-closed:
		unix.Umask(umask)
		return nil, fmt.Errorf("make a socket in %s: %s", s.proc.Getenv(SocketDirKey), bytes.TrimSpace(said.Bytes()))
	}
}

// releaseStdout turns the standard output into the standard error: the host
// reads one line of it, and a pipe that nobody reads would block the plugin.
func (s *server) releaseStdout() error {
	if s.proc.Stdout != io.Writer(os.Stdout) {
		return nil
	}
	if err := unix.Dup3(int(os.Stderr.Fd()), int(os.Stdout.Fd()), 0); err != nil {
		return fmt.Errorf("leave the standard output: %w", err)
	}
	return nil
}

// registration is the plugin as go-plugin sees it.
type registration struct {
	goplugin.NetRPCUnsupportedPlugin
	services []func(grpc.ServiceRegistrar)
}

// GRPCServer registers the services.
func (r *registration) GRPCServer(_ *goplugin.GRPCBroker, s *grpc.Server) error {
	for _, register := range r.services {
		register(s)
	}
	return nil
}

// GRPCClient is the host's side.
func (r *registration) GRPCClient(context.Context, *goplugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, errors.New("a plugin is no client")
}

var _ goplugin.GRPCPlugin = (*registration)(nil)

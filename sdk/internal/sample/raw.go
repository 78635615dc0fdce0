package sample

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync/atomic"
	"syscall"

	"google.golang.org/grpc"

	"github.com/kelson-io/kelson/sdk/plugin"
	pluginv1 "github.com/kelson-io/kelson/sdk/proto/plugin/v1"
	"github.com/kelson-io/kelson/sdk/serve"
)

// handmade speaks the wire without sdk/serve, and takes one configuration only,
// which the SDK would not let it refuse.
type handmade struct {
	*plugin.Server

	calls atomic.Int64
}

// Configure succeeds once.
func (h *handmade) Configure(ctx context.Context, r *pluginv1.ConfigureRequest) (*pluginv1.ConfigureResponse, error) {
	answer, err := h.Server.Configure(ctx, r)
	if err == nil && h.calls.Add(1) > 1 {
		return nil, errors.New("configured already")
	}
	return answer, err
}

func serveHandmade(proc serve.Process, p plugin.Plugin) int {
	socket := filepath.Join(proc.Getenv(serve.SocketDirKey), "raw.sock")
	listener, err := net.Listen("unix", socket)
	if err == nil {
		err = os.Chmod(socket, 0o600)
	}
	if err != nil {
		fmt.Fprintln(proc.Stderr, err)
		return 1
	}
	server := grpc.NewServer()
	pluginv1.RegisterPluginServer(server, &handmade{Server: plugin.NewServer(p)})
	stop, release := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer release()
	context.AfterFunc(stop, server.Stop)
	fmt.Fprintf(proc.Stdout, "1|1|unix|%s|grpc|\n", socket)
	if err := server.Serve(listener); err != nil {
		fmt.Fprintln(proc.Stderr, err)
		return 1
	}
	return 0
}

package plugintest

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/kelson-io/kelson/sdk/internal/wire"
	"github.com/kelson-io/kelson/sdk/plugin"
	pluginv1 "github.com/kelson-io/kelson/sdk/proto/plugin/v1"
)

// Conn is a plugin that is served. Clients of the kinds' services are made of
// the connection it embeds: cniv1.NewNetworkClient(conn).
type Conn struct {
	*grpc.ClientConn
	// Plugin is the client of the base contract.
	Plugin pluginv1.PluginClient
	// Socket is the path of the Unix socket.
	Socket string
}

// Serve serves a plugin in this process on a Unix socket, with the very server
// that sdk/serve uses, until the test ends. services are the same that the
// plugin's main gives to serve.Main.
func Serve(t testing.TB, p plugin.Plugin, services ...func(grpc.ServiceRegistrar)) *Conn {
	t.Helper()
	socket := filepath.Join(shortDir(t), "plugin.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(wire.ServerOptions(t.Output())...)
	plugin.NewServer(p).Register(server)
	for _, register := range services {
		register(server)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	conn := dial(t, socket)
	t.Cleanup(func() {
		conn.Close()
		server.Stop()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return conn
}

// dial connects as the host does.
func dial(t testing.TB, socket string) *Conn {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(wire.MaxMessage)))
	if err != nil {
		t.Fatal(err)
	}
	return &Conn{ClientConn: conn, Plugin: pluginv1.NewPluginClient(conn), Socket: socket}
}

// shortDir is a temporary folder whose path leaves room for a socket's name;
// that of a test's own may be too long.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kp") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

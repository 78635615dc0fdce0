package cni

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/kelson-io/kelson/sdk/cni/frame"
	cniv1 "github.com/kelson-io/kelson/sdk/proto/cni/v1"
)

// scripted is a Network of functions; those that are nil succeed.
type scripted struct {
	add      func(ctx context.Context, r *Request) (*Result, error)
	del      func(ctx context.Context, r *Request) error
	start    func() (Started, error)
	status   func() error
	topology func(Topology) error
	collect  func(valid []Attachment) ([]Attachment, error)
	teardown func(all bool) error

	mu    sync.Mutex
	setup Setup
}

func (s *scripted) Preflight(_ context.Context, n Node) ([]Problem, error) {
	return []Problem{{Warning: true, Summary: "node " + n.Name, Hint: "none"}}, nil
}

func (s *scripted) Setup(_ context.Context, setup Setup) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.setup = setup
	return nil
}

func (s *scripted) Start(context.Context) (Started, error) {
	if s.start != nil {
		return s.start()
	}
	return Started{MTU: 1450, Published: map[string]string{"mac": "02::"}}, nil
}

func (s *scripted) Topology(_ context.Context, change Topology) error {
	if s.topology != nil {
		return s.topology(change)
	}
	return nil
}

func (s *scripted) Status(context.Context) error {
	if s.status != nil {
		return s.status()
	}
	return nil
}

func (s *scripted) Collect(_ context.Context, valid []Attachment) ([]Attachment, error) {
	if s.collect != nil {
		return s.collect(valid)
	}
	return nil, nil
}

func (s *scripted) Teardown(_ context.Context, all bool) error {
	if s.teardown != nil {
		return s.teardown(all)
	}
	return nil
}

func (s *scripted) Add(ctx context.Context, r *Request) (*Result, error) {
	if s.add != nil {
		return s.add(ctx, r)
	}
	return &Result{CNIVersion: "1.0.0", Interfaces: []*types100.Interface{{Name: r.IfName, Sandbox: r.Netns}}}, nil
}

func (s *scripted) Del(ctx context.Context, r *Request) error {
	if s.del != nil {
		return s.del(ctx, r)
	}
	return nil
}

func (s *scripted) Check(context.Context, *Request) error { return nil }

// served is a Network behind gRPC.
type served struct {
	cniv1.NetworkClient

	socket string // of attachments
}

func serve(t *testing.T, n Network, o Options) *served {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("the attachment socket takes root only")
	}
	o.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	dir, err := os.MkdirTemp("", "cni") //nolint:usetesting // socket paths are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	listener, err := net.Listen("unix", filepath.Join(dir, "grpc"))
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	RegisterWith(n, o)(server)
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient("unix:"+filepath.Join(dir, "grpc"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	s := &served{cniv1.NewNetworkClient(conn), filepath.Join(dir, "attach.sock")}
	t.Cleanup(func() { // ends the listener
		_, _ = s.Teardown(context.Background(), &cniv1.TeardownRequest{All: true})
	})
	return s
}

func (s *served) begin(t *testing.T) {
	t.Helper()
	if _, err := s.Setup(t.Context(), s.request()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Start(t.Context(), &cniv1.StartRequest{}); err != nil {
		t.Fatal(err)
	}
}

func (s *served) request() *cniv1.SetupRequest {
	return &cniv1.SetupRequest{
		Node:         &cniv1.Node{Name: "n1", Addresses: []string{"192.0.2.1"}, PodCidrs: []string{"10.42.0.0/24", "fd00::/64"}},
		ClusterCidrs: []string{"10.42.0.0/16"}, Mtu: 1500, Socket: s.socket, Nftables: true,
	}
}

const plainConf = `{"cniVersion":"1.1.0","name":"kelson","type":"kelson-cni"}`

func env(id string) []string {
	return []string{"CNI_CONTAINERID=" + id, "CNI_IFNAME=eth0", "CNI_NETNS=/run/netns/x", "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=pod"}
}

func (s *served) ask(t *testing.T, r frame.Request) *frame.Reply {
	t.Helper()
	if r.Stdin == nil {
		r.Stdin = []byte(plainConf)
	}
	raw, err := r.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return s.raw(t, raw)
}

func (s *served) raw(t *testing.T, raw []byte) *frame.Reply {
	t.Helper()
	reply, err := s.try(raw)
	if err != nil {
		t.Fatal(err)
	}
	return reply
}

func (s *served) try(raw []byte) (*frame.Reply, error) {
	conn, err := net.Dial("unix", s.socket)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if _, err := conn.Write(raw); err != nil {
		return nil, err
	}
	return frame.ReadReply(conn)
}

func code(t *testing.T, r *frame.Reply) Code {
	t.Helper()
	if !r.Failed {
		return 0
	}
	var e types.Error
	if err := json.Unmarshal(r.JSON, &e); err != nil || e.Code == 0 || e.Msg == "" {
		t.Fatalf("error object %s: %v", r.JSON, err)
	}
	return Code(e.Code)
}

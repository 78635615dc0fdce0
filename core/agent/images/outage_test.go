package images

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/errdefs"
	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// dying is containerd's image service, which breaks off the first calls as a
// process does that is being killed.
type dying struct {
	imagesapi.UnimplementedImagesServer
	calls, broken int32
}

func (d *dying) List(context.Context, *imagesapi.ListImagesRequest) (*imagesapi.ListImagesResponse, error) {
	if atomic.AddInt32(&d.calls, 1) <= d.broken {
		return nil, status.Error(codes.Unavailable, "error reading from server: EOF")
	}
	return &imagesapi.ListImagesResponse{}, nil
}

// TestFirstPassSurvivesContainerd begins before containerd is there, and sees
// it break off a pass.
func TestFirstPassSurvivesContainerd(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "containerd.sock")
	importer := New(Deps{
		Socket: socket, Snapshotter: func() string { return "native" }, Payload: filepath.Join(dir, "payload"),
		User: filepath.Join(dir, "user"), Index: filepath.Join(dir, "index.json"), Log: hclog.NewNullLogger(),
	})
	if err := importer.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := importer.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	soon, cancel := context.WithCancel(t.Context())
	cancel()
	if err := importer.Ready(soon); err == nil || strings.Contains(err.Error(), "context canceled") {
		t.Errorf("ready without containerd: %v", err)
	}

	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server, service := grpc.NewServer(), &dying{broken: 2}
	imagesapi.RegisterImagesServer(server, service)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := importer.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	if calls := atomic.LoadInt32(&service.calls); calls != 3 {
		t.Errorf("%d passes, want 3", calls)
	}
}

func TestReadyNamesTheReason(t *testing.T) {
	importer := New(Deps{Log: hclog.NewNullLogger()})
	importer.err = errors.New("list images: connection refused")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := importer.Ready(ctx); err == nil || err.Error() != "images not imported: list images: connection refused" {
		t.Error(err)
	}
}

func TestUnavailable(t *testing.T) {
	for _, c := range []struct {
		err  error
		want bool
	}{
		{fmt.Errorf("import a.tar: %w", errdefs.ErrUnavailable), true},
		{fmt.Errorf("import a.tar: %w", status.Error(codes.Unavailable, "EOF")), true},
		{context.Canceled, true},
		{errors.New("invalid tar header"), false},
		{fmt.Errorf("read a.tar: %w", net.ErrClosed), false},
		{errdefs.ErrNotFound, false},
	} {
		if got := unavailable(c.err); got != c.want {
			t.Errorf("%v: %v", c.err, got)
		}
	}
}

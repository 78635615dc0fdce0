package node

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/kelson-io/kelson/core/boot"
	"github.com/kelson-io/kelson/core/pluginhost"
	cniv1 "github.com/kelson-io/kelson/sdk/proto/cni/v1"
)

const retireDeadline = 30 * time.Second

// retire is the step that ends network plugins of an earlier choice, once the
// chosen one connects pods: what they made and no pod uses is removed first.
func (s *server) retire() boot.Step {
	return step{name: "former-networks", start: func(ctx context.Context) error {
		records, _ := filepath.Glob(filepath.Join(pluginhost.RunDir(s.layout), "cni-*.json")) // the pattern is valid
		for _, record := range records {
			name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(record), "cni-"), ".json")
			if name == s.config.Network.CNI {
				continue
			}
			if err := s.retirePlugin(ctx, name); err != nil {
				return err
			}
			s.log.Info("former network plugin ended", "plugin", name)
		}
		return nil
	}}
}

func (s *server) retirePlugin(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, retireDeadline)
	defer cancel()
	torn := make(chan error, 1)
	old := s.plugins.Supervise(pluginhost.Spec{Kind: "cni", Name: name, Up: func(ctx context.Context, conn grpc.ClientConnInterface) error {
		_, err := cniv1.NewNetworkClient(conn).Teardown(ctx, &cniv1.TeardownRequest{})
		select {
		case torn <- err:
		default:
		}
		return nil
	}})
	if err := old.Start(ctx); err != nil {
		return fmt.Errorf("take over former network %s: %w", name, err)
	}
	var err error
	select {
	case err = <-torn:
	case <-ctx.Done():
		err = old.Ready(ctx)
	}
	if err != nil {
		s.log.Warn("former network plugin leaves something behind", "plugin", name, "err", err)
	}
	return old.End(context.WithoutCancel(ctx))
}

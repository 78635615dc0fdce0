package agent

import (
	"context"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// cri is a small client that runs pods.
type cri struct {
	t       *testing.T
	runtime runtimeapi.RuntimeServiceClient
}

func newCRI(t *testing.T, socket string) *cri {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &cri{t, runtimeapi.NewRuntimeServiceClient(conn)}
}

type pod struct {
	id, container string
	ips           []string
}

// runPod runs podprobe with an argument in a pod of its own.
func (c *cri) runPod(ctx context.Context, name, image, argument string, ports ...*runtimeapi.PortMapping) pod {
	c.t.Helper()
	sandbox := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "test", Uid: name},
		LogDirectory: c.t.TempDir(), PortMappings: ports,
		Linux: &runtimeapi.LinuxPodSandboxConfig{CgroupParent: "/kelson-agent-test"},
	}
	made, err := c.runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: sandbox})
	if err != nil {
		c.t.Fatal(err)
	}
	container, err := c.runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{
		PodSandboxId: made.PodSandboxId, SandboxConfig: sandbox,
		Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: name}, Image: &runtimeapi.ImageSpec{Image: image},
			Command: []string{"/podprobe", argument}, LogPath: "log",
		},
	})
	if err == nil {
		_, err = c.runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: container.ContainerId})
	}
	if err != nil {
		c.t.Fatal(err)
	}
	status, err := c.runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: made.PodSandboxId})
	if err != nil {
		c.t.Fatal(err)
	}
	p := pod{id: made.PodSandboxId, container: container.ContainerId, ips: []string{status.Status.Network.Ip}}
	for _, extra := range status.Status.Network.AdditionalIps {
		p.ips = append(p.ips, extra.Ip)
	}
	return p
}

// get asks for a URL from within a pod, until it answers.
func (c *cri) get(ctx context.Context, p pod, url string) string {
	c.t.Helper()
	var body string
	err := poll(ctx, 50*time.Millisecond, func(ctx context.Context) error {
		answer, err := c.runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: p.container, Cmd: []string{"/podprobe", "get", url}, Timeout: 10})
		if err != nil {
			return err
		}
		if answer.ExitCode != 0 {
			return fmt.Errorf("GET %s: %s", url, answer.Stderr)
		}
		body = string(answer.Stdout)
		return nil
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return body
}

func (c *cri) removeAll(ctx context.Context) {
	list, err := c.runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		c.t.Error(err)
		return
	}
	for _, p := range list.Items {
		_, err := c.runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.Id})
		if err == nil {
			_, err = c.runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.Id})
		}
		if err != nil {
			c.t.Error(err)
		}
	}
}

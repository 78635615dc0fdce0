package images

import (
	"context"
	"fmt"
	"strings"

	containerd "github.com/containerd/containerd/v2/client"
	coreimages "github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
)

// load imports one archive, pins its images and unpacks them.
func load(ctx context.Context, client *containerd.Client, path, snapshotter string) (map[string]string, error) {
	stream, err := openArchive(path)
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	ctx = namespaces.WithNamespace(ctx, "k8s.io")
	list, err := client.Import(ctx, stream, containerd.WithImageLabels(map[string]string{
		"io.cri-containerd.image":  "managed",
		"io.cri-containerd.pinned": "pinned",
	}), containerd.WithImageRefTranslator(canonical))
	if err != nil {
		return nil, fmt.Errorf("import %s: %w", path, err)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("import %s: no named image for this platform in it", path)
	}
	out := map[string]string{}
	for _, record := range list {
		if err := unpack(ctx, client, record, snapshotter); err != nil {
			return nil, fmt.Errorf("unpack %s of %s: %w", record.Name, path, err)
		}
		out[record.Name] = record.Target.Digest.String()
	}
	return out, nil
}

func unpack(ctx context.Context, client *containerd.Client, record coreimages.Image, snapshotter string) error {
	image := containerd.NewImage(client, record)
	done, err := image.IsUnpacked(ctx, snapshotter)
	if err != nil || done {
		return err
	}
	return image.Unpack(ctx, snapshotter)
}

// canonical completes a short name as CRI does, since kubelet asks for images
// by the complete one.
func canonical(ref string) string {
	if ref == "" || strings.HasPrefix(ref, "sha256:") {
		return ""
	}
	name, _, _ := strings.Cut(ref, "@")
	if slash := strings.LastIndexByte(name, '/'); !strings.Contains(name[slash+1:], ":") && name == ref {
		ref += ":latest"
	}
	domain, _, found := strings.Cut(ref, "/")
	switch {
	case !found:
		return "docker.io/library/" + ref
	case strings.ContainsAny(domain, ".:") || domain == "localhost":
		return ref
	}
	return "docker.io/" + ref
}

package images

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"
)

// Image is one image of the node.
type Image struct {
	Name   string    `json:"name"`
	Digest string    `json:"digest"`
	Size   int64     `json:"size"` // of its content, compressed as stored
	Pinned bool      `json:"pinned"`
	Made   time.Time `json:"created"` // when containerd got it
}

// List returns the named images in containerd's store, sorted by name.
func (i *Importer) List(ctx context.Context) ([]Image, error) {
	client, err := i.connect()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	list, err := client.ListImages(namespaces.WithNamespace(ctx, "k8s.io"))
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	var out []Image
	for _, image := range list {
		if strings.HasPrefix(image.Name(), "sha256:") {
			continue
		}
		size, err := image.Size(ctx)
		if err != nil {
			size = 0 // part of the content is missing: still listed
		}
		out = append(out, Image{
			Name: image.Name(), Digest: image.Target().Digest.String(), Size: size,
			Pinned: image.Labels()["io.cri-containerd.pinned"] == "pinned", Made: image.Metadata().CreatedAt,
		})
	}
	slices.SortFunc(out, func(a, b Image) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// Import imports one archive and returns the names of its images, sorted. It
// needs no Start.
func (i *Importer) Import(ctx context.Context, file string) ([]string, error) {
	path, err := filepath.Abs(file)
	if err != nil {
		return nil, err
	}
	client, err := i.connect()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	images, err := load(ctx, client, path, i.deps.Snapshotter())
	if err != nil {
		return nil, err
	}
	var names []string
	for name := range images {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/hashicorp/go-hclog"

	"github.com/kelson-io/kelson/core/agent/images"
	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/status"
)

type imagesCmd struct {
	List   imagesListCmd   `cmd:"" help:"List the images of this node."`
	Import imagesImportCmd `cmd:"" help:"Import image archives into this node."`
}

type imagesListCmd struct{ output }

// Help gives examples.
func (imagesListCmd) Help() string {
	return "Pinned images are never removed to make room.\n\nExamples:\n\n    kelson images list\n    kelson images list -o json"
}

// Run lists what containerd has.
func (c *imagesListCmd) Run(g globals, std streams) error {
	importer, err := newImporter(g)
	if err != nil {
		return err
	}
	ctx, stop := signalContext()
	defer stop()
	list, err := importer.List(ctx)
	if err != nil {
		return err
	}
	rows := make([][]string, len(list))
	for i, image := range list {
		rows[i] = []string{image.Name, mebibytes(image.Size), yesNo(image.Pinned), image.Digest}
	}
	return c.emit(std.Out, list, func(w io.Writer) error { return writeTable(w, "IMAGE SIZE PINNED DIGEST", rows) })
}

type imagesImportCmd struct {
	Files []string `arg:"" name:"file" help:"Archives (.tar, .tar.gz, .tar.zst) of docker save or of an OCI layout."`
}

// Help gives examples.
func (imagesImportCmd) Help() string {
	return "Archives in agent/images of the data dir are imported by the server itself.\n\nExamples:\n\n    kelson images import app.tar\n    kelson images import *.tar.zst"
}

// Run imports one archive after the other and stops at the first that fails.
func (c *imagesImportCmd) Run(g globals, std streams) error {
	importer, err := newImporter(g)
	if err != nil {
		return err
	}
	ctx, stop := signalContext()
	defer stop()
	for _, file := range c.Files {
		if err := importOne(ctx, importer, file, std.Out); err != nil {
			return err
		}
	}
	return nil
}

func importOne(ctx context.Context, importer *images.Importer, file string, w io.Writer) error {
	names, err := importer.Import(ctx, file)
	if err != nil {
		return fmt.Errorf("import %s: %w", file, err)
	}
	for _, name := range names {
		fmt.Fprintf(w, "imported %s\n", name)
	}
	return nil
}

// newImporter connects to the running node's containerd.
func newImporter(g globals) (*images.Importer, error) {
	cfg, err := config.Load(config.Inputs{Flags: g.flags(), Environ: os.Environ()})
	if err != nil {
		return nil, err
	}
	d, err := g.dirs()
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(d.containerdSocket()); errors.Is(err, fs.ErrNotExist) {
		return nil, config.Hinted(fmt.Errorf("images: no server runs on %s", d.Root), startHint)
	}
	snapshotter := cfg.Node.Snapshotter
	if s, err := status.Read(d.statusFile()); err == nil {
		snapshotter = inEffect(s, snapshotter)
	}
	return images.New(images.Deps{
		Socket:      d.containerdSocket(),
		Snapshotter: func() string { return snapshotter },
		Log:         hclog.NewNullLogger(),
	}), nil
}

// inEffect is the running server's snapshotter: it falls back to another one
// where the kernel lacks the configured one, and its flags are not ours.
func inEffect(s status.Status, configured string) string {
	if s.Snapshotter == "" {
		return configured
	}
	return s.Snapshotter
}

func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

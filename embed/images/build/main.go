// Command build makes the system images that travel in the payload: one
// uncompressed tar per image, readable both as an OCI layout and as a
// docker-archive. Equal inputs give equal bytes: times, owners and orders are
// fixed, and nothing of the building machine is recorded. An image whose
// inputs have not changed is left alone.
//
//	go run ./embed/images/build -out dist/images
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

func main() {
	out := flag.String("out", "dist/images", "folder that the image tars are written to")
	recipes := flag.String("recipes", "embed/images", "folder of the recipes")
	lock := flag.String("lock", "embed/debian.lock", "file that pins the Debian packages")
	cache := flag.String("cache", "dist/cache/debian", "folder where downloaded Debian packages are kept")
	arch := flag.String("arch", runtime.GOARCH, "architecture of the images")
	only := flag.String("only", "", "comma-separated names of the images to build, all if empty")
	list := flag.Bool("list", false, "print the image references and exit")
	flag.Parse()

	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if *list {
		for _, r := range table() {
			fmt.Println(r.Reference())
		}
		return
	}
	b := builder{
		recipes: abs(*recipes), out: abs(*out), lock: abs(*lock), cache: abs(*cache), arch: *arch, log: os.Stderr,
	}
	if err := b.all(ctx, pick(table(), *only)); err != nil {
		fmt.Fprintln(os.Stderr, "build images:", err)
		os.Exit(1)
	}
}

// pick keeps the named recipes, or all of them.
func pick(recipes []recipe, only string) []recipe {
	if only == "" {
		return recipes
	}
	var kept []recipe
	for _, r := range recipes {
		for name := range strings.SplitSeq(only, ",") {
			if r.Name == name {
				kept = append(kept, r)
			}
		}
	}
	return kept
}

// abs is filepath.Abs for paths that are used after a change of folder. It
// falls back to the path itself, which the first use then reports.
func abs(path string) string {
	if a, err := filepath.Abs(path); err == nil {
		return a
	}
	return path
}

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/datadir"
	"github.com/kelson-io/kelson/sdk/manifest"
	"github.com/kelson-io/kelson/sdk/sign"
)

type pluginKeygenCmd struct {
	Name string `arg:"" optional:"" default:"kelson-plugin" help:"Name of the files: NAME.key and NAME.pub. Default: kelson-plugin."`
}

// Help gives examples.
func (pluginKeygenCmd) Help() string {
	return "The files have minisign's formats. The secret key has no password: keep its file where only you can read it. Those who install your plugins need the public key.\n\nExamples:\n\n    kelson plugin keygen\n    kelson plugin keygen ~/keys/acme"
}

// Run writes both keys; existing files are kept.
func (c *pluginKeygenCmd) Run(std streams) error {
	secret, public := c.Name+".key", c.Name+".pub"
	for _, path := range []string{secret, public} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return config.Hinted(fmt.Errorf("keygen: %s exists", path), "give another name, or move the old key away: what it signed needs it")
		}
	}
	key, err := sign.Generate()
	if err != nil {
		return err
	}
	if err := datadir.WriteFile(secret, key.Encode(), 0o600); err != nil {
		return err
	}
	if err := datadir.WriteFile(public, key.Public().Encode(), 0o644); err != nil {
		return err
	}
	fmt.Fprintf(std.Out, "wrote %s and %s\npublic key: %s\n", secret, public, key.Public())
	return nil
}

type pluginSignCmd struct {
	Folder  string `arg:"" help:"Folder of the built plugin, with its plugin.yaml."`
	Key     string `required:"" placeholder:"FILE" help:"Secret key, made with keygen."`
	Comment string `placeholder:"TEXT" help:"Comment that the signature covers. Default: kind, name and version."`
}

// Help gives examples.
func (pluginSignCmd) Help() string {
	return "plugin.yaml is signed, which pins every other file by its digest; the digests are compared with the files before. The signature is written beside it, as plugin.yaml.minisig.\n\nExamples:\n\n    kelson plugin sign ./build/mynet --key acme.key"
}

// Run signs the manifest of a folder whose files fit it.
func (c *pluginSignCmd) Run(std streams) error {
	data, err := os.ReadFile(c.Key)
	if err != nil {
		return fmt.Errorf("sign: %w", err)
	}
	key, err := sign.ParseSecretKey(data)
	if err != nil {
		return fmt.Errorf("sign: %s: %w", c.Key, err)
	}
	path := filepath.Join(c.Folder, manifest.FileName)
	text, err := os.ReadFile(path)
	if err != nil {
		return config.Hinted(fmt.Errorf("sign: %w", err), "write it with 'PROGRAM manifest'")
	}
	m, err := manifest.Parse(text, path)
	if err != nil {
		return err
	}
	for name, want := range m.Files {
		file := filepath.Join(c.Folder, filepath.FromSlash(name))
		content, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("sign: %w", err)
		}
		sum := sha256.Sum256(content)
		if found := "sha256:" + hex.EncodeToString(sum[:]); found != want {
			return config.Hinted(fmt.Errorf("sign: %s: expected %s by plugin.yaml, found %s", file, want, found), "write plugin.yaml anew with 'PROGRAM manifest'")
		}
	}
	comment := c.Comment
	if comment == "" {
		comment = fmt.Sprintf("%s/%s %s", m.Kind, m.Name, m.Version)
	}
	signature, err := key.Sign(bytes.NewReader(text), comment)
	if err != nil {
		return err
	}
	target := filepath.Join(c.Folder, manifest.SignatureName)
	if err := datadir.WriteFile(target, signature, 0o644); err != nil {
		return err
	}
	fmt.Fprintf(std.Out, "wrote %s, by key %s\n", target, key.Public().ID)
	return nil
}

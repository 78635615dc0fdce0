package catalog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
)

const (
	maxArchive = 512 << 20
	// fetchTime bounds a download.
	fetchTime = 10 * time.Minute
)

// archiveKind is the ending of an archive's name, "" for anything else.
func archiveKind(name string) string {
	for _, end := range []string{".tar.gz", ".tgz", ".tar.zst", ".tar"} {
		if strings.HasSuffix(name, end) {
			return end
		}
	}
	return ""
}

// source is where a plugin is installed from.
type source struct {
	text   string // as given
	url    *url.URL
	path   string
	digest string // of the archive, hex; "" if none was given
}

// parseSource splits a digest from the place. A URL needs one.
func parseSource(text, digest string) (source, error) {
	s := source{text: text, digest: strings.TrimPrefix(digest, "sha256:")}
	if place, hash, found := strings.Cut(text, "#sha256:"); found {
		if s.digest != "" && s.digest != hash {
			return source{}, &Refused{Step: "install", File: place, Expected: "one digest", Found: "two that differ", Remedy: "give it once"}
		}
		s.text, s.digest = place, hash
	}
	if s.digest != "" && !validHex(s.digest) {
		return source{}, &Refused{Step: "install", File: s.text, Expected: "a SHA-256 of 64 hexadecimal digits", Found: fmt.Sprintf("%q", s.digest), Remedy: "take it from the author's release page"}
	}
	if !strings.Contains(s.text, "://") {
		s.path = s.text
		return s, nil
	}
	u, err := url.Parse(s.text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return source{}, &Refused{Step: "install", File: s.text, Expected: "a folder, an archive, or an http or https URL", Found: "something else", Err: err, Remedy: "see 'kelson plugin install --help'"}
	}
	if s.digest == "" {
		return source{}, &Refused{Step: "install", File: s.text, Expected: "the SHA-256 of the archive", Found: "none", Remedy: "add --sha256 DIGEST, from a place other than the archive's"}
	}
	s.url = u
	return s, nil
}

// fetch brings the source's files into dir.
func (s source) fetch(ctx context.Context, dir string) error {
	name := s.path
	if s.url != nil {
		name = path.Base(s.url.Path)
	}
	kind := archiveKind(name)
	if s.url == nil {
		st, err := os.Stat(s.path)
		if err != nil {
			return &Refused{Step: "install", File: s.path, Err: err, Remedy: "name a folder with a plugin.yaml, an archive, or a URL"}
		}
		if st.IsDir() {
			return copyFolder(s.path, dir)
		}
	}
	if kind == "" {
		return &Refused{Step: "install", File: s.text, Expected: "an archive .tar.gz, .tgz, .tar.zst or .tar", Found: name, Remedy: "pack the plugin's folder with 'tar czf'"}
	}
	archive, err := s.open(ctx, dir+kind)
	if err != nil {
		return err
	}
	defer archive.Close()
	if s.digest != "" {
		sum, err := digest(archive)
		if err != nil {
			return err
		}
		if sum != s.digest {
			return &Refused{Step: "digest", File: s.text, Expected: "SHA-256 " + s.digest, Found: sum, Remedy: "this is not the archive that is meant: ask its author"}
		}
	}
	return unpack(archive, kind, dir)
}

// open returns the archive, downloaded to tmp first if it is far away.
func (s source) open(ctx context.Context, tmp string) (*os.File, error) {
	if s.url == nil {
		f, err := os.Open(s.path)
		if err != nil {
			return nil, fmt.Errorf("install: %w", err)
		}
		return f, nil
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url.String(), http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("download: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, &Refused{Step: "download", File: s.text, Err: err, Remedy: "check the URL and the network, or download the archive elsewhere and give its path"}
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, &Refused{Step: "download", File: s.text, Expected: "status 200", Found: resp.Status, Remedy: "check the URL"}
	}
	f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("download: %w", err)
	}
	n, err := io.Copy(f, io.LimitReader(resp.Body, maxArchive+1))
	if err == nil && n > maxArchive {
		err = fmt.Errorf("more than %d MiB", maxArchive>>20)
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("download %s: %w", s.text, err), f.Close())
	}
	return f, nil
}

// syncTree makes a folder's files and entries durable.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(p string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return syncPath(p)
	})
}

func syncPath(p string) error {
	f, err := os.Open(p)
	if err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("sync %s: %w", p, err)
	}
	return nil
}

package controlplane

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

// pollInterval is short, since what waits for readiness is the boot itself.
const pollInterval = 40 * time.Millisecond

// waitReady polls the probe until it succeeds, the component ends or ctx ends;
// in the last case it returns the last reason.
func waitReady(ctx context.Context, g *goroutine, probe Probe) error {
	last := errors.New("not probed yet")
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		if ended, err := g.ended(); ended {
			return fmt.Errorf("exited: %w", err)
		}
		if err := probe(ctx); err == nil {
			return nil
		} else if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w", last)
		case <-tick.C:
		}
	}
}

// HTTPProbe asks url with the client certificate in the given files, trusting
// caFile; everything but status 200 is a reason. The files are read at the
// first call, since they may not exist before.
func HTTPProbe(url, caFile, certFile, keyFile string) Probe {
	var client *http.Client
	return func(ctx context.Context) error {
		if client == nil {
			c, err := newClient(caFile, certFile, keyFile)
			if err != nil {
				return err
			}
			client = c
		}
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return fmt.Errorf("probe %s: %w", url, err)
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(io.LimitReader(resp.Body, 16<<10))
		if err != nil {
			return fmt.Errorf("GET %s: %w", url, err)
		}
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("GET %s: %d %s", url, resp.StatusCode, failedChecks(string(body)))
		}
		return nil
	}
}

func newClient(caFile, certFile, keyFile string) (*http.Client, error) {
	ca, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("read authority: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("load client certificate: %w", err)
	}
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{
			RootCAs: pool, Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12,
		},
		IdleConnTimeout: time.Minute,
	}}, nil
}

// failedChecks keeps the failing lines of a verbose health answer.
func failedChecks(body string) string {
	var failed []string
	for line := range strings.Lines(body) {
		if name, ok := strings.CutPrefix(line, "[-]"); ok {
			failed = append(failed, strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(name), ": reason withheld")))
		}
	}
	if len(failed) == 0 {
		return strings.TrimSpace(body)
	}
	return strings.Join(failed, ", ")
}

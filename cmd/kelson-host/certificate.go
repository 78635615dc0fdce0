package main

import (
	"fmt"
	"io"
	"time"

	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/pki"
)

type certificateCmd struct {
	Check certificateCheckCmd `cmd:"" help:"Show the certificates and how long they last."`
}

type certificateCheckCmd struct{ output }

// Help gives examples.
func (certificateCheckCmd) Help() string {
	return "The exit code is 1 when a certificate has expired or cannot be used. Those due for renewal are renewed by the running server.\n\nExamples:\n\n    kelson certificate check\n    kelson certificate check -o json"
}

// Run reads the certificates of the data dir.
func (c *certificateCheckCmd) Run(g globals, std streams) error {
	d, err := g.dirs()
	if err != nil {
		return err
	}
	list, err := pki.Check(d.Layout)
	if err != nil {
		return err
	}
	var bad []pki.CertStatus
	rows := make([][]string, len(list))
	for i, cert := range list {
		rows[i] = []string{cert.Name, string(cert.Status), expiry(cert), cert.Issuer, cert.Reason}
		if cert.Status == pki.StatusExpired || cert.Status == pki.StatusInvalid {
			bad = append(bad, cert)
		}
	}
	if err := c.emit(std.Out, list, func(w io.Writer) error { return writeTable(w, "CERTIFICATE STATUS EXPIRES ISSUER REASON", rows) }); err != nil {
		return err
	}
	if len(bad) > 0 {
		return config.Hinted(fmt.Errorf("certificate check: %s is %s", bad[0].Name, bad[0].Status),
			"restart the server: it issues its certificates anew")
	}
	return nil
}

func expiry(cert pki.CertStatus) string {
	if cert.NotAfter.IsZero() {
		return "-"
	}
	return fmt.Sprintf("%s (%d days)", cert.NotAfter.UTC().Format(time.DateOnly), int(cert.Remaining.Hours()/24))
}

package config_test

import (
	"bytes"
	"encoding/base64"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"strings"
	"testing"
	"text/template"

	"github.com/hashicorp/go-hclog"
	"go.yaml.in/yaml/v3"

	"github.com/kelson-io/kelson/sdk/config"
)

const canary = "hunter2-canary"

// holder has the secret where fmt cannot call methods too.
type holder struct {
	Public config.Secret
	hidden config.Secret
	Ptr    *config.Secret
	List   []config.Secret
	Map    map[string]config.Secret
	Any    any
}

func TestSecretNeverPrints(t *testing.T) {
	s := config.NewSecret(canary)
	h := holder{s, s, &s, []config.Secret{s}, map[string]config.Secret{"a": s}, s}
	var out bytes.Buffer
	for _, value := range []any{s, &s, h, &h, []any{s, h}, map[string]any{"s": s}, fmt.Errorf("wrapped %v", s), errors.New(s.String())} {
		for _, verb := range "vsdqxXtbcoOUeEfFgGpT" {
			for _, flags := range []string{"", "+", "#", " ", "-20.3"} {
				fmt.Fprintf(&out, "%"+flags+string(verb)+"\n", value)
			}
		}
		fmt.Fprintln(&out, value)
		log.New(&out, "", 0).Print(value)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "value", value, slog.Any("again", value))
		slog.New(slog.NewTextHandler(&out, nil)).Info("x", "value", value)
		hclog.New(&hclog.LoggerOptions{Output: &out}).Info("x", "value", value)
		hclog.New(&hclog.LoggerOptions{Output: &out, JSONFormat: true}).Info("x", "value", value)
		if raw, err := json.Marshal(value); err == nil {
			out.Write(raw)
		}
		if raw, err := yaml.Marshal(value); err == nil {
			out.Write(raw)
		}
		if raw, err := xml.Marshal(value); err == nil {
			out.Write(raw)
		}
		_ = gob.NewEncoder(&out).Encode(value)
		if err := template.Must(template.New("").Parse("{{.}} {{printf \"%s\" .}}")).Execute(&out, value); err != nil {
			t.Fatal(err)
		}
	}
	forms := []string{
		canary, hex.EncodeToString([]byte(canary)), strings.ToUpper(hex.EncodeToString([]byte(canary))),
		base64.StdEncoding.EncodeToString([]byte(canary)), strings.Trim(fmt.Sprintf("%d", []byte(canary)), "[]"),
	}
	for _, form := range forms {
		if at := strings.Index(out.String(), form); at >= 0 {
			t.Errorf("printed: …%s", out.String()[max(0, at-80):at+len(form)])
		}
	}
	if !strings.Contains(out.String(), "[secret]") || s.Reveal() != canary {
		t.Error("nothing was printed, or the secret is lost")
	}
}

func TestSecretEqual(t *testing.T) {
	a, b, none := config.NewSecret("a"), config.NewSecret("b"), config.Secret{}
	if !a.Equal(config.NewSecret("a")) || a.Equal(b) || a.Equal(none) || !none.Equal(config.Secret{}) {
		t.Error("Equal is wrong")
	}
	if none.IsSet() || none.Reveal() != "" || none.Name() != "" {
		t.Error("the zero value is a secret")
	}
}

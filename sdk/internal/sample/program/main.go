// Command program is the sample plugin as a program. KELSON_SAMPLE_FAULT names
// the way in which it breaks the contract.
package main

import (
	"os"

	"github.com/kelson-io/kelson/sdk/internal/sample"
	"github.com/kelson-io/kelson/sdk/serve"
)

func main() {
	os.Exit(sample.Run(serve.OS())) //nolint:forbidigo // this is a main.go
}

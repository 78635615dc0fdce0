// Package version holds the release identity of this build of Kelson.
//
// The values are set by the linker (-ldflags -X, see the Makefile) and never
// change at run time. The package imports only the standard library so that
// the launcher stays small.
package version

import "runtime"

// Set by the linker. The defaults identify a build made without the Makefile.
var (
	kelson    = "v1.37.2+kelson0"
	gitCommit = "unknown"
	buildDate = "1970-01-01T00:00:00Z"
)

// Info identifies a build. JSON names are stable.
type Info struct {
	Version   string `json:"version"`   // semantic version: Kubernetes' with "+kelson<N>"
	GitCommit string `json:"gitCommit"` // full hash of the commit built from
	BuildDate string `json:"buildDate"` // RFC 3339, UTC
	GoVersion string `json:"goVersion"` // as runtime.Version
	Platform  string `json:"platform"`  // GOOS/GOARCH
}

// Get returns the identity of the running build.
func Get() Info {
	return Info{
		Version:   kelson,
		GitCommit: gitCommit,
		BuildDate: buildDate,
		GoVersion: runtime.Version(),
		Platform:  runtime.GOOS + "/" + runtime.GOARCH,
	}
}

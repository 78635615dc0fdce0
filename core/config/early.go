package config

// Early is what must be known before the configuration can be read as a whole.
type Early struct {
	DataDir          string
	EtcDir           string
	PreferBundledBin bool
}

// FindEarly finds it.
func FindEarly(args, environ []string) (Early, error) {
	return Early{DataDir: "/var/lib/kelson", EtcDir: "/etc/kelson"}, nil
}

package datadir

import "path/filepath"

// Layout is the typed paths of one data dir (ARCHITECTURE §5). It is a value
// and touches no file.
type Layout struct {
	Root string // the data dir, absolute
	Etc  string // configuration: /etc/kelson, or <Root>/etc
	Run  string // sockets and volatile state: /run/kelson/<id>
	Bin  string // <Root>/data/<sha256>/bin of the running payload
}

// Server returns a path under server/.
func (l Layout) Server(elem ...string) string { return l.join("server", elem) }

// Agent returns a path under agent/.
func (l Layout) Agent(elem ...string) string { return l.join("agent", elem) }

// TLS returns a path under server/tls/.
func (l Layout) TLS(elem ...string) string { return l.Server(append([]string{"tls"}, elem...)...) }

// Cred returns a path under server/cred/.
func (l Layout) Cred(elem ...string) string { return l.Server(append([]string{"cred"}, elem...)...) }

// RunPath returns a path in the run dir.
func (l Layout) RunPath(elem ...string) string {
	return filepath.Join(append([]string{l.Run}, elem...)...)
}

// EtcPath returns a path in the configuration folder.
func (l Layout) EtcPath(elem ...string) string {
	return filepath.Join(append([]string{l.Etc}, elem...)...)
}

// CNIBin is the stable folder of CNI plugin links.
func (l Layout) CNIBin() string { return filepath.Join(l.Root, "data", "cni") }

// Images is the folder of the running payload's system images.
func (l Layout) Images() string { return filepath.Join(filepath.Dir(l.Bin), "images") }

func (l Layout) join(base string, elem []string) string {
	return filepath.Join(append([]string{l.Root, base}, elem...)...)
}

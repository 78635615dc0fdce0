package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/kelson-io/kelson/sdk/cni/frame"
	"github.com/kelson-io/kelson/sdk/cni/record"
)

// Error codes of the CNI specification.
const (
	codeVersion      = 1
	codeEnvironment  = 4
	codeIO           = 5
	codeDecoding     = 6
	codeConfig       = 7
	codeTryAgain     = 11
	codeNotAvailable = 50
	codeInternal     = 999
)

const (
	usage = `kelson-cni hands the container runtime's CNI operations to Kelson's network
plugin. It is executed by the container runtime with CNI_COMMAND in the
environment and a network configuration on standard input; see the CNI
specification. CNI versions: 1.0.0, 1.1.0.
`
	supported = `"supportedVersions":["1.0.0","1.1.0"]}`

	maxEnv = 64 << 10 // bytes of one variable
)

// limits are how long things may take.
type limits struct {
	wait   time.Duration // ADD: for a plugin that is away
	poll   time.Duration // pause between two tries to connect
	lock   time.Duration // ADD, DEL: for the host to finish collecting
	add    time.Duration // for the plugin to do it
	del    time.Duration
	check  time.Duration
	gc     time.Duration
	status time.Duration // all of STATUS
	grace  time.Duration // beyond what the plugin was given
}

func usual() limits {
	return limits{
		wait: 10 * time.Second, poll: 50 * time.Millisecond, lock: 25 * time.Second,
		add: 60 * time.Second, del: 15 * time.Second, check: 30 * time.Second, gc: 2 * time.Minute,
		status: 1900 * time.Millisecond, grace: 2 * time.Second,
	}
}

// shim is one execution.
type shim struct {
	env    []string
	stdin  io.Reader
	stdout io.Writer
	limits limits

	began       time.Time
	verb        frame.Verb
	version     string // of the configuration
	containerID string
	ifname      string
	netns       string
	forward     []string // environment for the plugin
	conf        []byte
	socket      string
	plugin      string
	records     record.Dir
	journal     record.Dir
}

// failure is a CNI error object.
type failure struct {
	code int
	msg  string
}

func (f *failure) Error() string { return f.msg }

// run does the operation and returns the exit code.
func (s *shim) run() int {
	s.began = time.Now()
	command := s.get("CNI_COMMAND")
	if command == "" {
		return s.print([]byte(usage), 0)
	}
	out, err := s.operate(command)
	if err == nil {
		return s.print(out, 0)
	}
	if f, ok := errors.AsType[*failure](err); ok {
		return s.print(f.object(s.version), 1)
	}
	if r, ok := errors.AsType[*refusal](err); ok {
		return s.print(r.object, 1)
	}
	return s.print((&failure{codeInternal, err.Error()}).object(s.version), 1)
}

func (s *shim) print(out []byte, exit int) int {
	if len(out) == 0 {
		return exit
	}
	if out[len(out)-1] != '\n' {
		out = append(out, '\n')
	}
	if _, err := s.stdout.Write(out); err != nil {
		return 1
	}
	return exit
}

func (f *failure) object(version string) []byte {
	if version == "" {
		version = "1.0.0"
	}
	out := record.AppendString([]byte(`{"cniVersion":`), version)
	out = append(out, `,"code":`...)
	out = strconv.AppendInt(out, int64(f.code), 10)
	out = record.AppendString(append(out, `,"msg":`...), f.msg)
	return append(out, '}')
}

func (s *shim) operate(command string) ([]byte, error) {
	verb, ok := frame.ParseVerb(command)
	if !ok {
		return nil, &failure{codeEnvironment, "CNI_COMMAND is not known"}
	}
	s.verb = verb
	if err := s.configuration(); err != nil {
		return nil, err
	}
	if verb == frame.GetInfo {
		version := s.version
		if version == "" {
			version = "1.1.0"
		}
		return append(record.AppendString([]byte(`{"cniVersion":`), version), ","+supported...), nil
	}
	if err := s.kelson(); err != nil {
		return nil, err
	}
	if err := s.environment(); err != nil {
		return nil, err
	}
	switch verb {
	case frame.Add:
		return s.add()
	case frame.Del:
		return nil, s.del()
	case frame.Status:
		return nil, s.status()
	case frame.Check:
		return nil, s.ask(s.limits.check)
	default:
		return nil, s.ask(s.limits.gc)
	}
}

// configuration reads standard input, and the version of what it holds.
func (s *shim) configuration() error {
	raw, err := io.ReadAll(io.LimitReader(s.stdin, frame.Max+1))
	if err != nil {
		return &failure{codeIO, "read network configuration: " + err.Error()}
	}
	if len(raw) > frame.Max {
		return &failure{codeConfig, "network configuration is longer than 1 MiB"}
	}
	if s.verb == frame.GetInfo && len(raw) == 0 {
		return nil
	}
	if !record.Valid(raw) {
		return &failure{codeDecoding, "network configuration is not valid JSON"}
	}
	s.conf = raw
	version, _ := record.String(record.Lookup(raw, "cniVersion"))
	if version != "1.0.0" && version != "1.1.0" && s.verb != frame.GetInfo {
		return &failure{codeVersion, "cniVersion is not spoken: neither 1.0.0 nor 1.1.0"}
	}
	s.version = version[:min(len(version), 32)]
	return nil
}

// kelson reads the host's part of the configuration.
func (s *shim) kelson() error {
	var records, journal string
	for _, f := range [...]struct {
		key  string
		to   *string
		path bool
	}{{"socket", &s.socket, true}, {"records", &records, true}, {"journal", &journal, true}, {"plugin", &s.plugin, false}} {
		value, ok := record.String(record.Lookup(s.conf, "kelson", f.key))
		if !ok || value == "" || f.path && !filepath.IsAbs(value) {
			return &failure{codeConfig, "network configuration: kelson." + f.key + " is missing or no absolute path"}
		}
		*f.to = value
	}
	s.records, s.journal = record.Dir(records), record.Dir(journal)
	return nil
}

// environment reads what the operation needs, and picks what the plugin gets:
// the variables of CNI only.
func (s *shim) environment() error {
	for _, e := range s.env {
		if !strings.HasPrefix(e, "CNI_") {
			continue
		}
		if len(e) > maxEnv || len(s.forward) == frame.MaxEnv {
			return &failure{codeEnvironment, "environment is too large"}
		}
		s.forward = append(s.forward, e)
	}
	if s.verb == frame.Status || s.verb == frame.GC {
		return nil
	}
	s.containerID, s.ifname, s.netns = s.get("CNI_CONTAINERID"), s.get("CNI_IFNAME"), s.get("CNI_NETNS")
	switch {
	case !goodID(s.containerID):
		return &failure{codeEnvironment, "CNI_CONTAINERID is missing or malformed"}
	case !goodIfName(s.ifname):
		return &failure{codeEnvironment, "CNI_IFNAME is missing or malformed"}
	case s.netns == "" && s.verb != frame.Del:
		return &failure{codeEnvironment, "CNI_NETNS is missing"}
	}
	return nil
}

// get is the value of a variable. Of equal ones the last counts, as for the
// plugin, which reads all of them in order.
func (s *shim) get(name string) (value string) {
	for _, e := range s.env {
		if key, v, _ := strings.Cut(e, "="); key == name {
			value = v
		}
	}
	return value
}

func goodID(id string) bool {
	if id == "" || len(id) > 200 {
		return false
	}
	for i, c := range []byte(id) {
		alnum := c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !alnum && (i == 0 || c != '_' && c != '.' && c != '-') {
			return false
		}
	}
	return true
}

func goodIfName(name string) bool {
	return name != "" && len(name) <= 15 && name != "." && name != ".." && !strings.ContainsAny(name, "/: \t\r\n\v\f\x00")
}

// record is the attachment as the host wants to know it.
func (s *shim) record() record.Record {
	return record.Record{Plugin: s.plugin, Socket: s.socket, ContainerID: s.containerID, IfName: s.ifname, Netns: s.netns}
}

func (s *shim) request(verb frame.Verb, deadline time.Duration) *frame.Request {
	env := s.forward
	if verb != s.verb {
		env = append([]string{"CNI_COMMAND=" + verb.String()}, env...)
	}
	return &frame.Request{Verb: verb, Deadline: deadline, Env: env, Stdin: s.conf}
}

// noSuch tells that there is no such file, for records that need not exist.
func noSuch(err error) bool { return errors.Is(err, os.ErrNotExist) }

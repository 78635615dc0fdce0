package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kelson-io/kelson/sdk/cni/frame"
	"github.com/kelson-io/kelson/sdk/cni/record"
)

const okResult = `{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.2/24"}]}`

// plugin is what answers on a socket. answer nil closes the connection.
type plugin struct {
	t      testing.TB
	path   string
	socket net.Listener

	mu       sync.Mutex
	requests []*frame.Request
	answer   func(*frame.Request) *frame.Reply
}

func (p *plugin) listen() {
	p.t.Helper()
	var err error
	if p.socket, err = net.Listen("unix", p.path); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { p.socket.Close() })
	go func(l net.Listener) {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go p.converse(conn)
		}
	}(p.socket)
}

func (p *plugin) converse(conn net.Conn) {
	defer conn.Close()
	r, err := frame.ReadRequest(conn)
	if err != nil {
		return // a DEL's first look, or a shim that gave up
	}
	p.mu.Lock()
	p.requests = append(p.requests, r)
	answer := p.answer
	p.mu.Unlock()
	if reply := answer(r); reply != nil {
		raw, err := reply.Append(nil)
		if err != nil {
			p.t.Error(err)
		}
		_, _ = conn.Write(raw)
	}
}

func (p *plugin) behave(answer func(*frame.Request) *frame.Reply) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = answer
}

func (p *plugin) request(i int) *frame.Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.requests[i]
}

func (p *plugin) verbs() (out []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.requests {
		out = append(out, r.Verb.String())
	}
	return out
}

func fine(r *frame.Request) *frame.Reply {
	if r.Verb == frame.Add {
		return &frame.Reply{JSON: []byte(okResult)}
	}
	return &frame.Reply{}
}

func failing(code int) func(*frame.Request) *frame.Reply {
	return func(*frame.Request) *frame.Reply {
		return &frame.Reply{Failed: true, JSON: fmt.Appendf(nil, `{"cniVersion":"1.1.0","code":%d,"msg":"no"}`, code)}
	}
}

// node is a shim's surroundings.
type node struct {
	*plugin

	dir              string
	records, journal record.Dir
	limits           limits
}

func newNode(t testing.TB) *node {
	t.Helper()
	dir, err := os.MkdirTemp("", "shim") //nolint:usetesting // socket paths are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l := usual()
	l.wait, l.lock, l.poll = 200*time.Millisecond, 200*time.Millisecond, 5*time.Millisecond
	return &node{
		plugin:  &plugin{t: t, path: filepath.Join(dir, "s"), answer: fine},
		dir:     dir,
		records: record.Dir(filepath.Join(dir, "attachments")), journal: record.Dir(filepath.Join(dir, "journal")), limits: l,
	}
}

func (n *node) conf() []byte {
	return fmt.Appendf(nil, `{"cniVersion":"1.1.0","name":"kelson","type":"kelson-cni","secret":"s3cret","kelson":{"socket":%q,"records":%q,"journal":%q,"plugin":"p1"}}`,
		n.path, n.records, n.journal)
}

func env(command string) []string {
	return []string{
		"CNI_COMMAND=" + command, "CNI_CONTAINERID=c1", "CNI_IFNAME=eth0", "CNI_NETNS=/run/netns/n1",
		"CNI_ARGS=K8S_POD_NAME=x", "CNI_PATH=/bin", "HOME=/x", "TOKEN=canary",
	}
}

func (n *node) run(command string) (string, int) { return n.runWith(env(command), n.conf()) }

func (n *node) runWith(env []string, conf []byte) (string, int) {
	var out bytes.Buffer
	s := shim{env: env, stdin: bytes.NewReader(conf), stdout: &out, limits: n.limits}
	exit := s.run()
	if strings.Contains(out.String(), "s3cret") {
		n.t.Errorf("the answer repeats the configuration: %s", out.String())
	}
	return out.String(), exit
}

func codeOf(t testing.TB, out string) int {
	t.Helper()
	var e struct {
		CNIVersion string `json:"cniVersion"`
		Code       int    `json:"code"`
		Msg        string `json:"msg"`
	}
	if err := json.Unmarshal([]byte(out), &e); err != nil || e.Msg == "" || e.CNIVersion == "" {
		t.Fatalf("no error object: %q, %v", out, err)
	}
	return e.Code
}

func (n *node) in(d record.Dir) []record.Record {
	n.t.Helper()
	list, err := d.List()
	if err != nil {
		n.t.Fatal(err)
	}
	return list
}

package process

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
)

func TestNotify(t *testing.T) {
	for _, c := range []struct{ name, address string }{
		{"path", filepath.Join(t.TempDir(), "notify")},
		{"abstract", fmt.Sprintf("@kelson-notify-test-%d", os.Getpid())},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: c.address, Net: "unixgram"})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			t.Setenv("NOTIFY_SOCKET", c.address)
			for _, state := range []string{NotifyReady, "STATUS=waiting\nREADY=1", NotifyStopping} {
				if err := Notify(state); err != nil {
					t.Fatal(err)
				}
				buf := make([]byte, 100)
				n, err := conn.Read(buf)
				if err != nil || string(buf[:n]) != state {
					t.Errorf("got %q, %v, want %q", buf[:n], err, state)
				}
			}
		})
	}
}

func TestNotifyWithoutManager(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	if err := Notify(NotifyReady); err != nil {
		t.Errorf("no socket set: %v", err)
	}
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "none"))
	if err := Notify(NotifyReady); err == nil {
		t.Error("nobody listens, and no error")
	}
}

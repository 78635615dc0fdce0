package process

import (
	"cmp"
	"fmt"
	"net"
	"os"
)

// States that the service manager knows, for Notify; "STATUS=text" is a further one.
const (
	NotifyReady    = "READY=1"
	NotifyStopping = "STOPPING=1"
)

// NotifySocketEnv is under which name the launcher passes NOTIFY_SOCKET on. The
// stock API server would otherwise report READY as soon as it serves, and take
// the variable out of the environment.
const NotifySocketEnv = "KELSON_NOTIFY_SOCKET"

// Notify tells the service manager about the host (sd_notify): one or more
// assignments, separated by newlines. Without NotifySocketEnv or NOTIFY_SOCKET
// it does nothing.
func Notify(state string) error {
	name := cmp.Or(os.Getenv(NotifySocketEnv), os.Getenv("NOTIFY_SOCKET"))
	if name == "" {
		return nil
	}
	// A leading @ is the abstract name space, for net as for systemd.
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify service manager: %w", err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(state)); err != nil {
		return fmt.Errorf("notify service manager: %w", err)
	}
	return nil
}

package process

import (
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Spec says what to run and how to keep it running. Name and Path are required.
type Spec struct {
	Name  string   // log field, kebab-case
	Path  string   // the executable, absolute
	Argv0 string   // argv[0]; Path if empty
	Args  []string // argv[1:]
	// Env is the whole environment; the host's if nil. Variables of the service
	// manager's protocol (NOTIFY_SOCKET, …) and the host's own settings (KELSON_…,
	// KELSON_TOKEN among them) are never passed on: what a child starts keeps its
	// environment for life, readable to whoever may look at the process.
	Env []string
	Dir string

	// LogFile takes stdout and stderr; they are the host's own if it is empty.
	// It is copied to LogFile.1 … LogFile.<LogBackups> and truncated when it has
	// grown beyond LogMaxBytes; what is written between copy and truncation
	// (microseconds) is lost. 10 MiB and 3 backups if not positive.
	LogFile     string
	LogMaxBytes int64
	LogBackups  int

	StopSignal  syscall.Signal // asks for a graceful end; SIGTERM if zero
	StopTimeout time.Duration  // until SIGKILL; 10 s if not positive
	// DeathSignal is what the kernel sends the child when the host dies; SIGKILL if zero.
	DeathSignal syscall.Signal

	Restart Policy

	// PIDFile holds the record of the running process, see Reap. Start ends a
	// leftover that it names. No record is kept if it is empty.
	PIDFile string

	// Cgroup is a cgroup folder (below /sys/fs/cgroup), made if missing, that
	// the child joins: in version 2 as it is created, in version 1 right after.
	Cgroup string

	OnStart func(pid int)   // after every start
	OnExit  func(err error) // after every end, with its reason; not when stopped
}

// Policy says when a child that ended is started again. The zero value restarts
// it for ever.
type Policy struct {
	Min    time.Duration // first pause, doubled with each failure; 250 ms if not positive
	Max    time.Duration // longest pause; 30 s if not positive
	Stable time.Duration // a run as long as this resets the pause; 60 s if not positive
	// Limit is how many restarts in a row without a stable run are tried before
	// Exited yields; no limit if zero, no restart at all if negative.
	Limit int
	// RetryFirst makes a launch that fails in Start one failure among others:
	// Start returns nil and the child is tried again, see Child.LastError.
	RetryFirst bool
}

func (s Spec) withDefaults() Spec {
	if s.Argv0 == "" {
		s.Argv0 = s.Path
	}
	if s.LogMaxBytes <= 0 {
		s.LogMaxBytes = 10 << 20
	}
	if s.LogBackups <= 0 {
		s.LogBackups = 3
	}
	if s.StopSignal == 0 {
		s.StopSignal = syscall.SIGTERM
	}
	if s.DeathSignal == 0 {
		s.DeathSignal = syscall.SIGKILL
	}
	s.StopTimeout = positive(s.StopTimeout, 10*time.Second)
	s.Restart.Min = positive(s.Restart.Min, 250*time.Millisecond)
	s.Restart.Max = positive(s.Restart.Max, 30*time.Second)
	s.Restart.Stable = positive(s.Restart.Stable, time.Minute)
	return s
}

func positive(d, otherwise time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return otherwise
}

// environ never returns nil, which os/exec would read as "the host's".
func (s Spec) environ() []string {
	env := s.Env
	if env == nil {
		env = os.Environ()
	}
	own := []string{"NOTIFY_SOCKET=", "WATCHDOG_PID=", "WATCHDOG_USEC=", "LISTEN_PID=", "LISTEN_FDS=", "LISTEN_FDNAMES=", "KELSON_"}
	return slices.DeleteFunc(append([]string{}, env...), func(kv string) bool {
		return slices.ContainsFunc(own, func(prefix string) bool { return strings.HasPrefix(kv, prefix) })
	})
}

// backoff counts failures in a row.
type backoff struct {
	policy   Policy
	failures int
}

// next returns the pause before the next start after a run of that length, and
// whether there is to be one.
func (b *backoff) next(ran time.Duration) (time.Duration, bool) {
	if ran >= b.policy.Stable {
		b.failures = 0
	}
	b.failures++
	if b.policy.Limit < 0 || b.policy.Limit > 0 && b.failures > b.policy.Limit {
		return 0, false
	}
	pause := b.policy.Min
	for i := 1; i < b.failures && pause < b.policy.Max; i++ {
		pause *= 2
	}
	return min(pause, b.policy.Max), true
}

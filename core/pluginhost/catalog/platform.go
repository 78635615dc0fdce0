package catalog

import (
	"bufio"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// runnable says why the kernel would not execute the opened file: permission,
// mount, architecture, or a missing interpreter.
func runnable(f *os.File) error {
	e := &Refused{Step: "platform", File: f.Name()}
	var st unix.Stat_t
	var fs unix.Statfs_t
	if err := errors.Join(unix.Fstat(int(f.Fd()), &st), unix.Fstatfs(int(f.Fd()), &fs)); err != nil {
		return fmt.Errorf("stat %s: %w", f.Name(), err)
	}
	switch {
	case st.Mode&0o111 == 0:
		e.Step = "permission"
		e.Expected, e.Found, e.Remedy = "an executable file", fmt.Sprintf("mode %04o", st.Mode&0o7777), "chmod 0755 "+f.Name()
		return e
	case fs.Flags&unix.ST_NOEXEC != 0:
		e.Expected, e.Found, e.Remedy = "a file system that allows execution", "one mounted noexec", "mount it without noexec, or choose another data dir with --data-dir"
		return e
	}
	interpreter, err := loader(f, e)
	if err != nil {
		return err
	}
	if _, err := os.Stat(interpreter); interpreter != "" && err != nil {
		e.Expected, e.Found = "its interpreter "+interpreter, "none on this host"
		e.Remedy = "install the interpreter, or build the plugin as a static program (CGO_ENABLED=0)"
		return e
	}
	return nil
}

// loader returns the interpreter that the file names, "" if it needs none.
func loader(f *os.File, e *Refused) (string, error) {
	head := make([]byte, 256)
	n, _ := f.ReadAt(head, 0)
	if n < 4 {
		e.Expected, e.Found, e.Remedy = "a program", "a file of "+fmt.Sprint(n)+" bytes", "install the plugin again"
		return "", e
	}
	head = head[:n]
	if script, ok := bytes.CutPrefix(head, []byte("#!")); ok {
		line, _, _ := bufio.NewReader(bytes.NewReader(script)).ReadLine()
		fields := strings.Fields(string(line))
		if len(fields) == 0 {
			e.Expected, e.Found, e.Remedy = "an interpreter behind #!", "none", "write it, like #!/usr/bin/python3"
			return "", e
		}
		return fields[0], nil
	}
	x, err := elf.NewFile(f)
	if err != nil {
		e.Expected, e.Found, e.Remedy = "an ELF program or a script with #!", err.Error(), "install the plugin that was built for linux"
		return "", e
	}
	if want := machine(); want != elf.EM_NONE && x.Machine != want {
		e.Expected, e.Found = "a program for "+runtime.GOARCH, "one for "+strings.ToLower(strings.TrimPrefix(x.Machine.String(), "EM_"))
		e.Remedy = "install the plugin that was built for linux/" + runtime.GOARCH
		return "", e
	}
	for _, p := range x.Progs {
		if p.Type != elf.PT_INTERP || p.Filesz > 4096 {
			continue
		}
		name := make([]byte, p.Filesz)
		if _, err := p.ReadAt(name, 0); err != nil {
			return "", fmt.Errorf("read %s: %w", f.Name(), err)
		}
		return strings.TrimRight(string(name), "\x00"), nil
	}
	return "", nil
}

func machine() elf.Machine {
	switch runtime.GOARCH {
	case "amd64":
		return elf.EM_X86_64
	case "arm64":
		return elf.EM_AARCH64
	case "arm":
		return elf.EM_ARM
	case "riscv64":
		return elf.EM_RISCV
	default:
		return elf.EM_NONE
	}
}

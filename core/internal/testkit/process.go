package testkit

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Process is one line of the process table.
type Process struct {
	PID, Parent int
	Args        []string
}

func (p Process) String() string { return fmt.Sprintf("%d %s", p.PID, strings.Join(p.Args, " ")) }

// mentions tells whether an argument holds one of the strings.
func (p Process) mentions(marks []string) bool {
	return slices.ContainsFunc(p.Args, func(arg string) bool {
		return slices.ContainsFunc(marks, func(m string) bool { return strings.Contains(arg, m) })
	})
}

// processes reads the process table; zombies and kernel threads are left out.
func processes() ([]Process, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var all []Process
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || len(cmdline) == 0 {
			continue
		}
		state, parent, err := statOf(dir)
		if err != nil || state == "Z" || state == "X" {
			continue
		}
		args := strings.Split(strings.TrimRight(string(cmdline), "\x00"), "\x00")
		all = append(all, Process{PID: pid, Parent: parent, Args: args})
	}
	return all, nil
}

// statOf reads state and parent from /proc/<pid>/stat; the command name in it
// may hold spaces and parentheses.
func statOf(dir string) (state string, parent int, err error) {
	raw, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return "", 0, err
	}
	fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
	if len(fields) < 2 {
		return "", 0, fmt.Errorf("parse %s/stat: %d fields", dir, len(fields))
	}
	parent, err = strconv.Atoi(fields[1])
	return fields[0], parent, err
}

// family is every process that mentions one of the marks, with all that
// descend from them; this process and its own ancestors are left out.
func family(marks []string) ([]Process, error) {
	all, err := processes()
	if err != nil {
		return nil, err
	}
	byPID, ours := map[int]Process{}, map[int]bool{}
	for _, p := range all {
		byPID[p.PID] = p
	}
	for pid := os.Getpid(); pid > 1 && !ours[pid]; pid = byPID[pid].Parent {
		ours[pid] = true
	}
	// A process belongs if it, or an ancestor below us, mentions a mark.
	belongs := func(p Process) bool {
		for depth := 0; depth < 64 && p.PID > 1 && !ours[p.PID]; depth++ {
			if p.mentions(marks) {
				return true
			}
			p = byPID[p.Parent]
		}
		return false
	}
	return slices.DeleteFunc(all, func(p Process) bool { return ours[p.PID] || !belongs(p) }), nil
}

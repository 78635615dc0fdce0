package bench

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// series is one measured row, in one unit.
type series struct {
	values []float64
	unit   string
}

func (s series) String() string {
	if len(s.values) == 0 {
		return "—"
	}
	v := slices.Sorted(slices.Values(s.values))
	if len(v) == 1 {
		return fmt.Sprintf("%.4g %s", v[0], s.unit)
	}
	return fmt.Sprintf("%.2f / %.2f / %.2f %s", v[0], v[len(v)/2], v[len(v)-1], s.unit)
}

// figures are the rows of one subject by name.
type figures map[string]series

func (f figures) add(row, unit string, value float64) {
	f[row] = series{append(f[row].values, value), unit}
}

func (f figures) took(row string, d time.Duration) { f.add(row, "s", d.Seconds()) }

// budget is one line of the table; limit 0 has no budget.
type budget struct {
	row   string
	text  string
	limit float64
}

const (
	coldAPI     = "empty data dir → apiserver ready"
	coldNode    = "empty data dir → node Ready"
	coldPod     = "empty data dir → first pod Running"
	coldDNS     = "empty data dir → cluster DNS answers from a pod"
	warmAPI     = "restart → apiserver ready"
	warmNode    = "restart → node Ready"
	warmPod     = "restart → first new pod Running"
	stopTime    = "SIGTERM → stopped"
	pssAll      = "PSS, all processes"
	pssCore     = "PSS, core"
	pssNode     = "PSS, node child"
	pssRuntime  = "PSS, containerd"
	rssAll      = "RSS, all processes"
	cpuIdle     = "CPU idle, all processes"
	writesIdle  = "disk writes idle, our processes"
	writesTotal = "disk writes idle, whole device"
	fileSize    = "shipped file"
)

var budgets = []budget{
	{coldAPI, "≤ 3 s", 3},
	{coldNode, "≤ 4 s", 4},
	{coldPod, "≤ 6.5 s", 6.5},
	{coldDNS, "≤ 8 s", 8},
	{warmAPI, "", 0},
	{warmNode, "≤ 2.5 s", 2.5},
	{warmPod, "≤ 4 s", 4},
	{stopTime, "≤ 10 s", 10},
	{pssAll, "≤ 480 MB", 480},
	{pssCore, "≤ 320 MB", 320},
	{pssNode, "", 0},
	{pssRuntime, "", 0},
	{rssAll, "", 0},
	{cpuIdle, "≤ 6 % of a core", 6},
	{writesIdle, "≤ 60 MB/h", 60},
	{writesTotal, "", 0},
	{fileSize, "≤ 110 MiB", 110},
}

// verdict compares the median with the budget.
func (b budget) verdict(s series) string {
	if b.limit == 0 || len(s.values) == 0 {
		return ""
	}
	if median := slices.Sorted(slices.Values(s.values))[len(s.values)/2]; median > b.limit {
		return "MISSED"
	}
	return "kept"
}

// printTable writes the whole comparison.
func printTable(w io.Writer, kelson, stock figures) {
	fmt.Fprintln(w, "\n| what | budget | kelson (min / median / max) | | separate stock processes |\n|---|---|---|---|---|")
	for _, b := range budgets {
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s |\n", b.row, b.text, kelson[b.row], b.verdict(kelson[b.row]), stock[b.row])
	}
	fmt.Fprintln(w, strings.TrimSpace(`
Kelson's cold figures include extraction, certificates and image import. The
stock processes (kube-apiserver, etcd, kube-controller-manager, kube-scheduler,
kubelet, kube-proxy of the same modules, containerd of the same payload) start
in parallel with certificates made and images imported beforehand, with raised
client rates, and without CoreDNS, local-path and metrics-server. The first pod
is created as soon as the API accepts it. PSS, CPU and writes leave out shims
and containers.`))
}

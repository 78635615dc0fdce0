package timeline

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"time"
)

// Measures of the waterfall, in pixels.
const (
	svgWidth   = 960
	svgLabels  = 250 // the column of names
	svgMargin  = 70  // for the last bar's duration
	svgTop     = 64
	svgRow     = 20
	svgBar     = 12
	svgHeading = 115 // characters
	svgChart   = svgWidth - svgLabels - svgMargin
)

// The colours are mid-tones that stand out on white and on black; text follows
// the reader's preference.
const svgStyle = `<style>
text { font: 12px system-ui, sans-serif; fill: #30363d }
.title { font-size: 14px; font-weight: 600 }
.phase { font-weight: 600 }
.dim { fill: #6e7781 }
.end { text-anchor: end }
.mid { text-anchor: middle }
.grid { stroke: #8b949e; stroke-opacity: .35 }
.bar { fill: #6b9bd2 }
.critical { fill: #e0823d }
.failed { fill: #d1484f }
@media (prefers-color-scheme: dark) { text { fill: #d0d7de } .dim { fill: #8b949e } }
</style>
`

// WriteSVG writes a waterfall: a row for each phase and each of its steps, with
// the critical path in a colour of its own.
func (b Boot) WriteSVG(w io.Writer) error {
	d := drawing{scale: svgChart / max(b.Took(), b.lastEnd(), time.Millisecond).Seconds()}
	rows := len(b.Entries) + b.phases()
	height := svgTop + rows*svgRow + 16
	d.printf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img">`+"\n", svgWidth, height, svgWidth, height)
	d.printf("<title>%s</title>\n%s", escape(b.outcome()), svgStyle)
	d.printf(`<text class="title" x="12" y="22">%s</text>`+"\n", escape(shorten(b.outcome())))
	d.legend()
	d.grid(svgChart/d.scale, height-12)
	phase, y := "", svgTop
	for _, e := range b.Entries {
		if e.Phase != phase {
			phase = e.Phase
			d.phase(b, phase, y)
			y += svgRow
		}
		d.entry(e, e.Began.Sub(b.Began).Seconds(), y)
		y += svgRow
	}
	d.printf("</svg>\n")
	_, err := w.Write(d.Bytes())
	return err
}

func (b Boot) phases() int {
	n, last := 0, ""
	for _, e := range b.Entries {
		if e.Phase != last {
			n, last = n+1, e.Phase
		}
	}
	return n
}

// lastEnd is later than the boot's end when a span outlasted it.
func (b Boot) lastEnd() (d time.Duration) {
	for _, e := range b.Entries {
		d = max(d, e.Ended.Sub(b.Began))
	}
	return d
}

type drawing struct {
	bytes.Buffer
	scale float64 // pixels per second
}

func (d *drawing) printf(format string, args ...any) { fmt.Fprintf(d, format, args...) }

func (d *drawing) x(seconds float64) float64 { return svgLabels + seconds*d.scale }

func (d *drawing) legend() {
	for i, class := range []string{"critical", "bar", "failed"} {
		x := svgLabels + 130*i
		name := []string{"critical path", "concurrent", "failed"}[i]
		d.printf(`<rect class="%s" x="%d" y="33" width="12" height="12" rx="2"/><text class="dim" x="%d" y="43">%s</text>`+"\n", class, x, x+18, name)
	}
}

// grid draws a line at every round number of seconds, ten at most.
func (d *drawing) grid(total float64, bottom int) {
	step := tick(total)
	for i := 0; float64(i)*step <= total; i++ {
		at := float64(i) * step
		d.printf(`<line class="grid" x1="%.1f" y1="%d" x2="%.1f" y2="%d"/><text class="dim mid" x="%.1f" y="%d">%.4gs</text>`+"\n",
			d.x(at), svgTop, d.x(at), bottom, d.x(at), svgTop-4, at)
	}
}

func (d *drawing) phase(b Boot, phase string, y int) {
	var began, ended time.Time
	for _, e := range b.Entries {
		if e.Phase != phase {
			continue
		}
		if began.IsZero() || e.Began.Before(began) {
			began = e.Began
		}
		if e.Ended.After(ended) {
			ended = e.Ended
		}
	}
	d.printf(`<text class="phase" x="12" y="%d">%s</text><text class="dim end" x="%d" y="%d">%s</text>`+"\n",
		y+14, escape(phase), svgLabels-10, y+14, seconds(ended.Sub(began)))
}

func (d *drawing) entry(e Entry, start float64, y int) {
	class := "bar"
	switch {
	case e.Error != "":
		class = "failed"
	case e.Critical:
		class = "critical"
	}
	width := max(e.Took().Seconds()*d.scale, 1)
	tip := fmt.Sprintf("%s/%s: +%.3fs, %s", e.Phase, e.Step, start, seconds(e.Took()))
	if e.Error != "" {
		tip += ": " + e.Error
	}
	d.printf(`<g><title>%s</title><text x="28" y="%d">%s</text>`, escape(tip), y+14, escape(e.Step))
	d.printf(`<rect class="%s" x="%.1f" y="%d" width="%.1f" height="%d" rx="2"/>`, class, d.x(start), y+4, width, svgBar)
	d.printf(`<text class="dim" x="%.1f" y="%d">%s</text></g>`+"\n", d.x(start)+width+6, y+14, seconds(e.Took()))
}

// tick is the smallest of 1, 2, 5 times a power of ten that divides total into
// at most ten parts.
func tick(total float64) float64 {
	step := 0.001
	for i := 0; total/step > 10; i++ {
		step *= []float64{2, 2.5, 2}[i%3]
	}
	return step
}

// shorten keeps the heading inside the picture; the title element has it all.
func shorten(s string) string {
	if r := []rune(s); len(r) > svgHeading {
		return string(r[:svgHeading]) + "…"
	}
	return s
}

// escape makes text safe inside XML; what XML cannot hold becomes U+FFFD.
func escape(s string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(s)) // a Buffer does not fail
	return b.String()
}

package strict

import (
	"fmt"
	"strings"
)

// Problem is one thing wrong with a file.
type Problem struct {
	File   string
	Line   int    // 0: not known
	Key    string // as keys and indexes joined by dots; empty: the whole file
	Msg    string
	Remedy string
}

// Error is "file:line: key: what is wrong".
func (p Problem) Error() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File)
		if p.Line > 0 {
			fmt.Fprintf(&b, ":%d", p.Line)
		}
		b.WriteString(": ")
	}
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	return b.String() + p.Msg
}

// Hint returns the remedy.
func (p Problem) Hint() string { return p.Remedy }

// Problems is everything that is wrong with a file, in its order.
type Problems []Problem

// Error lists all problems, one a line.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, one := range p {
		lines[i] = one.Error()
	}
	return strings.Join(lines, "\n")
}

// Hint returns the first problem's remedy.
func (p Problems) Hint() string {
	for _, one := range p {
		if one.Remedy != "" {
			return one.Remedy
		}
	}
	return ""
}

// OrNil is p as an error, nil if it is empty.
func (p Problems) OrNil() error {
	if len(p) == 0 {
		return nil
	}
	return p
}

// nearest returns the candidate that was probably meant, or "".
func nearest(word string, candidates []string) string {
	word = strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(word))
	best, bestDistance := "", max(2, len(word)/3)+1
	for _, c := range candidates {
		if d := distance(word, strings.ToLower(c)); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}

// distance is Levenshtein's: insertions, deletions and replacements of bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next := min(row[j]+1, row[j+1]+1, diagonal+cost)
			diagonal, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}

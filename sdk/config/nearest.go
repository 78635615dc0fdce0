package config

import (
	"fmt"
	"strings"
)

// nearest is the hint for a word that is not among the valid ones.
func nearest(word string, valid []string) string {
	best, distance := "", max(2, len(word)/3)+1
	if len(word) <= 64 {
		for _, v := range valid {
			if d := edits(strings.ToLower(word), strings.ToLower(v)); d < distance && d < len(v) {
				best, distance = v, d
			}
		}
	}
	switch {
	case best != "":
		return fmt.Sprintf("did you mean %q?", best)
	case len(valid) == 0:
		return "no key is known here"
	default:
		return "valid: " + strings.Join(valid, ", ")
	}
}

// edits is the Levenshtein distance.
func edits(a, b string) int {
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
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}

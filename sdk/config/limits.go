package config

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// limits are the bounds of one value. Which bounds count depends on the kind:
// those of numbers and durations are values, the others lengths.
type limits struct {
	bits     int // of a Go number
	enum     []string
	min, max *bound
}

// bound is min or max, in the kind that it belongs to.
type bound struct {
	text  string
	i     int64 // kindInt, kindDuration, lengths
	u     uint64
	f     float64
	value any // for the schema
}

// limit adds one option of a tag.
func (s *shape) limit(key, value string) error {
	if key == "enum" {
		target := s
		if s.kind == kindList {
			target = s.elem
		}
		if target.kind != kindString && target.kind != kindText {
			return errors.New("only strings, or lists of them, can be enumerated")
		}
		target.limits.enum = strings.Split(value, "|")
		return nil
	}
	b, err := s.bound(value)
	if err != nil {
		return err
	}
	if key == "min" {
		s.limits.min = b
	} else {
		s.limits.max = b
	}
	return nil
}

func (s *shape) bound(text string) (*bound, error) {
	b := &bound{text: text}
	var err error
	switch s.kind {
	case kindInt:
		b.i, err = strconv.ParseInt(text, 10, s.limits.bits)
		b.value = b.i
	case kindUint:
		b.u, err = strconv.ParseUint(text, 10, s.limits.bits)
		b.value = b.u
	case kindFloat:
		b.f, err = strconv.ParseFloat(text, s.limits.bits)
		if err == nil && (math.IsNaN(b.f) || math.IsInf(b.f, 0)) {
			err = errors.New("not a finite number")
		}
		b.value = b.f
	case kindDuration:
		var d time.Duration
		d, err = parseDuration(text)
		b.i, b.value = int64(d), text
	case kindString, kindText, kindList, kindMap:
		b.i, err = strconv.ParseInt(text, 10, 32)
		if err == nil && b.i < 0 {
			err = errors.New("a length is not negative")
		}
		b.value = b.i
	default:
		err = errors.New("it has no bounds")
	}
	return b, err
}

// breach says how v, of the shape's kind, breaks its limits; "" if it does not.
// text is what was written, for kinds that are written as strings.
func (s *shape) breach(v reflect.Value, text string) (summary, hint string) {
	l := s.limits
	if l.enum != nil && !slices.Contains(l.enum, text) {
		return "must be one of " + strings.Join(l.enum, ", "), nearest(text, l.enum)
	}
	below, above := false, false
	unit := ""
	switch s.kind {
	case kindInt, kindDuration:
		below, above = l.min != nil && v.Int() < l.min.i, l.max != nil && v.Int() > l.max.i
	case kindUint:
		below, above = l.min != nil && v.Uint() < l.min.u, l.max != nil && v.Uint() > l.max.u
	case kindFloat:
		below, above = l.min != nil && v.Float() < l.min.f, l.max != nil && v.Float() > l.max.f
	case kindString, kindText:
		n := int64(utf8.RuneCountInString(text))
		unit, below, above = " characters long", l.min != nil && n < l.min.i, l.max != nil && n > l.max.i
	case kindList, kindMap:
		n := int64(v.Len())
		unit, below, above = " entries long", l.min != nil && n < l.min.i, l.max != nil && n > l.max.i
	}
	switch {
	case below:
		return fmt.Sprintf("must be at least %s%s", l.min.text, unit), ""
	case above:
		return fmt.Sprintf("must be at most %s%s", l.max.text, unit), ""
	default:
		return "", ""
	}
}

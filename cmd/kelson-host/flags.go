package main

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/kelson-io/kelson/core/config"
)

// given collects the occurrences of one flag as text; core/config checks them,
// so that a flag and a line of config.yaml are answered alike.
type given struct{ texts []string }

// Decode takes one occurrence.
func (g *given) Decode(ctx *kong.DecodeContext) error {
	var text string
	if err := ctx.Scan.PopValueInto("value", &text); err != nil {
		return err
	}
	g.texts = append(g.texts, text)
	return nil
}

// givenBool is given for flags that stand alone.
type givenBool struct{ texts []string }

var (
	_ kong.MapperValue     = (*given)(nil)
	_ kong.BoolMapperValue = (*givenBool)(nil)
)

// IsBool tells kong that no value need follow.
func (*givenBool) IsBool() bool { return true }

// Decode takes one occurrence.
func (g *givenBool) Decode(ctx *kong.DecodeContext) error {
	text := "true"
	if ctx.Scan.Peek().Type == kong.FlagValueToken {
		text = fmt.Sprint(ctx.Scan.Pop().Value)
	}
	g.texts = append(g.texts, text)
	return nil
}

// optionFlags are kong flags made from core/config's table.
type optionFlags struct {
	options []config.Option
	values  reflect.Value // pointer to a struct with one field per option
}

// newOptionFlags makes flags of the options that keep returns true for.
func newOptionFlags(keep func(config.Option) bool) *optionFlags {
	f := &optionFlags{}
	var fields []reflect.StructField
	for _, o := range config.Options() {
		if !keep(o) {
			continue
		}
		kind := reflect.TypeFor[given]()
		if o.Type == config.Bool {
			kind = reflect.TypeFor[givenBool]()
		}
		fields = append(fields, reflect.StructField{
			Name: "F" + strconv.Itoa(len(fields)), Type: kind, Tag: flagTag(o),
		})
		f.options = append(f.options, o)
	}
	f.values = reflect.New(reflect.StructOf(fields))
	return f
}

// plugin is what a command struct embeds.
func (f *optionFlags) plugin() kong.Plugins { return kong.Plugins{f.values.Interface()} }

// flags returns what was given, in the order of the table.
func (f *optionFlags) flags() []config.Flag {
	var out []config.Flag
	for i, o := range f.options {
		var texts []string
		switch v := f.values.Elem().Field(i).Interface().(type) {
		case given:
			texts = v.texts
		case givenBool:
			texts = v.texts
		}
		for _, text := range texts {
			out = append(out, config.Flag{Name: o.Name, Value: text})
		}
	}
	return out
}

func flagTag(o config.Option) reflect.StructTag {
	var b strings.Builder
	put := func(key, value string) { fmt.Fprintf(&b, "%s:%s ", key, strconv.Quote(value)) }
	put("name", o.Name)
	put("help", flagHelp(o))
	if len(o.Aliases) > 0 {
		put("aliases", strings.Join(o.Aliases, ","))
	}
	if o.Short != 0 {
		put("short", string(o.Short))
	}
	if o.Type != config.Bool {
		put("placeholder", placeholder(o))
	}
	if o.Hidden {
		put("hidden", "")
	}
	if !o.Global {
		put("group", o.Group+":")
	}
	return reflect.StructTag(b.String())
}

// flagHelp is the table's text with default and variable.
func flagHelp(o config.Option) string {
	text := o.Help
	switch {
	case o.Shown != "":
		text += " Default: " + o.Shown + "."
	case o.Type == config.Bool && o.Default == "true":
		text += " Default: true."
	case o.Default != "" && o.Type != config.Bool:
		text += " Default: " + o.Default + "."
	}
	return text
}

func placeholder(o config.Option) string {
	if len(o.Values) > 0 {
		var names []string
		for _, c := range o.Values {
			if c.Status == config.Supported {
				names = append(names, c.Value)
			}
		}
		return strings.Join(names, "|")
	}
	switch o.Type {
	case config.Number:
		return "N"
	case config.Args:
		return "NAME=VALUE"
	case config.List:
		return "VALUE,..."
	default:
		return "VALUE"
	}
}

package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"
)

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Help gives examples.
func (completionCmd) Help() string {
	return "Examples:\n\n    kelson completion bash > /etc/bash_completion.d/kelson\n    kelson completion zsh > \"${fpath[1]}/_kelson\"\n    kelson completion fish > ~/.config/fish/completions/kelson.fish"
}

// Run prints the script, made from the same model as the help.
func (c *completionCmd) Run(ctx *kong.Context, std streams) error {
	places := completionPlaces(ctx.Model.Node, "")
	switch c.Shell {
	case "fish":
		return fishCompletion(std.Out, places)
	case "zsh":
		return zshCompletion(std.Out, places)
	default:
		return bashCompletion(std.Out, places)
	}
}

// word is one completion and its description.
type word struct{ text, help string }

// place is a command path with what may follow it.
type place struct {
	path     string // "", "config", "config show"
	tool     bool   // a foreign program: files only
	commands []word
	flags    []word
}

// completionPlaces walks the model, parents first.
func completionPlaces(node *kong.Node, path string) []place {
	p := place{path: path, tool: node.Passthrough}
	for _, level := range node.AllFlags(true) {
		for _, f := range level {
			p.flags = append(p.flags, word{"--" + f.Name, f.Help})
		}
	}
	places := []place{}
	for _, child := range node.Children {
		if child.Hidden {
			continue
		}
		p.commands = append(p.commands, word{child.Name, child.Help})
		places = append(places, completionPlaces(child, strings.TrimSpace(path+" "+child.Name))...)
	}
	for _, arg := range node.Positional {
		for value := range strings.SplitSeq(arg.Enum, ",") {
			if value != "" {
				p.commands = append(p.commands, word{value, ""})
			}
		}
	}
	return append([]place{p}, places...)
}

func texts(words []word) string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = w.text
	}
	return strings.Join(out, " ")
}

// wordPath is the shell loop that finds the command path among the words typed:
// it takes a word when the path with it is one of the model's.
const bashHead = `# bash completion for kelson
_kelson() {
    local cur="${COMP_WORDS[COMP_CWORD]}" path="" word i
    for ((i = 1; i < COMP_CWORD; i++)); do
        word="${COMP_WORDS[i]}"
        case "|%s|" in
        *"|${path:+$path }$word|"*) path="${path:+$path }$word" ;;
        esac
    done
    local commands="" flags=""
    case "$path" in
`

const bashTail = `    esac
    if [[ "$cur" == -* ]]; then
        COMPREPLY=($(compgen -W "$flags" -- "$cur"))
    elif [[ -n "$commands" ]]; then
        COMPREPLY=($(compgen -W "$commands" -- "$cur"))
    else
        COMPREPLY=($(compgen -f -- "$cur"))
    fi
}
complete -F _kelson kelson
`

func bashCompletion(w io.Writer, places []place) error {
	fmt.Fprintf(w, bashHead, paths(places))
	for _, p := range places {
		fmt.Fprintf(w, "    %q) commands=%q flags=%q ;;\n", p.path, texts(p.commands), texts(p.flags))
	}
	_, err := io.WriteString(w, bashTail)
	return err
}

func paths(places []place) string {
	var out []string
	for _, p := range places {
		if p.path != "" {
			out = append(out, p.path)
		}
	}
	return strings.Join(out, "|")
}

const zshHead = `#compdef kelson
_kelson() {
    local path_="" word i
    for ((i = 2; i < CURRENT; i++)); do
        word="${words[i]}"
        case "|%s|" in
        *"|${path_:+$path_ }$word|"*) path_="${path_:+$path_ }$word" ;;
        esac
    done
    local -a commands flags
    case "$path_" in
`

const zshTail = `    esac
    if [[ "$PREFIX" == -* ]]; then
        _describe -o 'flag' flags
    elif (( ${#commands} )); then
        _describe 'command' commands
    else
        _files
    fi
}
if [[ "${funcstack[1]}" == "_kelson" ]]; then
    _kelson "$@"
else
    compdef _kelson kelson
fi
`

func zshCompletion(w io.Writer, places []place) error {
	fmt.Fprintf(w, zshHead, paths(places))
	for _, p := range places {
		fmt.Fprintf(w, "    %q)\n        commands=(%s)\n        flags=(%s)\n        ;;\n", p.path, zshWords(p.commands), zshWords(p.flags))
	}
	_, err := io.WriteString(w, zshTail)
	return err
}

func zshWords(words []word) string {
	out := make([]string, len(words))
	for i, item := range words {
		text := item.text
		if item.help != "" {
			text += ":" + strings.ReplaceAll(item.help, ":", `\:`)
		}
		out[i] = quote(text)
	}
	return strings.Join(out, " ")
}

// quote makes a shell word of any text.
func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

const fishHead = `# fish completion for kelson
function __kelson_at
    set -l path
    for word in (commandline -opc)[2..-1]
        set -l next (string join ' ' $path $word)
        if contains -- "$next" %s
            set path $path $word
        end
    end
    test "$argv[1]" = (string join ' ' -- $path | string collect -a)
end
complete -c kelson -f
`

func fishCompletion(w io.Writer, places []place) error {
	var known []string
	for _, p := range places {
		if p.path != "" {
			known = append(known, quote(p.path))
		}
	}
	fmt.Fprintf(w, fishHead, strings.Join(known, " "))
	for _, p := range places {
		at := quote("__kelson_at " + quote(p.path))
		for _, c := range p.commands {
			fmt.Fprintf(w, "complete -c kelson -n %s -a %s -d %s\n", at, quote(c.text), quote(c.help))
		}
		for _, f := range p.flags {
			fmt.Fprintf(w, "complete -c kelson -n %s -l %s -d %s\n", at, strings.TrimPrefix(f.text, "--"), quote(f.help))
		}
		if p.tool {
			fmt.Fprintf(w, "complete -c kelson -n %s -F\n", at)
		}
	}
	return nil
}

package server

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/caarlos0/env/v11"
	"golang.org/x/sys/unix"
)

// Where settings come from: the environment, the file that CONFIG_FILE names, and for a secret X the file that
// X_FILE names.

const (
	configFile = "CONFIG_FILE"
	fileSuffix = "_FILE"

	// maxFileBytes bounds a file of settings and one of a secret.
	maxFileBytes = 1 << 20
)

// plausible matches what may be meant as the name of a setting, and may be shown.
var plausible = regexp.MustCompile(`^[A-Za-z][A-Z_a-z]{0,40}$`)

// sources holds the variables that are set.
type sources struct {
	set      map[string]string
	places   map[string]string // the file, and its line, of those that are not in the environment
	faults   []fault
	warnings []string
}

// gather reads all sources. An empty variable counts as not set. The environment has precedence over
// CONFIG_FILE.
func gather(environ []string) *sources {
	s := &sources{set: make(map[string]string), places: make(map[string]string)}
	for name, value := range env.ToMap(environ) {
		if value = meant(name, value); value != "" {
			s.set[name] = value
		}
	}
	exposed := s.readSettings()
	for _, name := range secretNames() {
		if s.places[name] == "" {
			exposed &^= readable
		}
	}
	s.warn(configFile, exposed)
	for _, name := range secretNames() {
		s.readSecret(name)
	}
	return s
}

// meant returns what a variable's value stands for.
func meant(name, value string) string {
	if name == "HEALTH_ADDR" && value == "" {
		return "off"
	}
	return value
}

// readSettings adds the settings in CONFIG_FILE. It returns what other users may do with that file.
func (s *sources) readSettings() exposure {
	path := s.set[configFile]
	if path == "" {
		return 0
	}
	text, exposed, err := readFile(path)
	if err != nil {
		s.bad(configFile, "%v", err)
		return 0
	}
	known := names()
	lines, faults := parseSettings(text)
	for _, f := range faults {
		s.bad(configFile, "%s:%d: %s", path, f.number, f.value)
	}
	for _, l := range lines {
		place := fmt.Sprintf("%s:%d", path, l.number)
		switch _, inEnvironment := s.set[l.name]; {
		case l.name == configFile:
			s.bad(configFile, "%s: only the environment can set it", place)
		case !plausible.MatchString(l.name): // it may be a part of a secret
			s.bad(configFile, "%s: what stands before = is no setting", place)
		case !slices.Contains(known, l.name):
			s.bad(configFile, "%s: %q is no setting; the nearest is %s", place, l.name, nearest(l.name, known))
		case !inEnvironment && meant(l.name, l.value) != "":
			s.set[l.name], s.places[l.name] = meant(l.name, l.value), place
		}
	}
	return exposed
}

// readSecret sets the secret name to the content of the file that name_FILE names.
func (s *sources) readSecret(name string) {
	variable := name + fileSuffix
	path := s.set[variable]
	if path == "" {
		return
	}
	if s.set[name] != "" {
		s.bad(variable, "%s is set as well; only one of them may be", name)
		return
	}
	text, exposed, err := readFile(path)
	if err == nil && text == "" {
		err = fmt.Errorf("%s holds nothing but a line feed", path)
	}
	if err != nil {
		s.bad(variable, "%v", err)
		return
	}
	s.set[name], s.places[name] = text, path
	s.warn(variable, exposed)
}

func (s *sources) bad(variable, format string, args ...any) {
	s.faults = append(s.faults, fault{variable, fmt.Sprintf(format, args...)})
}

func (s *sources) warn(variable string, exposed exposure) {
	if exposed != 0 {
		s.warnings = append(s.warnings, fmt.Sprintf("%s: any user of this host can %s %s", variable, exposed, s.set[variable]))
	}
}

// exposure is what other users may do with a file: the permission bits for others.
type exposure fs.FileMode

const (
	writable exposure = 0o002
	readable exposure = 0o004
)

func (e exposure) String() string {
	switch e {
	case writable:
		return "write to"
	case readable:
		return "read"
	}
	return "read and write to"
}

// readFile returns the content of a file, without one line feed at its end.
func readFile(path string) (text string, exposed exposure, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // opening a pipe would wait for its writer
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", 0, err
	}
	if !info.Mode().IsRegular() {
		return "", 0, fmt.Errorf("%s is not a regular file", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	switch {
	case err != nil:
		return "", 0, err
	case len(b) == 0:
		return "", 0, fmt.Errorf("%s is empty", path)
	case len(b) > maxFileBytes:
		return "", 0, fmt.Errorf("%s is larger than 1 MiB", path)
	}
	text, cut := strings.CutSuffix(string(b), "\n")
	if cut {
		text = strings.TrimSuffix(text, "\r")
	}
	return text, exposure(info.Mode().Perm()) & (readable | writable), nil
}

// line is a setting in a file, or what is wrong with a line.
type line struct {
	number      int // from 1
	name, value string
}

var (
	errNoEquals = errors.New("is not KEY=VALUE")
	errQuotes   = errors.New("has a quotation mark at the beginning of its value that does not match one at its end")
)

// parseSettings reads lines KEY=VALUE. A line that is empty or begins with # is skipped. Blanks around a key
// and around a value are ignored. A value may be enclosed in one pair of quotation marks, single or double, which
// does not belong to it. Apart from that every character stands for itself: secrets may hold #, $, ' and `, on
// which other readers of such files disagree. A fault does not show the value.
func parseSettings(text string) (lines, faults []line) {
	seen := make(map[string]int)
	number := 0
	for raw := range strings.SplitSeq(strings.TrimPrefix(text, "\ufeff"), "\n") {
		number++
		raw = strings.TrimSpace(raw)
		if raw == "" || raw[0] == '#' {
			continue
		}
		name, value, err := parseSetting(raw)
		if before := seen[name]; err == nil && before > 0 {
			err = fmt.Errorf("sets %s, as line %d does", name, before)
		}
		if err != nil {
			faults = append(faults, line{number: number, value: "this line " + err.Error()})
			continue
		}
		seen[name] = number
		lines = append(lines, line{number, name, value})
	}
	return lines, faults
}

func parseSetting(raw string) (name, value string, err error) {
	name, value, ok := strings.Cut(raw, "=")
	name, value = strings.TrimSpace(name), strings.TrimSpace(value)
	if !ok || name == "" {
		return "", "", errNoEquals
	}
	if value == "" || value[0] != '"' && value[0] != '\'' {
		return name, value, nil
	}
	quote := value[:1]
	inner, closed := strings.CutSuffix(value[1:], quote)
	if !closed || strings.Contains(inner, quote) {
		return "", "", errQuotes
	}
	return name, inner, nil
}

// names returns the names of all variables.
func names() (names []string) {
	for f := range fields() {
		names = append(names, f.Tag.Get("env"))
	}
	return names
}

// secretNames returns the names of the variables that hold secrets. Each has a twin with fileSuffix.
func secretNames() (names []string) {
	for f := range fields() {
		if f.Type == reflect.TypeFor[Secrets]() {
			names = append(names, f.Tag.Get("env"))
		}
	}
	return names
}

// nearest returns the name in known that takes the fewest changes to make of name, in capitals.
func nearest(name string, known []string) string {
	name = strings.ToUpper(name[:min(len(name), 64)])
	return slices.MinFunc(known, func(a, b string) int { return distance(name, a) - distance(name, b) })
}

// distance is the number of bytes to insert, delete or replace (Levenshtein's distance).
func distance(a, b string) int {
	row := make([]int, len(b)+1) // distances of a's beginning to each beginning of b
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

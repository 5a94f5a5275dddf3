package server

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// fileWith writes a file that only its owner may read.
func fileWith(t testing.TB, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestParseSettings(t *testing.T) {
	f := func(text string, want ...string) {
		t.Helper()
		lines, faults := parseSettings(text)
		var got []string
		for _, l := range lines {
			got = append(got, l.name+"="+l.value)
		}
		for _, l := range faults {
			got = append(got, "fault in "+string(rune('0'+l.number)))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q is read as %q, want %q", text, got, want)
		}
	}
	f("")
	f("\n \n# A=1\n\t#\n")
	f("A=1\nB=2", "A=1", "B=2")
	f("\ufeffA=1\r\nB=2\r\n", "A=1", "B=2")
	f(" A\t=  1 2 \nB=\n", "A=1 2", "B=")
	f("A=b=c", "A=b=c")
	f("A=a#b$c'd`e\\n\nB=x # y", "A=a#b$c'd`e\\n", "B=x # y")
	f(`A="a b"`+"\n"+`B='"'`+"\nC=\"'x'\"\nD=''", "A=a b", `B="`, "C='x'", "D=")
	f("A\nB=2\n=3\n \nA=1", "B=2", "A=1", "fault in 1", "fault in 3")
	f("A=\"x\nB='x\"\nC=\"a\"b\"\nD=\"x\" # y\nE='", "fault in 1", "fault in 2", "fault in 3", "fault in 4", "fault in 5")
	f("A=1\nB=2\nA=3\nA=4", "A=1", "B=2", "fault in 3", "fault in 4")
}

var (
	skippedLine = regexp.MustCompile(`^\s*(#.*)?$`)
	settingLine = regexp.MustCompile(`^\s*([^=\s](?:[^=]*[^=\s])?)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^"'\s].*?)?)\s*$`)
)

// FuzzParseSettings compares with a reader made of regular expressions.
func FuzzParseSettings(f *testing.F) {
	for _, seed := range []string{"A=1\nB='2'\n\n#\nA=3", "\ufeffA = \"a b\" \r\n=\nB='", "A=a#b # c\n\tA\n=x\nC=''"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, c := range text { // regular expressions know only ASCII's blanks, and no others should be in such files
			if c > '~' && c != '\ufeff' || c == '\v' {
				t.Skip()
			}
		}
		lines, faults := parseSettings(text)
		before := make(map[string]bool)
		for i, raw := range strings.Split(strings.TrimPrefix(text, "\ufeff"), "\n") {
			if skippedLine.MatchString(raw) {
				continue
			}
			m := settingLine.FindStringSubmatch(raw)
			if m == nil || before[m[1]] {
				if len(faults) == 0 || faults[0].number != i+1 {
					t.Fatalf("%q: line %d is taken: %v, %v", text, i+1, lines, faults)
				}
				faults = faults[1:]
				continue
			}
			before[m[1]] = true
			if want := (line{i + 1, m[1], m[2] + m[3] + m[4]}); len(lines) == 0 || lines[0] != want {
				t.Fatalf("%q: lines %v, faults %v; want %v", text, lines, faults, want)
			}
			lines = lines[1:]
		}
		if len(lines)+len(faults) > 0 {
			t.Fatalf("%q: also %v, %v", text, lines, faults)
		}
	})
}

func TestConfigFile(t *testing.T) {
	path := fileWith(t, "# ours\nPORT=9000\n\nMAX_MESSAGE_BYTES='4096'\nADMIN_SECRET=a#b,$c\nHOST=\n")
	c, err := ParseConfig([]string{"CONFIG_FILE=" + path, "MAX_MESSAGE_BYTES=64", "PORT="})
	if err != nil {
		t.Fatal(err)
	}
	if c.Port != 9000 || c.MaxMessage != 64 || !slices.Equal(c.AdminSecrets, Secrets{"a#b", "$c"}) || len(c.Warnings()) > 0 {
		t.Errorf("PORT %d, MAX_MESSAGE_BYTES %d, %d secrets, warnings %q; want 9000, 64 of the environment, 2, none",
			c.Port, c.MaxMessage, len(c.AdminSecrets), c.Warnings())
	}
	if _, err := ParseConfig([]string{"CONFIG_FILE=" + fileWith(t, "# nothing is set\n")}); err != nil {
		t.Errorf("a file of comments alone: %v", err)
	}
}

func TestSecretFile(t *testing.T) {
	f := func(content string, want ...string) {
		t.Helper()
		path := fileWith(t, content)
		settings := fileWith(t, "ADMIN_SECRET_FILE="+path)
		for _, environ := range []string{"ADMIN_SECRET_FILE=" + path, "CONFIG_FILE=" + settings} {
			c, err := ParseConfig([]string{environ})
			if err != nil || !slices.Equal(c.AdminSecrets, want) || len(c.Warnings()) > 0 {
				t.Errorf("%q gives %q, %v, warnings %q; want %q", content, []string(c.AdminSecrets), err, c.Warnings(), want)
			}
		}
	}
	f("hunter2", "hunter2")
	f("hunter2\n", "hunter2")
	f("hunter2\r\n", "hunter2")
	f("new,old\n", "new", "old")
	f("'#$`", "'#$`") // quotation marks belong to it
}

// Every fault of a file has the file's name, and its line.
func TestFileFaults(t *testing.T) {
	dir := t.TempDir()
	f := func(content, want string, environ ...string) {
		t.Helper()
		path := fileWith(t, content)
		for i := range environ {
			environ[i] = strings.ReplaceAll(environ[i], "PATH", path)
		}
		_, err := ParseConfig(environ)
		if want = strings.ReplaceAll(want, "PATH", path); err == nil || err.Error() != want {
			t.Errorf("%.80q with %q:\n%v, want\n%s", content, environ, err, want)
		}
	}
	const settings = "CONFIG_FILE=PATH"
	f("\nPROT=1\nport=2\nMAX_CONNECTION=3", `CONFIG_FILE: PATH:2: "PROT" is no setting; the nearest is PORT
CONFIG_FILE: PATH:3: "port" is no setting; the nearest is PORT
CONFIG_FILE: PATH:4: "MAX_CONNECTION" is no setting; the nearest is MAX_CONNECTIONS`, settings)
	f("PORT=99999\nADMIN_SECRET=hunter 2", `PORT: 99999 is not from 0 to 65535 (PATH:1)
ADMIN_SECRET: its value holds a character that no browser can send in Sec-WebSocket-Protocol; allowed are letters, digits and !#$%&'*+-.^_`+"`|~ (PATH:2)", settings)
	f("HOST=a b", "HOST: \"c d\" is neither an IP address nor a host name", settings, "HOST=c d")
	f("hunter2\nPORT=1\nPORT=2\nHOST='x", `CONFIG_FILE: PATH:1: this line is not KEY=VALUE
CONFIG_FILE: PATH:3: this line sets PORT, as line 2 does
CONFIG_FILE: PATH:4: this line has a quotation mark at the beginning of its value that does not match one at its end`, settings)
	f("CONFIG_FILE=x", "CONFIG_FILE: PATH:1: only the environment can set it", settings)
	f("", "CONFIG_FILE: PATH is empty", settings)
	f("#"+strings.Repeat(".", maxFileBytes), "CONFIG_FILE: PATH is larger than 1 MiB", settings)
	f("", "CONFIG_FILE: open /nonexistent: no such file or directory", "CONFIG_FILE=/nonexistent")
	f("", "CONFIG_FILE: "+dir+" is not a regular file", "CONFIG_FILE="+dir)

	const secret = "ADMIN_SECRET_FILE=PATH"
	f("", "ADMIN_SECRET_FILE: PATH is empty", secret)
	f("\n", "ADMIN_SECRET_FILE: PATH holds nothing but a line feed", secret)
	f(strings.Repeat("x", maxFileBytes+1), "ADMIN_SECRET_FILE: PATH is larger than 1 MiB", secret)
	f("a", "ADMIN_SECRET_FILE: ADMIN_SECRET is set as well; only one of them may be", secret, "ADMIN_SECRET=b")
	f("ADMIN_SECRET=b", "ADMIN_SECRET_FILE: ADMIN_SECRET is set as well; only one of them may be", settings, "ADMIN_SECRET_FILE=x")
	f("a b\n", "ADMIN_SECRET: its value holds a character that no browser can send in Sec-WebSocket-Protocol; allowed are letters, digits and !#$%&'*+-.^_`|~ (PATH)", secret)
	f("", "ADMIN_SECRET_FILE: /dev/zero is not a regular file", "ADMIN_SECRET_FILE=/dev/zero")
}

// A file at its largest is read.
func TestLargestFile(t *testing.T) {
	path := fileWith(t, "PORT=1\n#"+strings.Repeat(".", maxFileBytes-len("PORT=1\n#")))
	if c, err := ParseConfig([]string{"CONFIG_FILE=" + path}); err != nil || c.Port != 1 {
		t.Errorf("PORT %d, %v; want 1", c.Port, err)
	}
}

func TestFileWarnings(t *testing.T) {
	f := func(variable, content string, mode os.FileMode, want string) {
		t.Helper()
		path := fileWith(t, content)
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		c, err := ParseConfig([]string{variable + "=" + path})
		if want != "" {
			want = variable + ": any user of this host can " + want + " " + path
		}
		if got := strings.Join(c.Warnings(), "; "); err != nil || got != want {
			t.Errorf("%s with %q, mode %o: warnings %q, %v; want %q", variable, content, mode, got, err, want)
		}
	}
	const secret, settings = "ADMIN_SECRET_FILE", "CONFIG_FILE"
	f(secret, "s", 0o600, "")
	f(secret, "s", 0o660, "")
	f(secret, "s", 0o644, "read")
	f(secret, "s", 0o602, "write to")
	f(secret, "s", 0o666, "read and write to")
	f(settings, "PORT=1", 0o644, "") // nothing in it is secret
	f(settings, "PORT=1", 0o666, "write to")
	f(settings, "ADMIN_SECRET=s", 0o640, "")
	f(settings, "ADMIN_SECRET=s", 0o644, "read")
}

func TestNearest(t *testing.T) {
	f := func(name, want string) {
		t.Helper()
		if got := nearest(name, names()); got != want {
			t.Errorf("the nearest to %q is %s, want %s", name, got, want)
		}
	}
	f("ADMIN_SECRETS", "ADMIN_SECRET")
	f("max_message_byte", "MAX_MESSAGE_BYTES")
	f("LOGLEVEL", "LOG_LEVEL")
	f("RELAYGATE_DRAIN_PERIOD", "DRAIN_PERIOD")
	f("DRIAN_DELAY", "DRAIN_DELAY")
	f(strings.Repeat("x", 1<<20), nearest(strings.Repeat("X", 64), names()))
	if d := distance("kitten", "sitting"); d != 3 {
		t.Errorf("the distance of kitten to sitting is %d, want 3", d)
	}
}

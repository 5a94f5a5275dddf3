package check

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
)

// TestCompose loads deploy/compose.yml as docker compose does, with its schema, and wants what the relay needs and
// nothing that it does not.
func TestCompose(t *testing.T) {
	options, err := cli.NewProjectOptions([]string{filepath.Join(root, "deploy/compose.yml")})
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	s, err := project.GetService("relaygate")
	if err != nil {
		t.Fatal(err)
	}
	if !s.ReadOnly || len(s.CapDrop) != 1 || s.CapDrop[0] != "ALL" || s.Privileged || len(s.CapAdd) > 0 {
		t.Error("the service may do more than it needs")
	}
	if files := s.Ulimits["nofile"]; files == nil || files.Single < 1<<20 {
		t.Errorf("the limit on open files is %+v, want 1048576", files)
	}
	if s.MemLimit == 0 {
		t.Error("memory has no limit: MEMORY_BUDGET would be a share of the host's")
	}
	drain := time.Duration(0)
	if period := s.Environment["DRAIN_PERIOD"]; period != nil {
		drain, _ = time.ParseDuration(*period)
	}
	if grace := s.StopGracePeriod; grace == nil || time.Duration(*grace) <= drain+3*time.Second {
		t.Errorf("the drain takes up to %v and is left %v", drain+3*time.Second, s.StopGracePeriod)
	}
	for _, p := range s.Ports {
		if p.Target == 8081 && p.HostIP != "127.0.0.1" {
			t.Errorf("metrics are published on %q", p.HostIP)
		}
	}
	if want := filepath.Join(root, "deploy/Dockerfile"); s.Build == nil || s.Build.Dockerfile != "deploy/Dockerfile" || filepath.Clean(s.Build.Context) != absolute(t, root) {
		t.Errorf("it builds %+v, want %s", s.Build, want)
	}
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

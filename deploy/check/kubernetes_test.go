// Package check holds tests of what stands in deploy/ for Docker and Kubernetes, by the libraries of these.
package check

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	policy "k8s.io/api/policy/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"
)

// load decodes a manifest. A field that Kubernetes does not know is a fault.
func load[T any](t *testing.T, name, kind string) *T {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "deploy/kubernetes", name))
	if err != nil {
		t.Fatal(err)
	}
	object := new(T)
	if err := yaml.UnmarshalStrict(text, object); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	var typed meta.TypeMeta
	if err := yaml.Unmarshal(text, &typed); err != nil || typed.Kind != kind {
		t.Fatalf("%s is a %q, want %s: %v", name, typed.Kind, kind, err)
	}
	return object
}

func deployment(t *testing.T) (*apps.Deployment, *core.PodSpec, *core.Container) {
	t.Helper()
	d := load[apps.Deployment](t, "deployment.yaml", "Deployment")
	if n := len(d.Spec.Template.Spec.Containers); n != 1 {
		t.Fatalf("%d containers, want 1", n)
	}
	return d, &d.Spec.Template.Spec, &d.Spec.Template.Spec.Containers[0]
}

// TestKustomization names every manifest.
func TestKustomization(t *testing.T) {
	k := load[struct {
		meta.TypeMeta `json:",inline"`
		Resources     []string `json:"resources"`
		Images        []struct {
			Name, NewName, NewTag string
		} `json:"images"`
	}](t, "kustomization.yaml", "Kustomization")
	files, err := filepath.Glob(filepath.Join(root, "deploy/kubernetes/*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		if name := filepath.Base(path); name != "kustomization.yaml" && !slices.Contains(k.Resources, name) {
			t.Errorf("%s is not applied", name)
		}
	}
	if len(k.Resources) != len(files)-1 {
		t.Errorf("it names %v, want the %d manifests", k.Resources, len(files)-1)
	}
	if _, _, c := deployment(t); len(k.Images) != 1 || k.Images[0].Name != c.Image {
		t.Errorf("it replaces %v, want the image %s", k.Images, c.Image)
	}
}

// TestSelectors: all of them choose the deployment's pods, and the service reaches the relay's port.
func TestSelectors(t *testing.T) {
	d, _, c := deployment(t)
	service := load[core.Service](t, "service.yaml", "Service")
	budget := load[policy.PodDisruptionBudget](t, "poddisruptionbudget.yaml", "PodDisruptionBudget")
	labels := d.Spec.Template.Labels
	chooses := func(what string, selector map[string]string) {
		t.Helper()
		if len(selector) == 0 {
			t.Errorf("%s chooses nothing", what)
		}
		for k, v := range selector {
			if labels[k] != v {
				t.Errorf("%s asks for %s=%s, pods have %v", what, k, v, labels)
			}
		}
	}
	chooses("the deployment", d.Spec.Selector.MatchLabels)
	chooses("the service", service.Spec.Selector)
	chooses("the budget", budget.Spec.Selector.MatchLabels)
	chooses("the anti-affinity", d.Spec.Template.Spec.Affinity.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution[0].PodAffinityTerm.LabelSelector.MatchLabels)
	if len(service.Spec.Ports) != 1 {
		t.Fatal("the service has not one port: HEALTH_ADDR must not be published")
	}
	to := service.Spec.Ports[0]
	if to.Protocol != core.ProtocolTCP || !slices.ContainsFunc(c.Ports, func(p core.ContainerPort) bool { return p.Name == to.TargetPort.StrVal && p.ContainerPort == 8080 }) {
		t.Errorf("the service reaches %v, want the port 8080 by TCP", to)
	}
	if service.Spec.ExternalTrafficPolicy != core.ServiceExternalTrafficPolicyLocal {
		t.Error("the relay would see the nodes' addresses instead of the clients'")
	}
	if n := budget.Spec.MaxUnavailable; n == nil || n.IntValue() != 1 || budget.Spec.MinAvailable != nil {
		t.Errorf("the budget is %+v, want maxUnavailable 1: nodes can be drained", budget.Spec)
	}
}

// TestGrace: a pod is given the time that its drain takes, and a new one is there before.
func TestGrace(t *testing.T) {
	d, pod, c := deployment(t)
	drain := 3 * time.Second
	for _, e := range c.Env {
		if e.Name == "DRAIN_DELAY" || e.Name == "DRAIN_PERIOD" {
			v, err := time.ParseDuration(e.Value)
			if err != nil {
				t.Error(err)
			}
			drain += v
		}
	}
	if c.Lifecycle != nil && c.Lifecycle.PreStop != nil && c.Lifecycle.PreStop.Sleep != nil {
		drain += time.Duration(c.Lifecycle.PreStop.Sleep.Seconds) * time.Second
	}
	grace := 30 * time.Second // Kubernetes' default
	if s := pod.TerminationGracePeriodSeconds; s != nil {
		grace = time.Duration(*s) * time.Second
	}
	if grace <= drain {
		t.Errorf("the drain takes up to %v, and the pod is left %v", drain, grace)
	}
	one, none := intstr.FromInt32(1), intstr.FromInt32(0)
	if r := d.Spec.Strategy.RollingUpdate; r == nil || *r.MaxSurge != one || *r.MaxUnavailable != none {
		t.Errorf("the update is %+v, want maxSurge 1 and maxUnavailable 0", r)
	}
}

// TestProbes ask HEALTH_ADDR's port.
func TestProbes(t *testing.T) {
	_, _, c := deployment(t)
	f := func(what string, p *core.Probe, path string) {
		t.Helper()
		if p == nil || p.HTTPGet == nil || p.HTTPGet.Path != path || p.HTTPGet.Port.StrVal != "health" {
			t.Errorf("the %s probe is %+v, want %s on the port health", what, p, path)
		}
	}
	f("startup", c.StartupProbe, "/readyz")
	f("readiness", c.ReadinessProbe, "/readyz")
	f("liveness", c.LivenessProbe, "/livez")
	if !slices.ContainsFunc(c.Ports, func(p core.ContainerPort) bool { return p.Name == "health" && p.ContainerPort == 8081 }) ||
		!slices.Contains(c.Env, core.EnvVar{Name: "HEALTH_ADDR", Value: "0.0.0.0:8081"}) {
		t.Error("HEALTH_ADDR cannot be reached by kubelet")
	}
}

// TestRestricted: the pod is admitted under the Pod Security Standard "restricted", and has no token.
func TestRestricted(t *testing.T) {
	_, pod, c := deployment(t)
	s, own := pod.SecurityContext, c.SecurityContext
	yes := func(b *bool) bool { return b != nil && *b }
	no := func(b *bool) bool { return b != nil && !*b }
	switch {
	case s == nil || own == nil:
		t.Fatal("there is no security context")
	case !yes(s.RunAsNonRoot) || s.RunAsUser == nil || *s.RunAsUser != 65532:
		t.Error("it runs as another user than the image's")
	case s.SeccompProfile == nil || s.SeccompProfile.Type != core.SeccompProfileTypeRuntimeDefault:
		t.Error("there is no seccomp profile")
	case !no(own.AllowPrivilegeEscalation) || !yes(own.ReadOnlyRootFilesystem) || yes(own.Privileged):
		t.Error("it may get more rights, or write files")
	case own.Capabilities == nil || !slices.Equal(own.Capabilities.Drop, []core.Capability{"ALL"}) || len(own.Capabilities.Add) > 0:
		t.Error("it keeps capabilities")
	case !no(pod.AutomountServiceAccountToken):
		t.Error("it gets a token of the cluster")
	case pod.HostNetwork || pod.HostPID || pod.HostIPC || len(pod.Volumes) > 0:
		t.Error("it uses the host's namespaces or volumes")
	}
	limit, cpu := c.Resources.Limits.Memory(), c.Resources.Limits.Cpu()
	if limit.IsZero() || !limit.Equal(*c.Resources.Requests.Memory()) || !cpu.IsZero() {
		t.Errorf("the resources are %+v, want memory bounded and asked for alike, and CPU not bounded", c.Resources)
	}
}

# relaygate: `make help` lists what there is.

GO ?= go
export CGO_ENABLED ?= 0

# The version stands in main.go. COMMIT=... names the commit where there is no git.
COMMIT ?= $(shell git describe --always --dirty --abbrev=8 --exclude='*' 2>/dev/null)

# Tools are modules of their own, run at a fixed version.
GOFUMPT := mvdan.cc/gofumpt@v0.12.0
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

# The benchmark, with the relays that it compares, is a module of its own, so that the product's stays clean.
MODULES := . bench deploy/check

# Some tests run another program: a browser, Node, a balancer, Prometheus' and systemd's tools. Each is built where its
# program is installed, those of CI_TAGS also where CI asks for them.
TAG_PROGRAMS := browser:chromium haproxy:haproxy nginx:nginx promtool:promtool systemd:systemd-analyze debian:dpkg-deb
CI_TAGS := browser haproxy nginx promtool
HAS_NODE = $(shell node -p 'typeof WebSocket' 2>/dev/null | grep function || node --experimental-websocket -p 'typeof WebSocket' 2>/dev/null | grep function)
INSTALLED = $(foreach p,$(TAG_PROGRAMS),$(if $(shell command -v $(lastword $(subst :, ,$(p)))),$(firstword $(subst :, ,$(p)))))
empty :=
comma := ,
joined = $(subst $(empty) $(empty),$(comma),$(strip $(1)))
TAGS := $(call joined,$(sort $(if $(HAS_NODE),node) $(INSTALLED) $(if $(CI),$(CI_TAGS))))
ALL_TAGS := $(call joined,$(sort node $(foreach p,$(TAG_PROGRAMS),$(firstword $(subst :, ,$(p))))))

FUZZTIME ?= 5s
CONNS ?= 15000

.PHONY: help build run test race lint fuzz soak soak-short check deb bench bench-quick bench-against clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## bin/relaygate, a static binary
	$(GO) build -trimpath -ldflags '-s -w -X main.commit=$(COMMIT)' -o bin/relaygate .

run: build ## build and serve on :8080 (the environment configures it)
	exec bin/relaygate

test: ## every test
	@test "$(TAGS)" = "$(ALL_TAGS)" || echo "tests that run other programs: $(or $(TAGS),none) of $(ALL_TAGS)"
	@set -e; for m in $(MODULES); do $(GO) -C $$m test -count=1 -tags "$(TAGS)" ./...; done

race: ## every test under the race detector, in random order, with fewer repeats
	@set -e; for m in $(MODULES); do CGO_ENABLED=1 $(GO) -C $$m test -count=1 -short -race -shuffle=on -tags "$(TAGS)" ./...; done

lint: ## go vet, staticcheck, gofumpt
	@set -e; for m in $(MODULES); do $(GO) -C $$m vet -tags $(ALL_TAGS) ./...; $(GO) -C $$m run $(STATICCHECK) -tags $(ALL_TAGS) ./...; done
	@unformatted=$$($(GO) run $(GOFUMPT) -l .); test -z "$$unformatted" || { echo "gofumpt would change:"; echo "$$unformatted"; exit 1; }

# Without minimising: Go spends most of a short run on it, and fails if the time is up meanwhile.
fuzz: ## a short run of every fuzz target (FUZZTIME each)
	@set -e; for p in $$($(GO) list ./...); do \
		for f in $$($(GO) test -list '^Fuzz' $$p | grep '^Fuzz' || true); do \
			echo "$$f in $$p"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 0s $$p; \
		done; done

soak: build bin/soak ## 15,000 peers behind HAProxy while all goes wrong, in 10 minutes; SOAK='-peers 3000 -length 3m'
	bin/soak $(SOAK)

soak-short: build bin/soak ## the same with 1,500 peers in some 40 seconds
	@$(if $(findstring haproxy,$(TAGS)),bin/soak -peers 1500 -length 20s,echo "without the short soak: haproxy is not installed")

check: lint race fuzz soak-short ## lint, race, fuzz, soak-short: all that make test leaves out

deb: build ## bin/relaygate_VERSION_ARCH.deb, a Debian package
	deploy/deb/build

bench: bin/bench ## measure relaygate beside other relays, in 5 to 8 minutes; CONNS=100000 for more silent peers
	bin/bench -conns $(CONNS)

bench-quick: bin/bench ## some of it in about a minute, against gws alone
	bin/bench -quick

bench-against: bin/bench ## the same beside any v1 relay: SERVER='mine=./mine --port {port}'
	bin/bench -server '$(SERVER)' -conns $(CONNS)

.PHONY: bin/bench bin/soak
bin/bench:
	$(GO) build -C bench -o ../bin/bench .

bin/soak:
	$(GO) build -C bench -o ../bin/soak ./soak

clean: ## remove what the targets above have made
	rm -rf bin bench/out

# relaygate: `make help` lists what there is.

GO ?= go
export CGO_ENABLED ?= 0

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)

# Tools are modules of their own, run at a fixed version.
GOFUMPT := mvdan.cc/gofumpt@v0.12.0
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

# The benchmark, with the relays that it compares, is a module of its own, so that the product's stays clean.
MODULES := . bench

# One test is about a browser: it is built where there is one, and where CI asks for it.
TAGS := $(if $(CI)$(shell command -v chromium),browser)

FUZZTIME ?= 5s
CONNS ?= 15000

.PHONY: help build run test race lint fuzz check bench bench-quick bench-against clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## bin/relaygate, a static binary
	$(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/relaygate .

run: build ## build and serve on :8080 (the environment configures it)
	exec bin/relaygate

test: ## every test
	@test -n "$(TAGS)" || echo "chromium is not installed: without the browser test"
	@set -e; for m in $(MODULES); do $(GO) -C $$m test -count=1 -tags "$(TAGS)" ./...; done

race: ## every test under the race detector, in random order
	@set -e; for m in $(MODULES); do CGO_ENABLED=1 $(GO) -C $$m test -count=1 -race -shuffle=on -tags "$(TAGS)" ./...; done

lint: ## go vet, staticcheck, gofumpt
	@set -e; for m in $(MODULES); do $(GO) -C $$m vet -tags browser ./...; $(GO) -C $$m run $(STATICCHECK) -tags browser ./...; done
	@unformatted=$$($(GO) run $(GOFUMPT) -l .); test -z "$$unformatted" || { echo "gofumpt would change:"; echo "$$unformatted"; exit 1; }

# Without minimising: Go spends most of a short run on it, and fails if the time is up meanwhile.
fuzz: ## a short run of every fuzz target (FUZZTIME each)
	@set -e; for p in $$($(GO) list ./...); do \
		for f in $$($(GO) test -list '^Fuzz' $$p | grep '^Fuzz' || true); do \
			echo "$$f in $$p"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 0s $$p; \
		done; done

check: lint race fuzz ## lint, race, fuzz: all that make test leaves out

bench: bin/bench ## measure relaygate beside other relays; CONNS=100000 for more silent peers
	bin/bench -conns $(CONNS)

bench-quick: bin/bench ## some of it in a minute or two, against gws alone
	bin/bench -quick

bench-against: bin/bench ## the same beside any v1 relay: SERVER='mine=./mine --port {port}'
	bin/bench -server '$(SERVER)' -conns $(CONNS)

.PHONY: bin/bench
bin/bench:
	$(GO) build -C bench -o ../bin/bench .

clean: ## remove what the targets above have made
	rm -rf bin bench/out

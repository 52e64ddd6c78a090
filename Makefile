# Every target is one line here and one script or command behind it. A target
# runs through scripts/target, which times it, prints `RESULT <target> pass|fail
# key=value ... seconds=N`, and writes build/results/<target>.json.
#
# To add a target: a name with a `## ` comment, and `@$(RUN) <command>` below it.

SHELL := /bin/bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
RUN = scripts/target $@
# What all tests run against, and some of them need not wait for.
COMPONENTS = [ "$(PKGS)" != ./... ] || scripts/components

# Flags for `make test`, for example TESTFLAGS=-race or TESTFLAGS='-run Wrap'.
TESTFLAGS ?=
# The packages that `make test`, `make race` and `make fuzz` look at.
PKGS ?= ./...
# How long `make fuzz` runs each target.
FUZZTIME ?= 30s
# Flags for `make sim`, for example SIMFLAGS=-seed=7.
SIMFLAGS ?=
# Flags for `make bench`, for example BENCHFLAGS='-only unary -rounds 9'.
BENCHFLAGS ?=
# FULL=1 gives `make model` every configuration.
FULL ?=
export TESTFLAGS PKGS FUZZTIME FULL

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z][a-z0-9-]*:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)$$/  \1|\2/' | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

.PHONY: build
build: ## compile everything; static binaries go to bin/
	@$(RUN) scripts/build

.PHONY: test
test: ## run all tests; ends with `N passed, 0 failed, 0 skipped`
	@$(COMPONENTS)
	@$(RUN) scripts/gotest -tags invariants $(TESTFLAGS) $(PKGS)

.PHONY: race
race: ## run all tests under the race detector
	@$(COMPONENTS)
	@$(RUN) scripts/gotest -tags invariants -race $(TESTFLAGS) $(PKGS)

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME (30s)
	@$(RUN) scripts/fuzz

.PHONY: lint
lint: ## run the linters of .golangci.yml
	@$(RUN) scripts/lint run $(PKGS)

.PHONY: fmt
fmt: ## format all Go code
	@$(RUN) scripts/lint fmt

.PHONY: generate
generate: ## regenerate code from protos, docs from tables, and api/generate.sum
	@$(RUN) scripts/generate

.PHONY: generate-check
generate-check: ## fail when `make generate` would change something (fast: compares hashes)
	@$(RUN) scripts/generate --check

.PHONY: tidy-check
tidy-check: ## fail when `go mod tidy` would change a go.mod or go.sum
	@$(RUN) scripts/tidy-check

.PHONY: demo
demo: ## three real nodes: kill the leader, rotate, destroy, and check what must hold
	@$(RUN) go run ./jepsen/demo

.PHONY: demo-shamir
demo-shamir: ## a MasterKey 3 of 5 on a token, a Transit server, two clouds and a person: what unseals, what waits, who is replaced
	@scripts/components
	@$(RUN) go run ./jepsen/shamir

.PHONY: crash
crash: ## the program dies at every step of init, join, unseal, rotate, ... and comes back; minutes
	@$(RUN) scripts/crash

.PHONY: model
model: ## check the models of serving leases; with FULL set, every configuration: half an hour, 16 GiB
	@$(RUN) scripts/model

.PHONY: sim
sim: ## clusters with real Raft in simulated time: thousands of faults, every answer checked, every protection taken away once
	@$(RUN) go run ./internal/cmd/sim $(SIMFLAGS)

.PHONY: test-attacks
test-attacks: ## break into real clusters in every known way, and show that each attempt could have worked
	@$(RUN) go run ./jepsen/attack

.PHONY: test-recovery
test-recovery: ## the runbooks by which a cluster comes back from a disaster, with real processes
	@$(RUN) scripts/gotest -count=1 -timeout 10m ./jepsen/recovery

.PHONY: providers
providers: ## every keystore against its component: a table of providers, cases and what does not apply
	@$(RUN) scripts/providers $(TESTFLAGS)

.PHONY: bench
bench: ## what Krypton costs beyond what cannot be avoided: a table of ratios, pass|miss
	@$(RUN) go run ./internal/cmd/bench $(BENCHFLAGS)

.PHONY: bench-keystores
bench-keystores: ## what a wrap and an unwrap cost over the bare call of each keystore's client library: ratios
	@$(RUN) scripts/bench-keystores

.PHONY: ci
ci: ## everything that must hold for every commit
	@$(RUN) scripts/ci

.PHONY: verify
verify: ## what is too long for ci: full regeneration, tests as released, fuzzing, benchmarks
	@$(RUN) scripts/verify

.PHONY: clean
clean: ## remove what was built, except the tools
	@$(RUN) scripts/clean

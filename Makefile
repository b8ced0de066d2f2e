# The front door: every target is one line of work, and `make help` lists them all.

CARGO ?= cargo
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup build check fmt test soak model demo bench dev chart references clean

help: ## List every target
	@echo "usage: make TARGET [ARGS=\"...\"]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what is missing: Redis, PostgreSQL 15+, Node.js (asks first)
	@scripts/setup

build: ## Build the binary for release (target/release/parallax; several minutes), at most 20 MB
	$(CARGO) build --release --locked
	@scripts/check-size

check: ## Formatting and lints, every warning an error
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

fmt: ## Format the sources
	$(CARGO) fmt --all

test: setup ## Every test, against real servers started for it (ARGS filters by name)
	@scripts/test $(ARGS)

soak: setup ## The kill tests with many more rounds (long)
	@PARALLAX_SOAK=1 scripts/test $(or $(ARGS),soak)

model: ## Explore the protocol's rules and hunt every mutant (ARGS=a-mutant prints its shortest trace)
	@$(CARGO) build --quiet --locked -p parallax-model
	@target/debug/parallax-model $(ARGS)

demo: setup ## The whole way from Redis to Redis + PostgreSQL and back, on relay-shaped traffic
	$(CARGO) run --profile demo --locked -- demo $(ARGS)

bench: ## The figures, against what people would use instead (about 40 minutes; ARGS names parts: http, relay, ...)
	@scripts/setup --bench
	$(CARGO) bench --locked --bench figures -- $(ARGS)

dev: setup ## A sidecar with a private Redis and PostgreSQL, until Ctrl-C
	$(CARGO) run --locked -- dev $(ARGS)

chart: ## Charts, alerts, dashboards and images alone (fetches Helm and checkers into target/ when they are missing)
	@scripts/helm-tool
	$(CARGO) test --locked --test it -- chart:: alerts:: dashboards:: images::

references: ## Write docs/configuration.md and docs/metrics.md anew, from the code
	$(CARGO) run --quiet --locked -- reference settings > target/configuration.md
	$(CARGO) run --quiet --locked -- reference metrics > target/metrics.md
	mv target/configuration.md target/metrics.md docs/

clean: ## Remove what the build made
	$(CARGO) clean

# Every target is a script in scripts/, which can be run by itself just as well.
# ARGS="…" is handed on: make run ARGS="--listen 127.0.0.1:9000".

.PHONY: help run dev build test test-unit bench bench-web bench-kubernetes fuzz lint image cluster cluster-down

# Where `make cluster` keeps its cluster.
FSA_CLUSTER ?= /tmp/fsa-cluster
.DEFAULT_GOAL := help

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

run: ## install what is missing, build, and start fsa serve
	@exec scripts/run.sh $(ARGS)

dev: ## fsa serve from a debug build, rebuilt and restarted when a source file changes
	@exec scripts/dev.sh $(ARGS)

build: ## fsa and sandboxd, release
	@exec scripts/build.sh

test: ## everything: lint, unit, integration and end-to-end tests
	@exec scripts/test.sh $(ARGS)

test-unit: ## the tests that need neither root nor a server
	@exec scripts/unit.sh $(ARGS)

bench: ## measure, beside floors measured in the same run
	@exec scripts/bench.sh $(ARGS)

bench-web: ## what the web page costs, in a real browser
	@exec scripts/bench-web.sh

bench-kubernetes: ## what sandboxes cost a cluster, beside kubectl (root)
	@exec scripts/bench-kubernetes.sh $(ARGS)

fuzz: ## random bytes against every parser, ARGS=SECONDS for each (600)
	@exec scripts/fuzz.sh $(ARGS)

lint: ## spelling, docs, layers, dependencies, rustfmt, clippy, cargo-deny, shellcheck
	@exec scripts/lint.sh

image: ## the runtime image, and the control plane's for a cluster, as OCI archives
	@exec scripts/image.sh

cluster: ## a real Kubernetes of one node for tests, in separate namespaces (root)
	@exec tests/cluster/up.sh $(FSA_CLUSTER)

cluster-down: ## end it, leaving nothing
	@exec tests/cluster/down.sh $(FSA_CLUSTER)

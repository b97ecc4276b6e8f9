# Every target is a thin call of cargo or of a script in hack/, which also run by themselves. `make` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help

# VendorTokens of the cold start benchmark, and measurements of each program.
N ?= 1000
REPEAT ?= 3
IMAGE ?= vendor-token-operator:latest
# The builder of the image: docker, or podman where only that is there.
CONTAINER_TOOL ?= $(shell command -v docker >/dev/null 2>&1 || ! command -v podman >/dev/null 2>&1 && echo docker || echo podman)

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## Show the operator at work on a local control plane (KEEP=1: leave it running; DEMO_KUBECONFIG=FILE: use that cluster)
	@hack/demo

.PHONY: test
test: ## Check format, lints and generated files, and run all tests, with the time of each part
	@hack/test

.PHONY: generate
generate: require-cargo ## Write the CRD into crds/ from the Rust types
	@hack/generate

.PHONY: control-plane
control-plane: ## Build etcd, kube-apiserver, kube-controller-manager and kubectl, which the tests need
	@hack/build-control-plane

.PHONY: fmt
fmt: require-cargo ## Format the code
	@hack/require cargo-fmt
	cargo fmt --all

.PHONY: lint
lint: ## Check format and lints
	@hack/test format lints

.PHONY: deny
deny: require-cargo ## Check the dependencies' licences, advisories and sources (needs cargo-deny)
	@hack/require cargo-deny
	cargo deny --locked check

.PHONY: bench-cold
bench-cold: ## Measure a cold start of N VendorTokens beside the least possible program (N=1000 REPEAT=3)
	@N="$(N)" REPEAT="$(REPEAT)" hack/bench-cold

.PHONY: image
image: ## Build the container image (IMAGE=vendor-token-operator:latest)
	@hack/require $(CONTAINER_TOOL)
	$(CONTAINER_TOOL) build --tag "$(IMAGE)" .

.PHONY: clean
clean: require-cargo ## Remove what was built, the control plane included
	cargo clean

.PHONY: require-cargo
require-cargo:
	@hack/require cargo

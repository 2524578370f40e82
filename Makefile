# The only door: everything a person or the CI does goes through here. `make help` lists it.
PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help

.PHONY: help up down runtime dev check test test-cluster engine bench diagram proto lock helm image clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: runtime ## Start the platform and a sample app (DETACH=1: in the background; SEPARATE=1: a process per service)
	@exec $(BIN)/shipoff up $(if $(DETACH),--detach) $(if $(SEPARATE),--separate)

down: runtime ## Stop the platform
	@$(BIN)/shipoff down

runtime: # What the platform needs to run
	@$(PYTHON) scripts/venv.py runtime

dev: # And what changing it needs
	@$(PYTHON) scripts/venv.py dev

check: dev ## Lint, types, layers, contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/contracts.py
	$(BIN)/python scripts/diagram.py --check

test: dev ## Every test, in parallel (ARGS="…" is passed to pytest)
	$(BIN)/pytest -n auto --dist loadgroup $(ARGS)

engine: ## What the tests of images need: Docker Engine, Buildx, a registry, base images (Debian, root)
	scripts/engine.sh

# With SHIPOFF_BUILD_REGISTRY=host:port/name (which builder and nodes reach; beside it the other settings of images) the whole
# platform is run on it too: Traefik is brought as its ingress controller, and has to reach the pods from here. With BUILDER (the
# Dockerfile's target "builder", or another image with Shipoff, Git and Python) and ADDRESS (of this machine, where pods reach it)
# builds run there as Jobs.
test-cluster: dev ## The tests of Kubernetes on the cluster of KUBECONFIG (IMAGE=name@sha256:…: busybox, where it can pull it)
	@test -n "$(KUBECONFIG)" && test -n "$(IMAGE)" || { echo "make test-cluster needs KUBECONFIG and IMAGE=name@sha256:…"; exit 2; }
	SHIPOFF_TEST_IMAGE="$(IMAGE)" SHIPOFF_TEST_BUILDER_IMAGE="$(BUILDER)" SHIPOFF_TEST_ADDRESS="$(ADDRESS)" \
		$(BIN)/pytest -v --timeout 600 tests/contract tests/cluster $(ARGS)

bench: dev ## Measure (FIGURE=name: one figure)
	@set -e; for figure in $(if $(FIGURE),benchmarks/$(subst -,_,$(FIGURE)).py,$(filter-out benchmarks/_%,$(wildcard benchmarks/*.py))); do \
		echo "== $$figure"; $(BIN)/python "$$figure"; done

diagram: dev ## Draw the state machine's diagram from its table
	$(BIN)/python scripts/diagram.py

proto: dev ## Generate src/shipoff/contracts from proto/
	$(BIN)/python scripts/proto.py

lock: dev ## Lock the newest versions that pyproject.toml allows
	$(BIN)/python scripts/lock.py

helm: dev ## Helm, for the tests of the chart (brought once, 40 MB)
	@$(BIN)/python scripts/helm.py

image: ## The platform's image (BASE=debian-with-python@sha256:… TAG=registry/shipoff:1; TARGET=platform, ARGS="--push")
	@test -n "$(BASE)" && test -n "$(TAG)" || { echo "make image needs BASE=image@sha256:… and TAG=registry/name:tag"; exit 2; }
	docker buildx build --build-arg BASE="$(BASE)" --target $(or $(TARGET),platform) --tag "$(TAG)" $(ARGS) .

clean: ## Remove what was installed and generated here; the platform's data stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build src/*.egg-info
	find src tests scripts benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

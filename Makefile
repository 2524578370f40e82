# The only door: everything a person or the CI does goes through here. `make help` lists it.
PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help

.PHONY: help up down runtime dev check test test-cluster engine bench diagram proto lock clean

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
# platform is run on it too: Traefik is brought as its ingress controller, and has to reach the pods from here.
test-cluster: dev ## The tests of Kubernetes on the cluster of KUBECONFIG (IMAGE=name@sha256:…: busybox, where it can pull it)
	@test -n "$(KUBECONFIG)" && test -n "$(IMAGE)" || { echo "make test-cluster needs KUBECONFIG and IMAGE=name@sha256:…"; exit 2; }
	SHIPOFF_TEST_IMAGE="$(IMAGE)" $(BIN)/pytest -v --timeout 600 tests/contract/runtime tests/cluster $(ARGS)

bench: dev ## Measure (FIGURE=name: one figure)
	@set -e; for figure in $(if $(FIGURE),benchmarks/$(subst -,_,$(FIGURE)).py,$(filter-out benchmarks/_%,$(wildcard benchmarks/*.py))); do \
		echo "== $$figure"; $(BIN)/python "$$figure"; done

diagram: dev ## Draw the state machine's diagram from its table
	$(BIN)/python scripts/diagram.py

proto: dev ## Generate src/shipoff/contracts from proto/
	$(BIN)/python scripts/proto.py

lock: dev ## Lock the newest versions that pyproject.toml allows
	$(BIN)/python scripts/lock.py

clean: ## Remove what was installed and generated here; the platform's data stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build src/*.egg-info
	find src tests scripts benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

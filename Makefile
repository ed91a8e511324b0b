.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help install demo example env test lint bench bench-quick bench-browser bench-viewer screenshots faults fuzz lock components clean

help: ## what one can make here
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

# Two stamps, so that the demo does not wait for the test tools, and nothing is installed twice.
.venv/.python:
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.installed: .venv/.python requirements.lock pyproject.toml
	$(BIN)/pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --no-deps -e .
	@touch $@

.venv/.tested: .venv/.installed requirements-dev.lock
	$(BIN)/pip install --quiet --require-hashes -r requirements-dev.lock
	@touch $@

install: .venv/.installed ## otel-voice in .venv

demo: .venv/.installed ## a running receiver with recorded calls in it, and one that runs
	$(BIN)/otel-voice demo

example: .venv/.installed ## the example page with a voice agent that talks, and the receiver that it reports to
	$(BIN)/otel-voice serve & trap "kill $$! 2>/dev/null || true" EXIT; \
	cd examples/browser && OTEL_VOICE_URL=http://127.0.0.1:$${OTEL_VOICE_PORT:-8770} npm start

env: ## .env with fresh secrets for docker-compose.yml
	@$(PYTHON) docker/env.py

# The real parts are built before pytest starts: a cold build takes longer than a test may.
test: .venv/.tested ## all tests, with the real collector and Jaeger, Chromium and npm packages where they can be had
	$(BIN)/python -m tests.components.build --if-possible
	$(BIN)/python -m tests.components.browser --if-possible
	$(BIN)/python -m tests.components.programs --if-possible
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: .venv/.tested ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Some 40 minutes, on two cores that nothing else needs.
bench: .venv/.tested ## speed beside a bare server and two baselines; writes benchmarks/results.md
	$(BIN)/python -m benchmarks.bench $(BENCH)

bench-quick: .venv/.tested ## the same in small, printed only
	$(BIN)/python -m benchmarks.bench --quick $(BENCH)

screenshots: .venv/.tested ## the README's pictures of the viewer, in Chromium
	$(BIN)/python -m tests.components.browser
	$(BIN)/python docs/screenshots.py

bench-viewer: .venv/.tested ## how long the viewer takes with 100,000 sessions; writes benchmarks/viewer.md
	$(BIN)/python -m tests.components.browser
	$(BIN)/python -m benchmarks.viewer

bench-browser: .venv/.tested ## what the client costs a page, in Chromium; writes benchmarks/browser.md
	$(BIN)/python -m tests.components.browser
	$(BIN)/python -m benchmarks.browser

# Some 20 minutes: ten of them are an outage.
faults: .venv/.tested ## every promise tried by real faults at full length; writes benchmarks/faults.md
	$(BIN)/python -m tests.components.build
	$(BIN)/python -m benchmarks.faults $(FAULTS)

# The fuzzer is no test tool of ours: it lives in a throwaway venv.
fuzz: .venv/.installed ## a million inputs at the decoder; writes benchmarks/fuzz.json
	tools=$$(mktemp -d); trap 'rm -rf "$$tools"' EXIT; \
	$(PYTHON) -m venv "$$tools"; "$$tools/bin/pip" install --quiet --require-hashes -r requirements-dev.lock; \
	"$$tools/bin/pip" install --quiet atheris==3.0.0; \
	"$$tools/bin/python" -m benchmarks.fuzz $(FUZZ)

components: .venv/.python ## what the tests need: collector, Jaeger and Compose built once, Chromium and npm packages installed
	$(BIN)/python -m tests.components.build
	$(BIN)/python -m tests.components.browser
	$(BIN)/python -m tests.components.programs

# The compiler lives in a throwaway venv: it is no dependency of ours.
lock: ## requirements.lock and requirements-dev.lock anew from pyproject.toml
	tools=$$(mktemp -d); trap 'rm -rf "$$tools"' EXIT; \
	$(PYTHON) -m venv "$$tools"; "$$tools/bin/pip" install --quiet uv; \
	compile="$$tools/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url"; \
	$$compile pyproject.toml -o requirements.lock; \
	$$compile --extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock

clean: ## everything that was made here; the cache folder of `components` stays
	rm -rf .venv build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache tests/browser/node_modules examples/*/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Everything a newcomer needs: `make demo`, `make test`, `make serve`. See README.md and CONTRIBUTING.md.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
# The first interpreter on the path that fits; `make PYTHON=/path/to/python3.11 …` says otherwise.
PYTHON ?= $(shell for p in python3.12 python3.11 python3.10 python3 python; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2>/dev/null && { echo $$p; break; }; done)
UV_VERSION := 0.13.8
NEEDED_GB := 10
DIST := dist
RUN := .venv/bin/python -m
INSTALL := .venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps
# More processes than cores, because many tests wait; but each loads torch, which takes memory.
PYTEST = pytest -n $(shell n=$$(( $$(nproc) + 1 )); echo $$(( n < 4 ? n : 4 ))) --dist loadfile

.PHONY: venv tools demo serve wheel sbom test test-all lint format lock clean verify-official

# What the server needs, with all its extras.
venv: .venv/installed .venv/kernels

# What tests, lint and benchmarks need on top of it.
tools: venv .venv/tested

.venv/installed: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no Python 3.10, 3.11 or 3.12 with venv found; install one, or say make PYTHON=…" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' || { echo "error: $(PYTHON) is not Python 3.10, 3.11 or 3.12" >&2; exit 1; }
	@test -d .venv/lib || test "$$(df -Pk . | awk 'NR==2 {print int($$4 / 1048576)}')" -ge $(NEEDED_GB) || { echo "error: less than $(NEEDED_GB) GB free here; torch with CUDA needs them" >&2; exit 1; }
	@echo "installing into .venv (torch with CUDA is large: a minute or more) …"
	@$(PYTHON) -m venv --clear .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@# basicsr comes as source only; built in isolation it would download all of torch a second time.
	@awk '/^[^ ]/ {wanted = /^setuptools==/} wanted' requirements.lock | $(INSTALL) -r -
	@$(INSTALL) --compile-bytecode --no-build-isolation-package basicsr -r requirements.lock
	@$(INSTALL) -e . && .venv/bin/python -m compileall -q server
	@touch $@

.venv/tested: .venv/installed tests/requirements.lock tests/old-clients.lock tests/new-clients.lock
	@echo "installing what the tests need …"
	@$(INSTALL) --compile-bytecode -r tests/requirements.lock
	@# An older client that is still in use, and the newest of another vendor, which has the import name of its older one
	@# and wants Python 3.11: each beside the others, in a folder of its own. The suite runs them all.
	@$(INSTALL) --target .venv/old-clients -r tests/old-clients.lock
	@! .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		$(INSTALL) --target .venv/new-clients -r tests/new-clients.lock
	@touch $@

# Compiled ahead, so that no job waits for a compiler. Without one, torch does their work.
.venv/kernels: .venv/installed $(wildcard server/kernels/cpu/*.cpp server/kernels/cpu/*.h) server/kernels/cpu/build.py
	@$(RUN) server.kernels || true
	@touch $@

demo: venv
	@$(RUN) demo

serve: venv
	@$(RUN) server serve

# `pip install dist/*.whl` then installs both. Without the second, pip would build basicsr, which comes as source only,
# beside a second copy of torch that it downloads for that.
wheel: venv
	@mkdir -p $(DIST) && rm -f $(DIST)/*.whl && .venv/bin/uv build --quiet --wheel --out-dir $(DIST)
	@awk '/^[^ ]/ {wanted = /^basicsr==/} wanted' requirements.lock > $(DIST)/basicsr.lock
	@.venv/bin/python -m pip wheel --quiet --no-deps --no-build-isolation --use-pep517 --require-hashes \
		--wheel-dir $(DIST) --requirement $(DIST)/basicsr.lock
	@rm $(DIST)/basicsr.lock && ls $(DIST)/*.whl

# What the server consists of, with licences and hashes: CycloneDX.
sbom: tools
	@mkdir -p $(DIST) && $(RUN) deploy.sbom $(DIST)/sbom.cdx.json

test: tools
	@$(RUN) $(PYTEST) -m "not slow"

test-all: tools
	@$(RUN) $(PYTEST)

lint: tools
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) mypy

format: tools
	@$(RUN) ruff check --fix .
	@$(RUN) ruff format .

# Faces with the official checkpoints, against GFPGANer: make verify-official PICTURES="one.jpg two.jpg"
verify-official: tools
	@test -n "$(PICTURES)" || { echo 'error: say which pictures: make verify-official PICTURES="one.jpg two.jpg"' >&2; exit 1; }
	@$(RUN) benchmarks.verify_official $(PICTURES)

# New exact versions, with the hashes of their files, which every installation is held against. The overrides in
# pyproject.toml keep out two packages that we must not have. tests/requirements.lock has what is not in
# requirements.lock. The clients beside keep their versions.
COMPILE := .venv/bin/uv pip compile --universal --generate-hashes --no-annotate --no-header --upgrade --quiet
PROJECT := pyproject.toml --extra all --python-version 3.10
lock: venv
	@$(COMPILE) $(PROJECT) -o requirements.lock
	@$(COMPILE) $(PROJECT) --group dev --group test --constraints requirements.lock | \
		awk 'NR == FNR {if (/^[^ ]/) running[$$0]; next} /^[^ ]/ {wanted = !($$0 in running)} wanted' requirements.lock - > tests/requirements.lock
	@echo wavespeed==1.0.3 | $(COMPILE) - --no-deps --python-version 3.10 -o tests/old-clients.lock
	@echo runware-sdk==1.8.0 | $(COMPILE) - --python-version 3.11 -o tests/new-clients.lock

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache build dist

# Everything a new machine needs is installed here: a virtual environment with the versions of constraints.txt.
PYTHON ?= python3
VENV   ?= .venv
# Two workers, each with whole files: fixtures of a file are made once.
PARALLEL ?= -n 2 --dist loadfile
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo test test-all check lint types imports coverage mutation crashes release chromium snakemake config-keys clean audit-dependencies requirements testkit fuzz trust

# The whole story on an embedded model and data: two parties, two directories, about two minutes.
demo: $(STAMP)
	$(BIN)/mpu demo

# What CI runs; under ten minutes on two cores.
test: $(STAMP)
	$(BIN)/pytest -m "not slow" $(PARALLEL)

test-all: $(STAMP)
	$(BIN)/pytest

check: lint types imports

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

imports: $(STAMP)
	$(BIN)/lint-imports

# Lines and branches that the fast tests reach, commands in subprocesses included; 98 % on 2026-11-29, about 16 minutes.
coverage: $(STAMP)
	rm -f .coverage .coverage.*
	$(BIN)/pytest -m "not slow" $(PARALLEL) --cov --cov-report=
	$(BIN)/coverage report --fail-under=92 --format=total
	$(BIN)/coverage report --fail-under=100 --include='*/bundle/*,*/server/lineage/*'

# Change six small modules in every way mutmut knows; the tests must notice (MODULES=bundle/schema for one). docs/mutation.md.
MODULES ?=
mutation: $(STAMP)
	$(BIN)/python tools/mutate.py $(MODULES)

# kill -9 at every flush and rename of every command and at random moments, full and broken disks; prints the counts (docs/trust.md).
crashes: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest -q tests/crashes

# Every broken input on every command that reads it, and the table of counts (about twenty minutes of processor time).
testkit: $(STAMP)
	$(BIN)/pytest tests/testkit -q $(PARALLEL)

# 100,000 mutated inputs on every reader and every single-bit flip of a small bundle and a secret (about 20 minutes).
fuzz: $(STAMP)
	$(BIN)/pytest tests/fuzz -q $(PARALLEL)

# All counts of docs/trust.md: about two hours on two cores.
trust: testkit fuzz crashes

# The sdist and the wheel in dist/, and the demo from the wheel in an environment that has nothing else.
release: $(STAMP)
	rm -rf dist build/release
	$(BIN)/python -m build --outdir dist .
	$(PYTHON) -m venv build/release
	build/release/bin/pip install --quiet --disable-pip-version-check -c constraints.txt dist/*.whl
	cd build/release && bin/mpu --version && bin/mpu demo

# Snakemake in a virtual environment of its own, for the slow test of mpu run --emit snakemake.
snakemake:
	python3 -m venv .snakemake-venv && .snakemake-venv/bin/pip install --quiet "snakemake>=9,<10"

# The browser that tests/report opens pages in; they are skipped where there is none. Debian and Ubuntu, as root.
chromium:
	apt-get install --yes --no-install-recommends chromium fonts-dejavu-core

# The table of families: every transform on a tiny model of every family, measured (about 30 seconds).
docs/architectures.md: $(STAMP) $(wildcard src/mpu_cli/architectures/families/*.yaml)
	$(BIN)/python tools/tiny_families.py > $@.partial && mv $@.partial $@

# Which keys of config.json each model type has, from the installed transformers.
config-keys: $(STAMP)
	$(BIN)/python tools/config_keys.py > config_keys.partial
	mv config_keys.partial src/mpu_cli/checkpoint/config_keys.json

.PHONY: docs docs/images docs/images/demo.svg docs/commands.md

# The pictures: the code map is drawn from the imports in the code.
docs/images: $(STAMP)
	$(BIN)/python tools/draw_code_map.py > $@/code-map.svg
	$(BIN)/python tools/draw_protocol.py > $@/protocol.svg
	$(BIN)/python tools/draw_frontier.py > $@/frontier.svg

# The paper's claims, from the results of examples/paper-table.
docs/paper.md: $(STAMP) $(wildcard benchmarks/paper_*.py examples/paper-table/measured/*.csv)
	$(BIN)/python benchmarks/paper_claims.py examples/paper-table/measured > $@.partial && mv $@.partial $@

# A recording of the demo, about two minutes.
docs/images/demo.svg: $(STAMP)
	$(BIN)/python tools/record_demo.py $(CURDIR)/$(BIN)/mpu > $@.partial && mv $@.partial $@

# The options of every command, from the commands.
docs/commands.md: $(STAMP)
	$(BIN)/python tools/write_commands.py > $@.partial && mv $@.partial $@

# The documentation as a site in build/docs; a broken link is an error. Needs no network.
docs: $(STAMP)
	$(BIN)/python tools/build_site.py build/docs

# Known vulnerabilities of the pinned packages; exit code 2 where no list of them can be had (docs/trust.md).
audit-dependencies:
	$(PYTHON) -m venv .audit-venv && .audit-venv/bin/pip install --quiet --disable-pip-version-check "pip-audit>=2.9,<3"
	$(PYTHON) tools/audit_dependencies.py .audit-venv/bin/pip-audit

# requirements/*.txt anew, after constraints.txt has changed. Needs uv; TORCH_CPU are wheels of torch's CPU build.
requirements:
	$(PYTHON) tools/write_hashes.py $(TORCH_CPU)

# HASHES=cpu or HASHES=cuda: every file is checked against its SHA-256, and nothing else is installed.
HASHES ?=
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
HASHED := $(PIP) --require-hashes --no-deps -r requirements/
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("mpu needs Python 3.11 or newer; run: make PYTHON=python3.12 …" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
ifeq ($(HASHES),)
	$(PIP) -c constraints.txt -e '.[dev]'
else
	$(HASHED)dev.txt
	$(HASHED)torch-$(HASHES).txt
	$(PIP) --no-deps --no-build-isolation -e .
endif
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

# Two commands do everything on a fresh machine: make demo, make test.
PYTHON ?= python3
ARCHIVE ?=
export RAY_AUTH_MODE ?= disabled
export RAY_USAGE_STATS_ENABLED ?= 0

# Modules and tests are compiled once, not by every process, whatever the machine says.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-fast test-slow check hooks .venv-s3
.DEFAULT_GOAL := help

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

demo: .venv/installed  ## the whole road on synthetic archives; ARCHIVE=… also scores an archive of your own
	.venv/bin/cxrpipe demo --out demo $(if $(ARCHIVE),--archive '$(ARCHIVE)')

test: test-fast  ## every test but the slow ones, about 10 minutes
	.venv/bin/pytest -m 'not slow and ray'

test-fast: .venv/installed .venv-s3/installed  ## the tests that need no Ray, about 3 minutes
	.venv/bin/pytest -n 2 --dist loadscope -m 'not slow and not ray'

test-slow: .venv/installed .venv-s3/installed  ## crashes, clusters, browsers, real archives, fuzz and S3 under Ray, about 30 minutes
	.venv/bin/pytest -n 2 --dist loadscope -m 'slow and not ray'
	.venv/bin/pytest -m 'slow and ray'

check: .venv/installed  ## lint, format, types, layers
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

hooks: .venv/installed  ## run `make check` before every commit
	.venv/bin/pip install --quiet pre-commit
	.venv/bin/pre-commit install

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --upgrade pip
	.venv/bin/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# The S3 server of the tests pins a botocore of its own.
.venv-s3: .venv-s3/installed
.venv-s3/installed:
	$(PYTHON) -m venv .venv-s3
	.venv-s3/bin/pip install --quiet ministack==1.5.33
	touch $@

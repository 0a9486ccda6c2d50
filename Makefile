# make demo: set up and run the quick self-check.   make test: set up and run every check.
# make check: lint, format, types, contracts and the fast tests, in about two minutes.
# make docs: set up, run the notebooks and build the site in build/site.
# All do everything on a fresh machine with Python >= 3.10; the environment lives in .venv and is made once.
PYTHON ?= python3
VENV ?= .venv
PIP := $(VENV)/bin/pip install --quiet -c constraints.txt
DEBIAN_PACKAGES := chromium chromium-driver dataset-fashion-mnist libgomp1 r-cran-kernlab r-cran-mlbench

# One thread per process: the tests run side by side, and small models gain nothing from more.
check test: export OMP_NUM_THREADS := 1

.PHONY: check demo test docs debian clean

demo: DEBIAN_PACKAGES := libgomp1
demo: debian $(VENV)/.ready
	$(VENV)/bin/forgetcast demo --out demo-report

check: debian $(VENV)/.ready-for-tests
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/pytest src tests -m 'not slow' -n auto --dist loadfile

test: debian $(VENV)/.ready-for-tests
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/pytest src tests -n auto --dist loadfile --no-loadscope-reorder --durations=10

# Notebooks are run again only when they or the package have changed since build/notebooks was written.
docs: export FORGETCAST_NOTEBOOKS ?= cache
docs: export OMP_NUM_THREADS := 1
docs: DEBIAN_PACKAGES := dataset-fashion-mnist libgomp1
docs: debian $(VENV)/.ready
	$(PIP) -e '.[docs]'
	$(VENV)/bin/python -m sphinx -W --keep-going -q -b html -c docs . build/site

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 10), "forgetcast needs Python 3.10 or newer"'
	test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): a few minutes, once"
	$(PIP) -e .
	touch $@

$(VENV)/.ready-for-tests: $(VENV)/.ready
	$(PIP) -e '.[test]'
	$(VENV)/bin/python tests/helpers/torchvision_operators.py
	touch $@

# The browser and data that tests need and LightGBM's OpenMP library; on a machine without apt-get or root rights this
# only names them: put chromium and chromedriver on the PATH instead, and set FORGETCAST_FASHION_MNIST,
# FORGETCAST_KERNLAB and FORGETCAST_MLBENCH to folders with the files.
debian:
	@missing=""; \
	if command -v dpkg-query >/dev/null; then \
	  for package in $(DEBIAN_PACKAGES); do \
	    dpkg-query -W -f='$${Status}' $$package 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$package"; \
	  done; \
	fi; \
	if [ -z "$$missing" ]; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing; \
	else echo "not installed, and this user cannot install packages:$$missing" >&2; fi

clean:
	rm -rf $(VENV) demo-report build dist

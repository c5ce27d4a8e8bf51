# make demo   environment, install, then the main job on the shipped weights, ending with a report
# make test   environment, install, the test suite
# make test-oldest, make test-newest   the same on the oldest versions that pyproject.toml allows, and on the newest
#   there are; both with PyTorch of constraints.txt
#   WORKERS=1 for one test after the other
# make lint   ruff and mypy
# make figures   all of paper_figures/ that CSV files make
# make docs   the documentation, into build/docs/index.html

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN := $(BIN)/skild-phys
DEMO := demo
PIP := -m pip install --quiet --no-compile --disable-pip-version-check
WORKERS ?= 2
PYTEST := -m pytest -n $(WORKERS) --dist worksteal

.PHONY: demo test test-slow test-oldest test-newest lint docs figures clean
.DELETE_ON_ERROR:

$(VENV)/.base: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) -c constraints.txt -e .
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) -c constraints.txt -e ".[dev]"
	touch $@

demo: $(VENV)/.base
	mkdir -p $(DEMO)
	$(RUN) simulate --L 256 --T Tc -n 24 --seed 2026 -o $(DEMO)/fine.zarr
	$(RUN) coarsen $(DEMO)/fine.zarr --factor 4 -o $(DEMO)/coarse.zarr --overwrite
	$(RUN) refine $(DEMO)/coarse.zarr --factor 4 -o $(DEMO)/refined.zarr --overwrite
	$(RUN) refine $(DEMO)/coarse.zarr --method exact -o $(DEMO)/exact.zarr --overwrite
	$(RUN) refine $(DEMO)/coarse.zarr --method fill -o $(DEMO)/fill.zarr --overwrite
	$(RUN) compare $(DEMO)/fine.zarr $(DEMO)/refined.zarr $(DEMO)/exact.zarr $(DEMO)/fill.zarr \
	  --coarse $(DEMO)/coarse.zarr -o $(DEMO)/report --overwrite

test: $(VENV)/.dev
	$(BIN)/python $(PYTEST)

test-slow: $(VENV)/.dev
	$(BIN)/python $(PYTEST) -m slow

build/newest.txt: constraints.txt
	mkdir -p build
	grep '^torch==' $< > $@

build/oldest.txt: pyproject.toml build/newest.txt
	grep -oE '"[A-Za-z-]+>=[0-9.]+' $< | grep -v '"torch>' | sed 's/"//; s/>=/==/' | sort -u > $@
	cat build/newest.txt >> $@

test-oldest test-newest: test-%: build/%.txt
	$(PYTHON) -m venv build/$*
	build/$*/bin/python $(PIP) -c $< -e ".[dev]"
	NUMBA_CACHE_DIR=build/$*/numba build/$*/bin/python $(PYTEST)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

figures: $(VENV)/.base
	for figure in concept spectra benchmark factors sizes steps cost calibration rivals temperatures \
	  inverse generation scales large invariance; do \
	  $(BIN)/python paper_figures/$$figure.py || exit 1; done

$(VENV)/.docs: $(VENV)/.base
	$(BIN)/python $(PIP) -c constraints.txt -e ".[docs]"
	touch $@

docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html skild_phys/docs build/docs
	@echo build/docs/index.html

clean:
	rm -rf $(VENV) $(DEMO) build

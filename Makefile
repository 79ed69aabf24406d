# Everything from a fresh machine with Python 3.11 or later, pip and make:
#   make demo   the bounds of the shipped dump, as a table and a figure (out/demo.png)
#   make test   every test, the linters and the type checker
#   make docs   the documentation site in out/site; every warning is an error
#   make notebooks  every notebook executed in place, so that its outputs are those of this code; some minutes
#   make fuzz   damaged inputs for every readable form, FUZZ_COUNT of each from number FUZZ_FIRST on (docs/hardening.md);
#               an hour of one core, resumable
#   make chaos  50 runs killed at random moments and resumed to the same bytes (docs/hardening.md); some minutes
#   make bench  every benchmark beside its peers, as ratios (out/bench.json, out/bench.png); some minutes
#   make bench-gpu  microseconds a position on a GPU beside softmax and a copy; skipped without one
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
FUZZ_COUNT ?= 10000
FUZZ_FIRST ?= 0
DUMP   := data/qwen2.5-coder-humaneval

.PHONY: demo test suite check docs notebooks fuzz chaos bench bench-gpu clean

# torch first and alone: the pinned version decides which build is taken before anything else asks for it.
$(VENV)/.base: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) -e '.[plot]'
	touch $@

$(VENV)/.dev: $(VENV)/.base
	$(PIP) -e '.[dev]'
	touch $@

$(VENV)/.docs: $(VENV)/.base
	$(PIP) -e '.[docs]'
	touch $@

$(VENV)/.bench: $(VENV)/.base
	$(PIP) -e '.[bench]'
	touch $@

demo: $(VENV)/.base
	mkdir -p out
	rm -rf out/demo.parquet out/demo.parquet.parts
	$(BIN)/mdsd bounds $(DUMP) --sampler all --drafts 1,2,4,8 --out out/demo.parquet
	$(BIN)/mdsd plot out/demo.parquet --figure acceptance_by_drafts --out out/demo.png

# The type checker runs beside the tests: alone it would leave all cores but one idle.
test: $(VENV)/.dev
	$(MAKE) --jobs 2 check suite

# One process a core, one thread each: threads of several processes would wait for one another.
suite: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs out/site
	@echo "the site is in out/site/index.html"

notebooks: $(VENV)/.dev
	OMP_NUM_THREADS=2 $(BIN)/python scripts/run_notebooks.py

fuzz: $(VENV)/.dev
	mkdir -p out
	OMP_NUM_THREADS=1 $(BIN)/python scripts/fuzz.py --count $(FUZZ_COUNT) --first $(FUZZ_FIRST) --state out/fuzz.json --out docs/hardening.md

bench: $(VENV)/.bench
	$(BIN)/python scripts/bench.py --out out/bench.json

bench-gpu: $(VENV)/.base
	$(BIN)/python scripts/benchmarks/gpu.py

chaos: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python scripts/chaos.py --kills 50

clean:
	rm -rf $(VENV) out .mypy_cache .ruff_cache .pytest_cache

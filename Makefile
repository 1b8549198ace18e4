# Every target does its own set-up from a bare clone: only Python and make are needed.
# On Windows without make: see docs/install.md.

PYTHON ?= python3
VENV   ?= .venv
# More options for pip, for example another index: make lab PIP_ARGS="--extra-index-url URL"
PIP_ARGS ?=
# A folder of your own for the course, or options: make lab LAB_ARGS="~/course --reset 03"
LAB_ARGS ?=
# What `make demo` edits, and how.
IMAGE  ?= data/images/demo.png
PROMPT ?= make the hat red
RESULT ?= outputs/demo.png

PY   := $(VENV)/bin/python
CORE := $(VENV)/.installed
TEST := $(VENV)/.installed-test
# What `make lab` installs, and nothing that only tests bring: there the notebooks are tested.
LAB    ?= $(VENV)-lab
KERNEL := $(VENV)/share/jupyter/kernels/minikontext-lab/kernel.json
NOTEBOOKS = $(wildcard notebooks/*.ipynb)

.PHONY: help lab demo test units wings course browser page book mutants lint lock clean

help:  ## list what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-6s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

lab: $(CORE)  ## open the course in JupyterLab
	$(PY) -m minikontext lab $(LAB_ARGS)

demo: $(CORE)  ## edit a picture without a browser, and say where the result lies
	@mkdir -p $(dir $(RESULT))
	$(PY) -m minikontext edit "$(IMAGE)" "$(PROMPT)" --seed 0 --output "$(RESULT)"
	@echo "The picture before is $(IMAGE), the result lies in $(RESULT)."

test:  ## run every test: units, parity, bad input, notebooks, browser
	$(MAKE) --no-print-directory --jobs=2 lint $(KERNEL)
	$(MAKE) --no-print-directory --keep-going --jobs=2 course units browser wings

# `make test` runs two of these beside each other, and the next when one has ended: the longest begin.
# Each computes with one thread: threads that wait for each other on cores that others share cost more
# than they bring. Tests of what threads could change ask for two (the fixture `two_threads`), and
# these sleep while they wait: awake they would take a core from the one that they wait for.
units wings course browser: export OMP_NUM_THREADS ?= 1
units wings course browser: export OMP_WAIT_POLICY ?= PASSIVE
WINGS := tests/bench tests/course tests/fuzz
units:
	$(PY) -m pytest tests $(addprefix --ignore=,tests/browser $(WINGS))

# The others are shown when they end: lines of two runs would mix.
QUIET = mkdir -p build; $(1) > build/$@.log 2>&1; code=$$?; cat build/$@.log; exit $$code
wings:
	@$(call QUIET,$(PY) -m pytest $(WINGS))

# A run begins without what a student has reached, and leaves the notebooks' folder as it was.
course: export MINIKONTEXT_PROGRESS = $(CURDIR)/build/progress.json
course:
	@rm -f build/progress.json
	@$(call QUIET,$(PY) -m pytest $(NOTEBOOKS) --nbval-lax --nbval-kernel-name=minikontext-lab \
	  --nbval-cell-timeout=300)

browser:
	@$(call QUIET,$(PY) -m pytest tests/browser)

page: $(TEST)  ## the editor in a web page that needs no install: build/page (needs npm)
	npm install --prefix tests/browser --no-audit --no-fund --no-package-lock --silent
	$(PY) -m minikontext page build/page --runtime tests/browser/node_modules/onnxruntime-web/dist

book: page  ## the course, results and reference as one static site: build/book
	$(PY) -m pip install $(PIP_ARGS) --quiet --constraint constraints.txt --editable ".[book]"
	$(PY) tools/book.py build/book --page build/page
	$(PY) -m pytest -q tests/browser/test_book_pages.py

mutants: $(TEST)  ## plant faults in a copy of the package, and see whether the tests notice
	$(PY) tests/mutants.py --table data/bench/mutants.md

lint: $(TEST)  ## check the style of the code
	$(PY) -m ruff check .

lock: $(TEST)  ## resolve constraints.txt anew, for every supported Python and system
	$(PY) -m pip install $(PIP_ARGS) --quiet uv
	$(PY) -m uv pip compile --quiet --universal --python-version 3.10 --all-extras --no-header \
	  --no-annotate --system-certs pyproject.toml --output-file constraints.new
	(echo "# The one exact tested set. Written by \`make lock\`; do not edit by hand."; \
	  cat constraints.new) > constraints.txt
	rm constraints.new

clean:  ## remove the virtual environment and what runs left behind
	rm -rf "$(VENV)" "$(LAB)" build outputs .pytest_cache .ruff_cache

# Installed once, and again when the list of packages has changed since.
$(CORE): pyproject.toml constraints.txt | $(PY)
	$(PY) -m pip install $(PIP_ARGS) --no-compile --constraint constraints.txt --editable ".[flux]"
	@$(COMPILE)
	@touch $@

# In a new environment, the tests' packages come when $(LAB) has taken what is there without them.
$(TEST): $(CORE) | $(if $(wildcard $(TEST)),,$(LAB)/.installed)
	$(PY) -m pip install $(PIP_ARGS) --no-compile --constraint constraints.txt --editable ".[test]"
	@$(COMPILE)
	@touch $@

# More than half of pip's time is Python's compiler, on one core: it takes all of them here.
# A package may hold files that are no Python: of those nothing is said.
COMPILE = $(PY) -m compileall -qq -j 0 \
  $$($(PY) -c "import sysconfig; print(sysconfig.get_path('purelib'))") || true

# What $(CORE) installed, once more as hard links; installed anew where tests' packages are there
# already, or where there are no such links.
LINK := import os, shutil, sys; [shutil.copytree(os.path.join(sys.argv[1], part), \
  os.path.join(sys.argv[2], part), symlinks=True, copy_function=os.link, dirs_exist_ok=True) \
  for part in ("lib", "share", "etc")]
$(LAB)/.installed: pyproject.toml constraints.txt | $(CORE)
	@rm -rf "$(LAB)"
	@[ -e "$(TEST)" ] || { $(PY) -m venv --without-pip "$(LAB)" \
	  && $(PY) -c '$(LINK)' "$(VENV)" "$(LAB)" && touch "$@"; } || rm -rf "$(LAB)"
	@[ -e "$@" ] || $(MAKE) --no-print-directory VENV="$(LAB)" LAB="$(LAB)-lab" "$@"

$(KERNEL): $(TEST) $(LAB)/.installed
	$(LAB)/bin/python -m ipykernel install --prefix "$(VENV)" --name minikontext-lab
	@touch $@

$(PY):
	@$(PYTHON) -c "import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))" || { \
	  echo "minikontext needs Python 3.10 to 3.13, and $(PYTHON) is: $$($(PYTHON) --version 2>&1)"; \
	  echo "Name another one: make lab PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv "$(VENV)"

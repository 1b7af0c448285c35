# make quickstart · search-demo · corpus-demo · test · test-parity · test-large-mesh · test-all · test-core · test-pythons · test-versions · test-slow ·
# test-distributed · test-faults · test-corpus · test-gguf · test-plan-gpu · fuzz · fuzz-server · soak · audit · lint · bench · bench-inference; targets run in .venv, made from the project's own files; test-pythons and
# test-versions run in .venv-VERSION, and test-plan-gpu in .venv-gpu, which has JAX's CUDA wheels (gigabytes) but needs no GPU.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Python compiles modules when it imports them; compiling all installed packages takes longer than copying them.
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile
# Tests that CI runs on another Python: the step on another JAX, and everything that depends on the interpreter and its standard library
# (processes, signals, argparse, compression, annotations, expressions).
CORE := $(addprefix tests/,checkpoint_test.py config_test.py configs_test.py passes_test.py workers_test.py cli/launch_test.py \
	cli/options_test.py data documents observability/watchdog_test.py packing train/loop_test.py train/step_test.py)
# The interpreters that `test-pythons` runs; CI names one.
PYTHONS ?= $$(.ci/pythons $(PYTHON))
# Duration of fuzzing and of the soak.
SECONDS ?= 3600
# Time limit of a test in the slow targets; pyproject.toml has that of the others.
LONG := -o faulthandler_timeout=3600
# Version of the chosen interpreter, such as 3.11; empty if it does not run.
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>&-)
TORCH := $(if $(filter 3.11,$(VERSION)),requirements-parity.txt)

.PHONY: setup setup-test setup-dev setup-pythons quickstart search-demo corpus-demo test test-parity test-large-mesh test-all test-core test-pythons test-versions test-slow test-distributed test-faults test-corpus test-gguf test-plan-gpu fuzz fuzz-server soak audit lint format bench bench-inference clean

setup: $(VENV)/runtime
setup-test: $(VENV)/test
setup-dev: $(VENV)/dev

$(VENV)/bin/python:
	@case "$(VERSION)" in 3.11 | 3.12 | 3.13) ;; *) \
	  echo "error: got PYTHON=$(PYTHON), which $(if $(VERSION),is Python $(VERSION),does not run); allowed: Python 3.11, 3.12 or 3.13; change with: make PYTHON=python3.12" >&2; exit 2;; esac
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "error: got a Python without venv; allowed: one with it; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 2; }

$(VENV)/runtime: requirements.txt | $(VENV)/bin/python
	$(PIP) -r requirements.txt --editable .
	@touch $@

$(VENV)/test: requirements-test.txt requirements-serve.txt requirements-gguf.txt requirements-search.txt requirements-text.txt $(VENV)/runtime
	$(PIP) -r requirements-test.txt
	@touch $@

# PyTorch's wheel may bring gigabytes of CUDA if there is no CPU build, so the parity tests are installed on Python 3.11 only.
$(VENV)/dev: requirements-dev.txt requirements-test.txt requirements-serve.txt requirements-gguf.txt requirements-search.txt requirements-text.txt requirements-parity.txt $(VENV)/runtime
	$(PIP) -r requirements-dev.txt $(if $(TORCH),-r $(TORCH))
	@touch $@

quickstart: setup
	$(BIN)/python examples/quickstart.py $(QUICKSTART)

search-demo: setup
	$(BIN)/python examples/search_demo.py $(SEARCH)

$(VENV)/corpus: requirements-text.txt requirements-spark.txt requirements-corpus.txt $(VENV)/runtime
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-corpus.txt
	@touch $@

corpus-demo: $(VENV)/corpus
	$(BIN)/python examples/corpus_demo.py $(DEMO)

# Tests that are expensive for what they prove have markers (pyproject.toml) and targets of their own.
test: setup-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal -q $(TESTS)

# Comparisons with PyTorch, transformers and lm-evaluation-harness, if they are installed.
test-parity: setup-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal -q -m 'parity and not slow' $(TESTS)

# The step of the 52B run, compiled for 896 virtual devices.
test-large-mesh: setup-dev
	$(BIN)/python -m pytest -q -m large_mesh $(or $(TESTS),tests/cli/plan_test.py)

# Every test that needs nothing beside setup-dev, with the full number of examples for properties.
test-all: setup-dev
	HYPOTHESIS_PROFILE=full $(BIN)/python -m pytest $(LONG) -n 2 --dist worksteal -q -m 'not corpus and not llama_cpp and not plan_gpu' $(TESTS)

test-core: setup-test
	$(BIN)/python -m pytest -n 2 --dist worksteal -q $(CORE)

# Every installed supported Python, except the one of `make test`, each in an environment without PyTorch and linters.
test-pythons setup-pythons:
	@for python in $(PYTHONS); do \
	  version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	  $(MAKE) PYTHON=$$python VENV=.venv-$$version $(if $(filter test-%,$@),test-core,setup-test) || exit; done

# The newest versions of all dependencies that the requirements allow, on the newest Python; then the oldest, on the oldest Python, without
# the packages of the parity tests, whose versions pip would search for hours.
test-versions:
	$(MAKE) PYTHON=$$(.ci/pythons | tail -n 1) VENV=.venv-newest test
	$(MAKE) PYTHON=$$(.ci/pythons | head -n 1) VENV=.venv-oldest .venv-oldest/oldest.txt
	PIP_CONSTRAINT=.venv-oldest/oldest.txt $(MAKE) TORCH= PYTHON=$$(.ci/pythons | head -n 1) VENV=.venv-oldest test

$(VENV)/oldest.txt: $(wildcard requirements*.txt) | $(VENV)/bin/python
	sed -nE 's/^([A-Za-z0-9_-]+)>=([^,]+),.*/\1==\2/p' $^ | sort -u > $@

test-slow: setup-dev
	$(BIN)/python -m pytest $(LONG) -q -m slow $(TESTS)

test-distributed: setup-dev
	$(BIN)/python -m pytest $(LONG) -n 2 -q -m distributed $(TESTS)

test-faults: setup-dev
	$(BIN)/python -m pytest $(LONG) -n 2 -q -m faults $(TESTS)

test-corpus: setup-dev $(VENV)/corpus
	$(BIN)/python -m pytest $(LONG) -q -m corpus $(or $(TESTS),tests/corpus)

# Builds llama.cpp, which takes minutes.
$(VENV)/llama-cpp: requirements-llama-cpp.txt $(VENV)/dev
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-llama-cpp.txt
	@touch $@

test-gguf: $(VENV)/llama-cpp
	$(BIN)/python -m pytest $(LONG) -q -m llama_cpp $(or $(TESTS),tests/huggingface)

.venv-gpu/ready: requirements.txt requirements-test.txt requirements-gpu.txt
	$(PYTHON) -m venv .venv-gpu
	.venv-gpu/bin/pip install --quiet --disable-pip-version-check -r requirements-gpu.txt -r requirements-test.txt --editable .
	@touch $@

test-plan-gpu: .venv-gpu/ready
	.venv-gpu/bin/python -m pytest $(LONG) -q -m plan_gpu $(TESTS)

$(VENV)/fuzz: requirements-fuzz.txt $(VENV)/dev
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-fuzz.txt
	@touch $@

# Hostile input, guided by coverage, for SECONDS in total; ENTRIES selects entries of tests/fuzz/.
fuzz: $(VENV)/fuzz
	$(BIN)/python -m tests.fuzz.run --seconds $(SECONDS) $(ENTRIES)

# Sends the server requests that its own description allows and forbids.
fuzz-server: $(VENV)/fuzz
	$(BIN)/python tests/fuzz/server.py --seconds $(SECONDS)

# Good, bad, slow and disconnecting clients at once, for an hour: make soak SECONDS=3600
soak: setup-dev
	$(BIN)/python tests/soak/server.py --seconds $(SECONDS)

# Advisories against the oldest versions that the requirements allow, and against the installed ones; queries the package index.
.venv-audit/ready: requirements-audit.txt
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/pip install --quiet --disable-pip-version-check -r requirements-audit.txt
	@touch $@

audit: .venv-audit/ready $(VENV)/dev
	sed -nE 's/^([A-Za-z0-9_-]+)(>=|==)([^,]+).*/\1==\3/p' requirements*.txt | sort -u > .venv-audit/oldest.txt
	.venv-audit/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off -r .venv-audit/oldest.txt
	$(BIN)/pip freeze --disable-pip-version-check --exclude-editable > .venv-audit/installed.txt
	.venv-audit/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off -r .venv-audit/installed.txt

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python .ci/rules.py

format: setup-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup-dev
	$(BIN)/python benchmarks/train_step.py

# The second part needs 20 GB of disk and 12 GB of memory.
bench-inference: setup-dev
	$(BIN)/python benchmarks/inference.py
	$(BIN)/python benchmarks/loading.py

clean:
	rm -rf .venv .venv-*

# make quickstart · corpus-demo · test · test-slow · test-distributed · test-faults · test-corpus · test-gguf · test-plan-gpu · lint ·
# bench · bench-inference; everything happens in .venv, made from the project's own files; test-plan-gpu in .venv-gpu, which has JAX's CUDA wheels
# (gigabytes) but needs no GPU.
PYTHON ?= python3
BIN := .venv/bin
TORCH := $(shell $(PYTHON) -c 'import sys; print("requirements-parity.txt" if sys.version_info[:2] == (3, 11) else "")')

.PHONY: setup setup-dev quickstart corpus-demo test test-slow test-distributed test-faults test-corpus test-gguf test-plan-gpu lint format bench bench-inference clean

setup: .venv/runtime
setup-dev: .venv/dev

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' || { echo "error: got $$($(PYTHON) --version); allowed: Python 3.11 or 3.12; change with: make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "error: got a Python without venv; allowed: one with it; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 2; }

.venv/runtime: requirements.txt | .venv/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt --editable .
	@touch $@

# PyTorch's wheel may bring gigabytes of CUDA where no CPU build is at hand, so the parity tests are installed on Python 3.11 only.
.venv/dev: requirements-dev.txt requirements-gguf.txt requirements-text.txt requirements-parity.txt .venv/runtime
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt $(if $(TORCH),-r $(TORCH))
	@touch $@

quickstart: setup
	$(BIN)/python examples/quickstart.py $(QUICKSTART)

.venv/corpus: requirements-text.txt requirements-corpus.txt .venv/runtime
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-corpus.txt
	@touch $@

corpus-demo: .venv/corpus
	$(BIN)/python examples/corpus_demo.py $(DEMO)

# A file's tests stay in one process, so that what they share is made and compiled once.
test: setup-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile -q $(TESTS)

test-slow: setup-dev
	$(BIN)/python -m pytest -q -m slow $(TESTS)

test-distributed: setup-dev
	$(BIN)/python -m pytest -n 2 -q -m distributed $(TESTS)

test-faults: setup-dev
	$(BIN)/python -m pytest -n 2 -q -m faults $(TESTS)

test-corpus: setup-dev .venv/corpus
	$(BIN)/python -m pytest -q -m corpus $(or $(TESTS),tests/corpus)

# Builds llama.cpp, which takes minutes.
.venv/llama-cpp: requirements-llama-cpp.txt .venv/dev
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-llama-cpp.txt
	@touch $@

test-gguf: .venv/llama-cpp
	$(BIN)/python -m pytest -q -m llama_cpp $(or $(TESTS),tests/huggingface)

.venv-gpu/ready: requirements.txt requirements-dev.txt requirements-gpu.txt
	$(PYTHON) -m venv .venv-gpu
	.venv-gpu/bin/pip install --quiet --disable-pip-version-check -r requirements-gpu.txt -r requirements-dev.txt --editable .
	@touch $@

test-plan-gpu: .venv-gpu/ready
	.venv-gpu/bin/python -m pytest -q -m plan_gpu $(TESTS)

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

format: setup-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup-dev
	$(BIN)/python benchmarks/train_step.py

# The second part wants 20 GB of disk and 12 GB of memory.
bench-inference: setup-dev
	$(BIN)/python benchmarks/inference.py
	$(BIN)/python benchmarks/loading.py

clean:
	rm -rf .venv .venv-gpu

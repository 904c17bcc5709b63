# One virtual environment for everything; each target installs what it needs into it, once.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

# Exactly one ONNX Runtime: the CUDA build where an NVIDIA GPU answers, the CPU build elsewhere.
RUNTIME   := $(if $(shell nvidia-smi -L 2>/dev/null),gpu,cpu)
OTHER_ORT := $(if $(filter gpu,$(RUNTIME)),onnxruntime,onnxruntime-gpu)

# What is installed is locked, with hashes; see deploy/lock.sh.
LOCKS := deploy/requirements

# One of the pages that `make audit` asks: mirrors of the index may lack them
ADVISORIES := https://pypi.org/pypi/pip/25.0/json

# For `make train`, and RECIPE for `make export`: another recipe or data set, e.g. make train RECIPE=cpu-narrow-c4 DATA=cifar10
RECIPE ?= tiny
DATA   ?= pairs
RUN    ?= runs/$(RECIPE)

# For `make bench` and `make gpu`: what is served, and for the latter on what: cuda or tensorrt
BUNDLE ?= model/pretrained/cifar10
DEVICE ?= cuda

.PHONY: help serve test check audit sbom format train export bench gpu up clean

help: ## say what there is to make
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: $(VENV)/.serve ## serve the bundled model on http://127.0.0.1:8000
	@exec $(BIN)/anytime serve

test: $(VENV)/.dev ## run the tests
	$(BIN)/pytest -n 2 --dist loadfile

check: $(VENV)/.dev ## formatting, lint, types, import contracts and licences
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m piplicenses --packages $$(sed -n 's/^\([a-z0-9-]*\)==.*/\1/p' $(LOCKS)/*.txt | sort -u) > /dev/null

audit: $(VENV)/.audit ## ask the internet for known vulnerabilities of what is locked
	@$(BIN)/python -c 'import requests; requests.get("$(ADVISORIES)", timeout=15).raise_for_status()' 2> /dev/null \
	  || { echo 'error: nothing was audited: $(ADVISORIES), one of the pages with the advisories, is not to be had from here' >&2; exit 1; }
	$(BIN)/pip-audit --strict --disable-pip --require-hashes $(addprefix --requirement ,$(wildcard $(LOCKS)/*.txt))

sbom: $(VENV)/.audit ## write the bill of materials of each image into dist/
	mkdir -p dist
	$(foreach runtime,cpu gpu,$(BIN)/cyclonedx-py requirements --output-reproducible --pyproject pyproject.toml --mc-type application \
	  --output-file dist/sbom-$(runtime).cdx.json $(LOCKS)/$(runtime).txt &&) true

format: $(VENV)/.dev ## format the code and mend what lint can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

train: $(VENV)/.dev ## train RECIPE on DATA, going on where it stopped
	$(BIN)/anytime train --recipe $(RECIPE) --data $(DATA) --out $(RUN) --resume

export: $(VENV)/.dev ## export the trained RECIPE to a bundle
	$(BIN)/anytime export --run $(RUN) --out $(RUN)/bundle

bench: $(VENV)/.dev ## measure the server with the IMAGES of a folder <class>/*.jpg, into docs/results.md
	@test -d "$(IMAGES)" || { echo 'error: say where labelled test images are: make bench IMAGES=folder (of <class>/*.jpg)' >&2; exit 2; }
	$(BIN)/python -m benchmarks.serve --bundle "$(BUNDLE)" --images "$(IMAGES)"

gpu: $(VENV)/.dev ## measure the server on a GPU with the IMAGES of a folder <class>/*.jpg, into docs/gpu.md
	@test -d "$(IMAGES)" || { echo 'error: say where labelled test images are: make gpu IMAGES=folder (of <class>/*.jpg)' >&2; exit 2; }
	$(BIN)/python -m benchmarks.gpu --bundle "$(BUNDLE)" --images "$(IMAGES)" --device "$(DEVICE)"

up: ## server, Prometheus and Grafana in containers
	docker compose up --build

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/.serve: pyproject.toml $(LOCKS)/build.txt $(LOCKS)/$(RUNTIME).txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"Python {v.major}.{v.minor} is too old, 3.11 is needed: make PYTHON=python3.11 serve")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip uninstall --quiet --yes $(OTHER_ORT)
	$(BIN)/pip install --quiet --require-hashes --requirement $(LOCKS)/build.txt --requirement $(LOCKS)/$(RUNTIME).txt
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# torch alone is not in the lock: which build of it fits is the machine's to choose, so that pyproject.toml pins its version.
# Hence --no-deps: a package of the lock that needs torch (kornia) would have pip ask for torch's hash, too.
$(VENV)/.dev: $(VENV)/.serve $(LOCKS)/dev.txt
	$(BIN)/pip install --quiet --no-deps --require-hashes --requirement $(LOCKS)/dev.txt
	$(BIN)/pip install --quiet --no-build-isolation --editable '.[$(RUNTIME),traces,grpc,train,tensorboard,dev]'
	@touch $@

$(VENV)/.audit: $(VENV)/.serve $(LOCKS)/audit.txt
	$(BIN)/pip install --quiet --require-hashes --requirement $(LOCKS)/audit.txt
	@touch $@

# `make help` lists the targets. Each sets up what it needs on its first run.
# Which Python to use; without it, find-python chooses the newest that will do.
PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
# Additional arguments for pip. If your index only has the CUDA build of torch, name one with the CPU build:
# PIP_ARGS="--extra-index-url <PyTorch's CPU wheel index>".
PIP_ARGS ?=

.PHONY: help serve wheel test test-avx2 docs lint images pin audit format train up down sbom checkov clean lock \
  version release changelog

help: ## list the targets
	@sed -n 's/^\([a-z][a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

serve: $(VENV)/.serve $(VENV)/.triton ## serve on http://127.0.0.1:8080 with a local Triton
	$(BIN)/tandem serve

# Three files at a time on two cores, because tests also wait for servers. In the order of folders: those with long
# files come first.
PYTEST := $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder

test: $(VENV)/.dev $(VENV)/.triton ## run all tests
	$(PYTEST)

# Processors round differently and differ in their instructions. torch and oneDNN can be limited to older ones.
STAGES := tests/integration/training/test_stages.py
NUMERICAL := tests/unit/training tests/unit/triton/backend tests/integration/training/test_golden.py \
  $(STAGES)::test_the_emotion_network_learns $(STAGES)::test_distillation_teaches_what_the_votes_do_not \
  $(STAGES)::test_the_tandem_keeps_what_the_emotion_network_has_learned \
  tests/integration/triton/test_runtimes.py::test_probabilities_match_torch tests/integration/triton/test_served_model.py

test-avx2: $(VENV)/.dev $(VENV)/.triton ## run the tests of networks and training as if the processor had nothing newer than AVX2
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 $(PYTEST) $(NUMERICAL)

docs: $(VENV)/.dev ## build the documentation as a site in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: $(VENV)/.dev ## check formatting, lint, types, imports between rooms, and secrets
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(SECRETS)

# Not secrets: checksums, the name of a secret in a patch, a command in the documentation, a wrong key in a test.
SECRETS := git ls-files -z -- . ':!requirements' ':!k8s/components/api-keys' | xargs -0 $(BIN)/detect-secrets-hook \
  --disable-plugin HexHighEntropyString --exclude-lines "secretName: |reset-admin-password NEW|api_key=.wrong."

# As they stand in the files that use them.
IMAGES := sed -nE 's/^ *image: .*:-([^}]*[/][^}]*)[}]/\1/p; s/^ARG (PYTHON|BASE|TRITON)_IMAGE=//p' \
  docker/compose.yaml docker/Dockerfile.* docker/nvidia/Dockerfile | sort -u

images: ## list the images that are pinned
	@$(IMAGES)

pin: ## pin each of these images to the digest that its tag has now; needs docker and the images' registries
	@set -e; for image in $$($(IMAGES)); do tag=$${image%@*}; \
	  digest=$$(docker buildx imagetools inspect --format '{{.Manifest.Digest}}' "$$tag"); \
	  echo "$$tag@$$digest"; \
	  sed -i "s|$$image|$$tag@$$digest|g" docker/compose.yaml docker/Dockerfile.* docker/nvidia/Dockerfile; done

audit: $(VENV)/.dev ## look for known vulnerabilities in locked packages and pinned images; says what it could not audit
	@for lock in gateway serve buckets video mcp training torch dev; do \
	  echo "== requirements/$$lock.txt"; \
	  report=$$($(BIN)/pip-audit --no-deps --disable-pip -s osv --timeout 10 -r requirements/$$lock.txt 2>&1) && status=0 || status=$$?; \
	  case "$$report" in *requests.exceptions.*) \
	    echo "NOT AUDITED: the vulnerability database cannot be reached"; exit 0;; esac; \
	  echo "$$report"; \
	  [ $$status = 0 ] || exit $$status; done
	@for image in $$($(IMAGES)); do \
	  echo "== $$image"; \
	  if command -v trivy >/dev/null; then \
	    trivy image --quiet --ignore-unfixed --severity HIGH,CRITICAL --exit-code 1 "$$image" || exit $$?; \
	  else echo "NOT AUDITED: trivy is not installed"; fi; done
	@echo "== Triton $$(sed -n 's/^TRITON_RELEASE = "\(.*\)".*/\1/p' service/triton/install.py), local"
	@echo "NOT AUDITED: compare with NVIDIA's bulletins, see docs/threat-model.md"

format: $(VENV)/.dev ## format the code and fix lint errors where possible
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wheel: $(VENV)/bin/python ## build the wheel in dist/: service, training, and the model for a CPU
	$(BIN)/pip wheel -q --no-deps -w dist .

# The version is that of service/__init__.py. These files repeat it, because what reads them can't look there.
VERSIONED := service/__init__.py docker/Dockerfile.* docker/nvidia/Dockerfile docker/compose.yaml \
  k8s/base/kustomization.yaml k8s/overlays/gpu/kustomization.yaml k8s/examples/*/*.yaml k8s/chart/Chart.yaml \
  docs/quick-start.md docs/operations.md
OLD := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' service/__init__.py)

version: ## print the version
	@echo $(OLD)

release: ## set the version in all files and in the changelog; VERSION=1.2.0. Then commit, and push the tag v1.2.0
	sed -i 's/\b$(subst .,\.,$(OLD))\b/$(or $(VERSION),$(error use make release VERSION=1.2.0))/g' $(VERSIONED)
	sed -i 's/^## \[Unreleased\]$$/&\n\n## [$(VERSION)] - '"$$(date +%F)/" CHANGELOG.md

changelog: ## print what changed in VERSION=1.2.0
	@sed -n '/^## \[$(VERSION)\]/,/^## \[/{/^## /!p}' CHANGELOG.md

train: $(if $(DATA),$(VENV)/.dev,train-without-data) ## train and export into runs/model_repository; DATA=FOLDER with ferplus/ and identity/
	$(BIN)/training all --data "$(DATA)"

train-without-data:
	@echo "use make train DATA=FOLDER, with ferplus/ and identity/ in FOLDER; docs/training.md has other ways" >&2; exit 2

# The Compose profiles: cpu or gpu, optionally with observability, separated by a comma.
PROFILES ?= cpu
COMPOSE := docker compose -f docker/compose.yaml
PASSWORD := docker/secrets/grafana_admin_password

up: compose-plugin $(PASSWORD) ## build and start the service in Docker on http://127.0.0.1:8080; optional: PROFILES=gpu,observability
	COMPOSE_PROFILES=$(PROFILES) REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) $(COMPOSE) up -d --build --wait

.PHONY: compose-plugin
compose-plugin:
	@docker compose version >/dev/null 2>&1 || { \
	  echo "Docker with its Compose plugin is missing: install docker-compose-plugin (Docker's packages) or docker-compose-v2 (Ubuntu)" >&2; exit 1; }

down: compose-plugin ## stop the service in Docker, with all profiles; data of Prometheus and Grafana is kept
	COMPOSE_PROFILES=cpu,gpu,observability $(COMPOSE) down --remove-orphans

sbom: ## list the contents of each local image in build/sbom/*.spdx.json; needs syft
	mkdir -p build/sbom
	for image in $$(docker images -q --no-trunc --filter reference='tandem*' | sort -u); do \
	  name=$$(docker inspect -f '{{index .RepoTags 0}}' $$image | tr : -); \
	  syft -q "docker:$$image" -o spdx-json=build/sbom/$$name.spdx.json || exit 1; done

# Scans the rendered variants of the manifests, and the Dockerfiles. checkov has its own environment, because it pins
# its requirements tightly.
CHECKOV := build/checkov/bin/checkov --config-file k8s/.checkov.yaml
RENDERED := cpu gpu local cpu+api-keys cpu+models-pvc gpu+models-object-store

checkov: build/checkov/.done ## scan Dockerfiles and rendered manifests for security problems; needs kubectl
	for variant in $(RENDERED); do \
	  folder=build/rendered/$$variant && mkdir -p $$folder && { \
	    echo "resources: [../../../k8s/overlays/$${variant%%+*}]"; \
	    case $$variant in *+*) echo "components: [../../../k8s/components/$${variant#*+}]";; esac; \
	  } > $$folder/kustomization.yaml && kubectl kustomize $$folder > $$folder/rendered.yaml || exit 1; done
	$(CHECKOV) $(RENDERED:%=--file build/rendered/%/rendered.yaml)
	$(CHECKOV) --directory docker

build/checkov/.done: Makefile
	python=$$(./find-python $(PYTHON)) && $$python -m venv build/checkov
	build/checkov/bin/pip install -q checkov==3.3.30
	touch $@

# Grafana runs as a user that does not exist on this machine and must be able to read the file, so protect its folder.
$(PASSWORD):
	chmod 700 $(@D)
	umask 022 && head -c 24 /dev/urandom | base64 > $@

clean: ## delete the environment, caches and build folders without asking
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

# All but timm, whose torchvision differs between CPUs and CUDA, as torch does.
EXTRAS := torchscript s3 otel tables buckets video mcp training dev

lock: $(VENV)/bin/python ## update the lock files from pyproject.toml
	$(BIN)/pip install -q pip-tools
	$(call compile,dev,$(EXTRAS:%=--extra %))
	$(call compile,training,--extra training -c requirements/dev.txt)
	$(call compile,video,--extra video -c requirements/dev.txt)
	$(call compile,mcp,--extra mcp -c requirements/dev.txt)
	$(call compile,serve,-c requirements/dev.txt)
	$(call compile,gateway,--extra otel -c requirements/dev.txt)
	$(call compile,buckets,--extra otel --extra buckets -c requirements/dev.txt)

# torch is in a file of its own, requirements/torch.txt, because its build for CPUs or CUDA has another hash on every
# index. Remove it, with its hashes and comments.
define compile
	$(BIN)/pip-compile -q --strip-extras --allow-unsafe --no-header --no-emit-find-links --no-emit-index-url \
	  --generate-hashes -o requirements/$(1).txt $(2) pyproject.toml
	sed -i '/^torch==/,/^[^ ]/{/^torch==/d;/^ /d}' requirements/$(1).txt
endef

$(VENV)/bin/python:
	python=$$(./find-python $(PYTHON)) && $$python -m venv $(VENV)

$(VENV)/.serve: $(VENV)/bin/python requirements/serve.txt pyproject.toml
	$(BIN)/pip install $(PIP_ARGS) --require-hashes -r requirements/serve.txt
	$(BIN)/pip install --no-deps -e .
	touch $@

$(VENV)/.triton: $(VENV)/.serve
	[ -n "$(TANDEM_TRITON_URL)" ] || $(BIN)/tandem install-triton
	[ -n "$(TANDEM_TRITON_URL)" ] || touch $@

# The tools for development are locked for one Python.
$(VENV)/.dev: PYTHON = python3.11
$(VENV)/.dev: $(VENV)/.serve requirements/dev.txt requirements/torch.txt
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
	  echo "development needs Python 3.11, and $(VENV) has another: run make clean first" >&2; exit 1; }
	@[ "$(TORCH)" = cuda ] || ! $(BIN)/pip install --dry-run --quiet --report - $(PIP_ARGS) -r requirements/torch.txt \
	  | grep -q '"name": "nvidia-' || { echo "the package index has only the CUDA build of torch:" \
	  "name PyTorch's index of CPU builds with PIP_ARGS=\"--extra-index-url URL\", or say TORCH=cuda" >&2; exit 1; }
	$(BIN)/pip install $(PIP_ARGS) --no-deps --require-hashes -r requirements/dev.txt
	$(BIN)/pip install $(PIP_ARGS) -r requirements/torch.txt
	touch $@

# One command for each everyday thing; each sets up what it needs, once.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# Where pip finds a CPU build of torch 2.13.0 if your index offers the CUDA build only, for example
# PIP_ARGS="--extra-index-url <PyTorch's CPU wheel index>".
PIP_ARGS ?=

.PHONY: serve test lint audit format train up down sbom checkov clean lock

serve: $(VENV)/.serve ## set up once, then serve on http://127.0.0.1:8080
	$(BIN)/tandem serve

test: $(VENV)/.dev ## set up once, then run every test, two files at a time: they mostly wait for servers
	$(BIN)/pytest -n 2 --dist loadfile

lint: $(VENV)/.dev ## style, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(SECRETS)

# Checksums are no secrets, nor is the name of one in a patch, a command in the documents, a wrong key in a test.
SECRETS := git ls-files -z -- . ':!requirements' ':!k8s/components/api-keys' | xargs -0 $(BIN)/detect-secrets-hook \
  --disable-plugin HexHighEntropyString --exclude-lines "secretName: |reset-admin-password NEW|api_key=.wrong."

audit: $(VENV)/.dev ## known vulnerabilities in what is locked; needs the network, and says so where there is none
	@for lock in gateway serve dev; do \
	  echo "== requirements/$$lock.txt"; \
	  report=$$($(BIN)/pip-audit --no-deps --disable-pip -s osv --timeout 10 -r requirements/$$lock.txt 2>&1) && status=0 || status=$$?; \
	  case "$$report" in *requests.exceptions.*) \
	    echo "NOT AUDITED: the database of known vulnerabilities cannot be reached"; exit 0;; esac; \
	  echo "$$report"; \
	  [ $$status = 0 ] || exit $$status; done

format: $(VENV)/.dev ## rewrite the code in the project's style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

train: $(VENV)/.dev ## the three stages and the export; DATA=folder with ferplus/ and identity/
	$(BIN)/training all --data "$(or $(DATA),$(error make train DATA=FOLDER, a folder that holds ferplus/ and identity/))"

# What runs beside the gateway: cpu or gpu, and observability if wanted, separated by commas.
PROFILES ?= cpu
COMPOSE := docker compose -f docker/compose.yaml
PASSWORD := docker/secrets/grafana_admin_password

up: $(PASSWORD) ## build and start the service in Docker on http://127.0.0.1:8080; PROFILES=gpu,observability
	COMPOSE_PROFILES=$(PROFILES) REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) $(COMPOSE) up -d --build --wait

down: ## stop it, whatever its profiles; what Prometheus and Grafana have stored stays
	COMPOSE_PROFILES=cpu,gpu,observability $(COMPOSE) down --remove-orphans

sbom: ## what is in each image that is here, as build/sbom/*.spdx.json; needs syft
	mkdir -p build/sbom
	for image in $$(docker images -q --no-trunc --filter reference='tandem-*' | sort -u); do \
	  name=$$(docker inspect -f '{{index .RepoTags 0}}' $$image | tr : -); \
	  syft -q "docker:$$image" -o spdx-json=build/sbom/$$name.spdx.json || exit 1; done

# What each variant of the manifests comes to, beside the Dockerfiles. checkov pins what it needs so tightly that it
# gets an environment of its own.
CHECKOV := build/checkov/bin/checkov --config-file k8s/.checkov.yaml
RENDERED := cpu gpu local cpu+api-keys cpu+models-pvc gpu+models-object-store

checkov: build/checkov/.done ## scan Dockerfiles and rendered manifests for what is unsafe; needs kubectl
	for variant in $(RENDERED); do \
	  folder=build/rendered/$$variant && mkdir -p $$folder && { \
	    echo "resources: [../../../k8s/overlays/$${variant%%+*}]"; \
	    case $$variant in *+*) echo "components: [../../../k8s/components/$${variant#*+}]";; esac; \
	  } > $$folder/kustomization.yaml && kubectl kustomize $$folder > $$folder/rendered.yaml || exit 1; done
	$(CHECKOV) $(RENDERED:%=--file build/rendered/%/rendered.yaml)
	$(CHECKOV) --directory docker

build/checkov/.done: Makefile
	$(PYTHON) -m venv build/checkov
	build/checkov/bin/pip install -q checkov==3.3.30
	touch $@

# Grafana's user, who is none of this machine's, must read the file: only its folder can be kept to its owner.
$(PASSWORD):
	chmod 700 $(@D)
	umask 022 && head -c 24 /dev/urandom | base64 > $@

clean: ## what setting up, training and testing made; asks for nothing
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

lock: $(VENV)/bin/python ## compile the lock files anew from pyproject.toml
	$(BIN)/pip install -q pip-tools
	$(call compile,dev,--all-extras)
	$(call compile,serve,--extra triton -c requirements/dev.txt)
	$(call compile,gateway,--generate-hashes --extra otel -c requirements/dev.txt)

# The local label of a CPU build (2.13.0+cpu) is dropped, so that any index's 2.13.0 satisfies the pin.
define compile
	$(BIN)/pip-compile -q --strip-extras --allow-unsafe --no-header --no-emit-find-links --no-emit-index-url \
	  -o requirements/$(1).txt $(2) pyproject.toml
	sed -i 's/^torch==\([0-9.]*\)+cpu/torch==\1/' requirements/$(1).txt
endef

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.serve: $(VENV)/bin/python requirements/serve.txt pyproject.toml
	$(BIN)/pip install -q $(PIP_ARGS) -r requirements/serve.txt
	$(BIN)/pip install -q --no-deps -e .
	$(BIN)/tandem install-triton
	touch $@

$(VENV)/.dev: $(VENV)/.serve requirements/dev.txt
	$(BIN)/pip install -q $(PIP_ARGS) -r requirements/dev.txt
	touch $@

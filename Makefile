# Everything starts here. Needs a Python (3.11 or later), make, and a package index that pip can reach.
PYTHON ?= python3

RUN      := runs/quickstart
VENV     := .venv
TEST     := .venv-test
PEERS    := .venv-peers
SOURCES  := $(shell find src -type f ! -name '*.pyc')

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-peers slow lint format clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1\t/' | expand -t 20

quickstart: $(VENV)/installed ## From a folder of images without labels to a trained network and its report, in about a minute
	rm -rf $(RUN)
	$(VENV)/bin/pullback digits $(RUN)/digits
	$(VENV)/bin/pullback distill $(RUN)/digits/images --teacher digits --image-size 8 --levels 16,32 --repeats 2 \
		--augment crop --lr 3e-3 --weight-decay 0.05 --batch-size 32 --epochs 40 --eval-every 108 --held-out 0.2 --out $(RUN)/run
	$(VENV)/bin/pullback evaluate $(RUN)/run --truth $(RUN)/digits/truth.csv
	$(VENV)/bin/pullback report $(RUN)/run --truth $(RUN)/digits/truth.csv
	@echo; echo "The report: file://$(CURDIR)/$(RUN)/run/report.html"

test: lint ## Lint, type-check, and run the fast tests with coverage
	$(TEST)/bin/python -m pytest -m "not slow and not peers" --cov --cov-report=term

test-peers: $(PEERS)/installed ## Compare with PyTorch and JAX
	$(PEERS)/bin/python -m pytest -m "peers and not slow"

slow: $(PEERS)/installed ## Run the slow tests: end-to-end training, kill and resume, benchmarks
	$(PEERS)/bin/python -m pytest -m slow

lint: $(TEST)/installed ## ruff and mypy --strict
	$(TEST)/bin/ruff check .
	$(TEST)/bin/ruff format --check .
	$(TEST)/bin/mypy

format: $(TEST)/installed ## Put the code in the house format
	$(TEST)/bin/ruff check --fix .
	$(TEST)/bin/ruff format .

clean: ## Remove the environments, caches and the quickstart run
	rm -rf $(VENV) $(TEST) $(PEERS) $(RUN) .coverage .pytest_cache .mypy_cache .ruff_cache build dist
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment is made anew only when pyproject.toml changes. The quickstart installs the package as a user would, and
# again when the sources change; the test environments use the sources in place.
$(VENV)/created: pyproject.toml
	$(PYTHON) -m venv --clear $(VENV)
	touch $@

$(VENV)/installed: $(VENV)/created $(SOURCES)
	$(VENV)/bin/pip install --quiet .
	touch $@

$(TEST)/installed: pyproject.toml
	$(PYTHON) -m venv --clear $(TEST)
	$(TEST)/bin/pip install --quiet --editable '.[dev]'
	touch $@

$(PEERS)/installed: pyproject.toml
	$(PYTHON) -m venv --clear $(PEERS)
	$(PEERS)/bin/pip install --quiet --editable '.[dev,peers]'
	touch $@

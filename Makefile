# Two commands do everything: `make demo` and `make test`.
.DEFAULT_GOAL := demo
PYTHON ?= python3
BIN := $(CURDIR)/.venv/bin
export PATH := $(BIN):$(PATH)

.PHONY: demo test lint clean

demo: .venv/installed  ## the whole pipeline on CIFAR-10, then the table and the report's path
	dvc repro
	@cat reports/results.txt
	@echo "report: $(CURDIR)/reports/index.html"

test: lint
	python -m pytest -n 2 --dist loadgroup

lint: .venv/installed-test
	ruff check .
	ruff format --check .
	mypy

clean:  ## remove what was made; downloads and DVC's cache stay
	rm -rf .venv .work students metrics evidence runs reports data/prepared data/teacher data/targets data/cache

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -e .
	@touch $@

.venv/installed-test: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[test]'
	@touch $@ .venv/installed

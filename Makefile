# Every target does all it needs on a machine that has only Python >= 3.11 and make.
PYTHON ?= python3
VENV   := .venv
RUN    := $(VENV)/bin/python
OUT    ?= verdicts

.PHONY: verify paper test lint bench figures gallery pictures pages docs package clean help
.DEFAULT_GOAL := help

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

verify: $(VENV)/ready ## every claim at smoke scale: table, report.html, figures in $(OUT)/
	$(RUN) -m paper_checks --scale smoke --jobs 2 --out $(OUT)

paper: $(VENV)/ready ## every claim at paper scale; it goes on with ARGS=--resume
	$(RUN) -m paper_checks --scale paper --jobs 2 --out $(OUT) $(ARGS)

test: $(VENV)/ready ## the test suite
	$(RUN) -m pytest -n 2

lint: $(VENV)/ready ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench: $(VENV)/ready ## speeds as ratios, written to bench.json
	$(RUN) -m tests.benchmarks

figures: $(VENV)/ready ## redraw every figure in $(OUT)/ from its stored evidence, or that of docs/gallery/; runs no algorithm
	$(RUN) -m figures $(if $(wildcard $(OUT)/evidence/*.npz),$(OUT),docs/gallery) --out $(OUT)

gallery: $(VENV)/ready ## the gallery of docs/ and README.md, from $(OUT)/ where it is a run of `make verify`, else from docs/gallery/
	$(RUN) -m figures.gallery $(if $(wildcard $(OUT)/run.json),--run $(OUT))

pictures: ## docs/verdicts.png, the picture of $(OUT)/report.html in README.md, by chromium
	chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1400,980 \
	  --screenshot=docs/verdicts.png "file://$(abspath $(OUT)/report.html)" 2> /dev/null

pages: $(VENV)/ready ## write the pages of docs/ that come from the code: claims, command line, methods
	$(RUN) -m docs.generate pages

docs: $(VENV)/ready ## every page and the API as HTML in build/docs/; a broken link or reference is an error
	$(RUN) -W error -m docs.generate site build/docs

package: $(VENV)/ready ## wheel and sdist in dist/, installed into an empty environment and tried there
	$(RUN) -m tests.packaging

clean: ## remove the environment and what was written
	rm -rf $(VENV) $(OUT) build dist

# Installed anew whenever what is to be installed changes. The stamp is written last: a broken install is repeated.
$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "expected Python >= 3.11, got " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,dev,docs,pep,few-shot,data]'
	@touch $@

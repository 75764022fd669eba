# make run: an agent you can talk to. make test: the whole test suite. Both make their environment in .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := local,openai,mic,codecs,mcp,docs,postgres,bench
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: setup run test check bench clean

setup: $(VENV)/.dev models web

run: $(VENV)/.run models web
	$(BIN)/rejoinder serve $(ARGS)

test: $(VENV)/.dev models web .speech/transcripts.tsv
	$(BIN)/rejoinder models pull smart-turn
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev models .speech/transcripts.tsv
	$(BIN)/rejoinder bench --sessions 100
	$(BIN)/rejoinder bench --turns
	$(BIN)/rejoinder bench --voice
	$(BIN)/python tests/benchmarks/sse.py
	$(BIN)/python tests/benchmarks/stream.py
	$(BIN)/python tests/benchmarks/figures.py
	$(BIN)/python tests/benchmarks/pages.py

.PHONY: models
models: $(VENV)/.run
	$(BIN)/rejoinder models pull

# The pages and the browser client (admin/web), if their sources have changed; by npm, or by one out of a Python package.
.PHONY: web
web: $(VENV)/bin/python
	$(BIN)/python admin/web/build.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet 'pip>=25.1'

$(VENV)/.run: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $@

$(VENV)/.dev: $(VENV)/.run
	$(PIP) install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]' --group dev
	touch $@

# Recorded human speech for tests and benchmarks; without it (no Debian package tools) those tests say so and skip.
.speech/transcripts.tsv: $(VENV)/.dev tests/fetch_speech.py
	-$(BIN)/python tests/fetch_speech.py .speech

clean:
	rm -rf $(VENV) .speech build dist admin/web/node_modules admin/rejoinder_admin/web

# Renew the pins: the newest versions that pyproject.toml allows, in an environment of their own.
.PHONY: lock
lock:
	rm -rf build/lock
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet 'pip>=25.1'
	build/lock/bin/python -m pip install --quiet --editable '.[$(EXTRAS)]' --group dev
	(head -1 constraints.txt; build/lock/bin/python -m pip freeze --exclude-editable --exclude pip) > build/constraints.txt
	mv build/constraints.txt constraints.txt

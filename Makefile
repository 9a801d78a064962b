# flightserve's commands. Everything is set up in .venv from a clean clone with Python 3.11, pip, make and git;
# pip's own settings (indexes, proxies, certificates) are used as they are.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PROTOC := build/grpcio-tools
ARGS ?=

# Hundreds of processes import what is here; some machines have a setting that each of them compiles it anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help venv run demo cluster test lowest daft check lint types contracts stubs docs bench bench-check bench-peers profiles peers chaos pictures fuzz proto format clean

help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

venv: $(STAMP)  ## Set up .venv with everything (again when pyproject.toml or constraints.txt changed)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "flightserve needs Python 3.11 or newer; name one with: make PYTHON=python3.11 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# After Ctrl-C the app drains and exits 0. GNU make was sent the signal as well, and when the recipe has ended it dies
# of it (status 130); no recipe can change that. For the app's own status: .venv/bin/python -m examples.flights.run
run: $(STAMP)  ## Serve the example on all frontends until Ctrl-C; options of `flightserve run` in ARGS="..."
	$(BIN)/python -m examples.flights.run $(ARGS)

demo: $(STAMP)  ## Call the examples through every protocol and client, and compare the answers
	$(BIN)/python -m examples.flights.demo $(ARGS)
	$(BIN)/python -m examples.delays.demo

cluster: $(STAMP)  ## Serve the flights on three Ray nodes of this machine, and kill one under load
	$(BIN)/python -m examples.cluster.demo $(ARGS)

# The tests wait a third of their time: four of their files at a time keep two cores busy, in an order in which some of
# them wait and some do not (tests/ordering.py).
test: $(STAMP)  ## Run the tests; pytest options in ARGS="..."
	$(BIN)/python -m pytest --numprocesses=4 --dist=loadfile --no-loadscope-reorder $(ARGS)

# By hand, and before what constraints-lowest.txt says changes: it sets up a second environment.
lowest: $(STAMP)  ## Run the protocols' tests with the oldest libraries that are taken
	$(PYTHON) -m venv --clear build/lowest
	build/lowest/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	build/lowest/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r constraints-lowest.txt
	build/lowest/bin/python -m pytest -q tests/frontends $(ARGS)

# Daft wants an older pyarrow than .venv has. The one lot of tests with it; by hand, and before constraints-daft.txt changes.
daft: $(STAMP)  ## Run the tests of engine='daft', and of what depends most on pyarrow, with what Daft needs
	$(PYTHON) -m venv --clear build/daft
	build/daft/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	build/daft/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r constraints-daft.txt
	build/daft/bin/python -m pytest -q tests/sql $(ARGS)

check: lint types contracts stubs docs test  ## Everything that CI runs

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/hadolint deploy/Containerfile
	$(BIN)/kubernetes-validate --strict --no-warn --quiet deploy/kubernetes/*.yaml

types: $(STAMP)  ## Check types: the code's own, and what users write (tests/typechecks), by mypy and pyright
	$(BIN)/mypy
	rm -rf build/project && $(BIN)/flightserve init build/project && $(BIN)/mypy build/project
	$(BIN)/python -m tests.typechecks

contracts: $(STAMP)
	$(BIN)/lint-imports --no-logo

stubs: $(STAMP) $(PROTOC)
	PYTHONPATH=$(PROTOC) $(BIN)/python -m flightserve.proto.generate --check

# An old one (`flightserve/proto/generate.py` says why), which needs older libraries than .venv has, but not to run.
$(PROTOC): constraints.txt | $(STAMP)
	rm -rf $@
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps --target $@ grpcio-tools
	@touch $@

# The variable is the theme's own: without it every build prints the date of its end of life (May 2027) and names its successor.
docs: $(STAMP)  ## Build the documentation into build/docs; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

bench: $(STAMP)  ## Measure flightserve against bare servers; prints tables, writes benchmarks/results/
	$(BIN)/python -m benchmarks $(ARGS)

bench-check: $(STAMP)  ## Has a change made something slower, by more than the noise? Options in ARGS="--slowed 0.5"
	$(BIN)/python -m benchmarks.guard $(ARGS)

profiles: $(STAMP)  ## Look where each process spends its time under load; texts in docs/measurements/profiles/
	$(BIN)/python -m benchmarks.profiles $(ARGS)

bench-peers: $(STAMP) peers  ## Measure flightserve beside other systems; tables and pictures; options in ARGS="--only json --slowed 0.5"
	$(BIN)/python -m benchmarks.contests $(ARGS)

# Each in an environment of its own below build/peers: nothing but benchmarks needs them.
peers: $(STAMP)  ## Install those that `make bench-peers` and `make bench` measure against
	$(BIN)/python -m benchmarks.peers.installing

chaos: $(STAMP)  ## Break a loaded system for 10 minutes and check that nothing is lost; options in ARGS="--minutes 2 --seed 7"
	$(BIN)/python -m tests.chaos $(ARGS)

fuzz: $(STAMP) build/schemathesis/.installed $(if $(findstring --atheris,$(ARGS)),build/atheris/.installed)  ## Send hostile bytes to a served app for 5 minutes; options in ARGS="--minutes 60 --seed 7 --only http,flight"
	$(BIN)/python -m tests.fuzz $(ARGS)

pictures: $(STAMP)  ## Take the pictures of docs/how-to/console.md anew, of the example under load; needs chromium
	$(BIN)/python -m tests.docs.console_pictures

# In an environment of its own: its plugin would be loaded by every run of pytest.
build/schemathesis/.installed: constraints.txt constraints-fuzz.txt
	$(PYTHON) -m venv --clear build/schemathesis
	build/schemathesis/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -c constraints-fuzz.txt schemathesis
	@touch $@

# Only where it is asked for: it is of use for the readers alone.
build/atheris/.installed: $(STAMP) constraints-fuzz.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --target build/atheris -c constraints-fuzz.txt atheris
	@touch $@

proto: $(STAMP) $(PROTOC)  ## Write the gRPC stubs again from flightserve/proto/
	PYTHONPATH=$(PROTOC) $(BIN)/python -m flightserve.proto.generate

format: $(STAMP)  ## Format the code and fix what ruff can fix
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## Remove what was built, downloaded or cached, .venv included
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	rm -rf examples/flights/data benchmarks/results
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

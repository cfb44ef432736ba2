# Everything happens in .venv; nothing is installed system-wide. Another interpreter: make demo PYTHON=python3.13
PYTHON ?= python3
VENV   ?= .venv
# Where the playground keeps its state; a short name, since sockets lie in it.
TESTBED ?= .testbed

BIN  := $(VENV)/bin
PIP  := $(BIN)/python -m pip --quiet --disable-pip-version-check install
LONG ?= 3600

.PHONY: help demo check lint types docs test testbed testbed-down testbed-packages hosts sweep bench clean

help:
	@echo "make demo    run 300 tasks on real files, see some fail, retry them, look at the result (under a minute)"
	@echo "make check   ruff, mypy --strict, strict documentation, all tests (installs what they need into $(VENV))"
	@echo "make testbed bring up Slurm, HTCondor, Redis and containers on this machine, to play with (as root on Debian: install them first)"
	@echo "make testbed-down      take them down"
	@echo "make testbed-packages  as root on Debian: install what tests bring up: file systems, containers, batch systems"
	@echo "make docs    build the documentation into site/"
	@echo "make hosts   all tests on network file systems (an hour)"
	@echo "make sweep   the long tests: kills at every operation, long random lives of a ledger (up to hours)"
	@echo "make bench   the benchmarks, side by side with other tools"
	@echo "make clean   remove $(VENV), caches and results"

demo: $(VENV)/.installed
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh examples/demo/demo.sh

check: lint types docs test

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy --strict

docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs --quiet build --strict

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto --dist worksteal

testbed-packages:
	@sh scripts/testbed.sh

testbed:
	@sh scripts/testbed.sh slurm accounting htcondor redis podman apptainer
	@$(PYTHON) -m tests.testbed up $(TESTBED)

testbed-down:
	@$(PYTHON) -m tests.testbed down $(TESTBED)

hosts: $(VENV)/.installed-dev
	sh scripts/testbed.sh moosefs sshfs nfs
	$(BIN)/python -m pytest -n auto -m "long or not long" tests/hosts

sweep: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto -m long --timeout $(LONG)

bench: $(VENV)/.installed
	-PYTHON=$(PYTHON) sh benchmarks/install_peers.sh .bench
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) .bench site build dist examples/demo/out benchmarks/out .mypy_cache .pytest_cache .ruff_cache .hypothesis

# The stamps make a second run start at once; a change of pyproject.toml installs again.
$(BIN)/pip: scripts/make_venv.py
	@$(PYTHON) scripts/make_venv.py $(VENV)
	@touch $@

$(VENV)/.installed: $(BIN)/pip pyproject.toml
	@echo "installing taskfarmer into $(VENV)"
	@$(PIP) --editable .
	@touch $@

$(VENV)/.installed-dev: $(BIN)/pip pyproject.toml
	@echo "installing taskfarmer and what its tests and documentation need into $(VENV)"
	@$(PIP) --editable '.[test,docs]'
	@touch $@ $(VENV)/.installed

# Everything runs in .venv, which `make setup` builds from pyproject.toml under constraints.txt.
PYTHON ?= python3
PROFILE ?=
DATASET ?=
# nproc obeys OMP_NUM_THREADS, which is 1 where threads are shared out; the cores are wanted.
CORES ?= $(shell env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)

READY := .venv/.ready
RUN := .venv/bin/python -m

# Runs and notebooks take their own locks and are written atomically, so Snakemake needs no lock that a kill leaves behind.
CONFIG := $(strip $(if $(PROFILE),profile=$(PROFILE)) $(if $(DATASET),dataset=$(DATASET)))
SNAKEMAKE := $(RUN) snakemake --cores $(CORES) --rerun-triggers mtime --rerun-incomplete --logger rich --quiet rules reason host --nolock

.DEFAULT_GOAL := help
.PHONY: help setup book test lab data bench gpu sweep soak lint clean

# Checkouts are moved and Pythons upgraded: .venv is ready only if its Python works and it was set up under this path.
WORKS := .venv/bin/python -c 'import pip' 2>/dev/null
ifneq ($(shell $(WORKS) && cat $(READY) 2>/dev/null),$(CURDIR))
.PHONY: $(READY)
endif

# Tools keep caches and settings in HOME; a user without one that can be written to gets one inside the checkout.
ifneq ($(shell test -d "$$HOME" && test -w "$$HOME" && echo usable),usable)
export HOME := $(CURDIR)/.cache/home
$(shell mkdir -p .cache/home)
endif

PROMISED := 'import sys; v = sys.version_info; sys.exit(None if (3, 11) <= v < (3, 14) else f"sslbook needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is {v[0]}.{v[1]}; name another one, as in: make setup PYTHON=python3.12")'

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## install everything into .venv; does nothing when it is up to date

$(READY): pyproject.toml constraints.txt
	@$(WORKS) || { $(PYTHON) -c $(PROMISED) && $(PYTHON) -m venv --clear .venv; }
	@echo "Installing exact versions into .venv, which takes minutes; what is done stands in .venv/setup.log"
	@rm -rf *.egg-info  # of an installation before this one, which Python would find first
	@{ $(RUN) pip install -c constraints.txt setuptools wheel && \
	$(RUN) pip install -c constraints.txt --no-build-isolation -e '.[book,test,bench,dev]'; } >.venv/setup.log 2>&1 || \
	{ tail -n 20 .venv/setup.log; echo "The installation failed; .venv/setup.log has all it said." >&2; exit 1; }
	@pwd -P >$@
	@echo "Installed. \`make help\` lists the commands."

book: setup ## compile the book to _build/html; PROFILE=smoke|laptop|paper and DATASET=... train what is missing first
	$(SNAKEMAKE) book $(if $(CONFIG),--config $(CONFIG))

test: setup ## run the tests, those in the browser if Chromium is there, those on real images if SSLBOOK_DATA is set
	OMP_NUM_THREADS=1 $(RUN) pytest -q --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

soak: setup ## run the tests that take minutes
	$(RUN) pytest -m slow

lint: setup ## check style and formatting
	$(RUN) ruff check .
	$(RUN) ruff format --check .

data: setup ## download a data set, CIFAR-100 unless DATASET=... names another
	$(RUN) sslbook.data $(or $(DATASET),cifar100)

# pythae brings old packages with it, so only those who measure install it.
bench: book ## measure speed and memory beside other libraries, and the book; print the tables and keep them for it
	@$(RUN) pip show -q pythae 2>/dev/null || $(RUN) pip install -q -c constraints.txt -e '.[peers]'
	$(RUN) benchmarks

gpu: setup ## ten minutes on a GPU: is all right, how fast is it; then train missing records of the paper profile
	$(RUN) benchmarks.gpu --time-limit $(or $(SECONDS),600)

sweep: setup ## train the runs that go beyond the papers, and no others; takes PROFILE and DATASET as book does
	$(SNAKEMAKE) sweep $(if $(CONFIG),--config $(CONFIG))

lab: setup ## open the notebooks in JupyterLab, installing it on first use
	$(RUN) jupyterlab --version >/dev/null 2>&1 || $(RUN) pip install -c constraints.txt -e '.[lab]'
	$(RUN) jupyterlab notebooks

clean: ## delete what can be rebuilt in minutes; keeps .venv, data and runs
	rm -rf _build .snakemake .pytest_cache .ruff_cache .hypothesis *.egg-info
	find sslbook tests benchmarks book -name __pycache__ -prune -exec rm -rf {} +

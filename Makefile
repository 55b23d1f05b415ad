# Each target makes .venv when it has to: `make PYTHON=python3.12 test` chooses the interpreter, and
# ARGS goes to the command that is run: `make quickstart ARGS=--config.seed=1`.

PY := .venv/bin/python
INPUTS := setup.cfg setup.py $(wildcard constraints-*.txt)
KINDS := slow parity faults launch browser install timed
SHORT := not $(subst $() $(), and not ,$(KINDS))
# Compiling keeps one core busy; tests in two processes keep two. Those that kill, serve, install or measure time go alone.
JOBS := 2
TOGETHER := -n $(JOBS) --dist worksteal
test-parity test-slow: private SIDE = $(TOGETHER)

.PHONY: help quickstart results results-full bench best-benchmark test $(KINDS:%=test-%) fuzz tables-smoke docs picture lint constraints clean

help:
	@echo 'make quickstart    fine-tune with five methods on the embedded benchmark, and write a report'
	@echo 'make results       36 methods, 3 and 10 labels, 5 seeds: tables of docs/results.md (two hours on two cores)'
	@echo 'make results-full  the papers'"'"' tables on the digits, 10 seeds, and their claims; goes on where it was stopped (hours)'
	@echo 'make test          the tests (15 minutes on two cores)'
	@echo 'make tables-smoke  try every cell of the papers'"'"' tables; goes on where it was stopped (ARGS: some of the tables)'
	@echo 'make bench         measure the speed of everything (an hour; leave the machine alone)'
	@echo 'make best-benchmark  `mixjax best` against scikit-learn and fine-tuning; goes on where it was stopped (12 hours)'
	@echo 'make docs          the documentation as a site, in site/'
	@echo 'make lint          ruff and pyright'
	@echo 'make test-KIND     the longer tests; KIND: $(KINDS)'
	@echo 'make fuzz          wrong files for all that reads files, MINUTES=2 of them'
	@echo 'make constraints   write constraints-pyXYY.txt again with the newest versions (PYTHON=...)'
	@echo 'make clean         remove .venv and everything that was built; runs/ stays'

quickstart: .venv/with-test
	$(PY) -m mixjax train --config=configs/quickstart.py --workdir=runs/quickstart $(ARGS)

# Figures that are written down are of CPUs, which everyone has.
results results-full: export JAX_PLATFORMS := cpu
results: .venv/with-test
	$(PY) -m mixjax train --config=configs/digits/all_methods.py --workdir=runs/all_methods $(ARGS)
	$(PY) -m mixjax train --config=configs/digits/later_methods.py --workdir=runs/later_methods $(ARGS)
	$(PY) -m mixjax train --config=configs/digits/unlabelled.py --workdir=runs/unlabelled $(ARGS)

results-full: .venv/with-test
	$(PY) -m reproduction.digits runs/digits_tables --train $(ARGS)

bench: .venv/with-test
	$(PY) -m benchmarks $(ARGS)

best-benchmark: .venv/with-test
	$(PY) -m reproduction.best runs/best $(ARGS)

# MINUTES=20 READER=images COUNT=10000: longer, one of them, at most so many inputs. Findings are kept in runs/fuzz.
MINUTES := 2
fuzz: .venv/with-test
	JAX_PLATFORMS=cpu $(PY) -m tests.hostile.fuzz --minutes=$(MINUTES) --reader='$(READER)' --count=$(COUNT)

# Tests see eight devices on any machine.
test $(KINDS:%=test-%): export JAX_PLATFORMS := cpu
test $(KINDS:%=test-%): export XLA_FLAGS := --xla_force_host_platform_device_count=8

# Most of their time is compiling; without LLVM's optimisations a quarter of it all is saved. The other kinds have them.
QUICK := --xla_backend_optimization_level=0
test: export XLA_FLAGS += $(QUICK)
test: .venv/with-test
	$(PY) -m pytest $(TOGETHER) -m '$(SHORT)' $(ARGS)

# pytest ends with 5 where nothing was collected.
$(KINDS:%=test-%): test-%: .venv/with-test
	@$(PY) -m pytest $(SIDE) -m $* $(ARGS) || { test $$? -eq 5 && echo 'no tests of this kind yet: $*'; }

tables-smoke: export JAX_PLATFORMS := cpu
tables-smoke: export XLA_FLAGS := $(QUICK)
tables-smoke: .venv/with-test
	$(PY) -m tests.tables.smoke $(ARGS)

# Strict: a link that leads nowhere, a page outside of the navigation or a public name without a docstring ends it.
# With --quiet mkdocs counts no warnings, and is not strict.
docs: export NO_MKDOCS_2_WARNING := 1
docs: .venv/with-docs
	.venv/bin/mkdocs build

# The pictures at the top of README.md, from a finished quickstart.
RUN := runs/quickstart
picture: .venv/with-test
	JAX_PLATFORMS=cpu $(PY) -m reproduction.picture $(RUN)

lint: .venv/with-lint
	.venv/bin/ruff check .
	.venv/bin/pyright --pythonpath $(PY)

# A stamp says what .venv holds. It is out of date when what it was made from has changed, when .venv no longer
# runs (its interpreter is gone) or an installation was stopped, and when PYTHON names another version.
HAS := $(if $(wildcard .venv/unfinished),,$(shell $(PY) -V 2>/dev/null))
WANTED := $(if $(PYTHON),$(shell $(PYTHON) -V 2>/dev/null),$(HAS))
ifeq ($(HAS),)
.PHONY: .venv/with-test
else ifneq ($(HAS),$(WANTED))
.PHONY: .venv/with-test
endif
export PYTHON

.venv/with-test: $(INPUTS)
	@.ci/venv test,report
	@touch $@

.venv/with-lint: .venv/with-test
	@.ci/venv lint
	@touch $@

.venv/with-docs: .venv/with-test
	@.ci/venv docs
	@touch $@

# For one interpreter: make constraints PYTHON=python3.12
constraints:
	@.ci/constraints

clean:
	rm -rf .venv build dist site *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

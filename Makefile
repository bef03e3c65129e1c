# `make demo` and `make test` do all their set-up themselves: the virtual environment, the
# compiler (a wheel), the native library and the guest programs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE := $(shell find native guests -type f -not -name '*.pyc' 2>/dev/null)
CONSTRAIN := -c constraints.txt
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check install $(CONSTRAIN)

# One more than cores: one of them waits for the lab, another for a timeout. More than four share
# too much memory.
WORKERS := $(shell cores=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1); \
	echo $$((cores < 3 ? cores + 1 : 4)))

.DEFAULT_GOAL := help
.PHONY: help demo test docs examples lab kernels pages lint types bench ab beside crash explain long faults fuzz scan web clean

help: ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1|/' | column -t -s '|' 2>/dev/null \
		|| grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## migrate a running MTE guest with its tags (options: ARGS="--json")
	@$(BIN)/tagalong demo $(ARGS)

test: $(VENV)/.installed-dev ## run all tests (options: ARGS="-k name")
	@$(BIN)/python -m tests.support.fetch_qemu
	@$(BIN)/python -m tests.support.fetch_debuggers
	-@$(BIN)/python -m tests.support.fetch_chromium & $(BIN)/tagalong lab setup --with-guest >/dev/null; wait
	@$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

docs: $(VENV)/.installed-docs ## build the documentation site in build/site (warnings are errors, links are checked)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs --quiet build --strict $(ARGS)

examples: $(VENV)/.installed-dev ## run every command of README and the guides, the slow ones too
	@TAGALONG_SLOW_EXAMPLES=1 $(BIN)/python -m pytest tests/docs $(ARGS)

lab: $(VENV)/.installed-dev ## set up the emulated Arm host and run the tests on its KVM
	@$(BIN)/tagalong lab setup
	@$(BIN)/python -m pytest tests/lab $(ARGS)

kernels: $(VENV)/.installed-dev ## run the tests inside the lab on Linux 6.1, 6.12 and 7.3, and the interpreter's there, on arm64
	@TAGALONG_LAB_KERNELS="6.1 6.12 7.3" $(BIN)/python -m pytest tests/lab/inside.txt $(ARGS)
	@TAGALONG_LONG=1 TAGALONG_LAB_KERNELS="6.1 6.12 7.3" $(BIN)/python -m pytest tests/lab/test_beside.py tests/lab/test_linux_seam.py tests/lab/test_looking.py $(ARGS)
	@for kernel in 6.1 6.12 7.3; do $(BIN)/tagalong lab run --kernel $$kernel --with-guest --ram 3G --timeout 3600 -- \
		env TAGALONG_LONG=1 python3 -m pytest -q tests/conformance/test_linux.py tests/conformance/test_linux_memory.py \
		tests/lab/test_guest_networks.py tests/lab/test_many_vcpus.py || exit 1; done
	@$(BIN)/tagalong lab run -- python3 -m pytest -q tests/unit/soft/test_threaded.py tests/unit/soft/test_debug.py tests/unit/soft/test_system.py tests/unit/soft/test_timers.py

PAGES = TAGALONG_LAB_KERNELS=7.3-16k
pages: $(VENV)/.installed-dev ## run the tests inside the lab on Linux 7.3 with pages of 16 KiB, and move guests between it and hosts with 4 KiB
	@$(PAGES) $(BIN)/python -m pytest tests/lab/inside.txt $(ARGS)
	@TAGALONG_LONG=1 $(PAGES) $(BIN)/python -m pytest tests/lab/test_pages.py $(ARGS)

lint: $(VENV)/.installed-dev ## check style and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev ## check types
	@$(BIN)/mypy

bench: $(VENV)/.installed-dev ## measure all that is wanted to be fast, beside QEMU 10 (of `make lab`), plain copies and others (30 minutes; options: ARGS="--rows 1,2")
	@$(BIN)/python -m bench.speed $(ARGS)

ab: $(VENV)/.installed-dev ## compare this tree's most important figures with the last release's, in turn; fails if one is worse (5 minutes; options: BASE=REV ARGS="--runs 9")
	@$(BIN)/python -m bench.ab $(if $(BASE),--base $(BASE)) $(ARGS)

BESIDE = $(BIN)/tagalong lab run --with-vmm --ram 4G --timeout 7200 --
beside: $(VENV)/.installed-dev ## migrate a Linux guest of QEMU 50 times in a row in the lab, then let migrations of it go wrong at every stage, and QEMU be told all that it knows (options: ARGS="fifty", ARGS="faults", ARGS="modes")
	@test -n "$(ARGS)" -a "$(ARGS)" != fifty || $(BESIDE) tagalong beside demo --migrations 50 --max-downtime 60000
	@test -n "$(ARGS)" || $(BESIDE) tagalong beside demo --migrations 5 --vcpus 4 --knobs "mib=8 rate=500 threads=4" --max-downtime 60000
	@test "$(ARGS)" = fifty || $(BESIDE) python3 -m tests.support.beside_trials $(ARGS)
	@test -n "$(ARGS)" || $(BIN)/tagalong lab run --with-vmm --ram 3G --timeout 1800 -- python3 -m tests.support.libvirt_calls

crash: $(VENV)/.installed-dev ## run the kernel's crash on dumps of Linux guests (fetches 600 MB once; 4 minutes)
	@$(BIN)/python -m tests.support.crash_run

explain: $(VENV)/.installed-dev ## let a program crash 600 times in the lab, simulate 4000 crashes, and measure how often `explain` is right
	@$(BIN)/python -m tests.support.mishaps build/mishaps --count 100 $(ARGS)
	@$(BIN)/python -m tests.support.measure build/mishaps
	@$(BIN)/python -m tests.support.crash_model --count 2000
	@$(BIN)/python -m tests.support.crash_model --count 2000 --equal

long: $(VENV)/.installed-dev ## compare random programs with QEMU for ten minutes
	@$(BIN)/python -m tests.support.fetch_qemu
	@$(BIN)/python -m tests.oracle.long --minutes 10 $(ARGS)

faults: $(VENV)/.installed-dev ## let thousands of migrations go wrong, by faults and by orders (options: ARGS="--orders 500")
	@TAGALONG_LONG=1 $(BIN)/python -m pytest -q tests/faults/test_beside.py
	@$(BIN)/python -m tests.faults.long $(ARGS)

fuzz: $(VENV)/.installed-dev ## damage the frozen streams at every byte, then fuzz the stream's codec for ten minutes (options: ARGS="--seconds 3600")
	@TAGALONG_LONG=1 $(BIN)/python -m pytest -q tests/golden/test_stream.py
	@$(BIN)/python -m tests.faults.fuzz_stream $(ARGS)

scan: $(VENV)/.installed-dev ## scan 10,000 crashes: with 1, 2 and 4 processes here, on Dask clusters of 1, 2 and 4 workers, and from an S3 bucket while workers are killed (options: ARGS="--count 1000")
	@$(BIN)/python -m tests.scan.long $(ARGS)

web: $(VENV)/.installed-dev ## show the web pages to a real Chromium, with mouse and keyboard (screenshots in build/web)
	@$(BIN)/python -m tests.support.fetch_chromium
	@$(BIN)/python -m pytest tests/web $(ARGS)

clean: ## remove everything that was built or fetched
	rm -rf $(VENV) build dist .cache src/tagalong/_lib .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tagalong needs Python 3.11 or newer: make PYTHON=python3.11")'
	@echo "Creating the virtual environment in $(VENV) ..." >&2
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.toolchain: $(VENV)/.created constraints.txt
	@echo "Fetching the build tools (once, about 100 MB) ..." >&2
	@$(PIP) hatchling ziglang
	@touch $@

$(VENV)/.installed: $(VENV)/.toolchain pyproject.toml $(NATIVE)
	@echo "Building the native library and the guest programs ..." >&2
	@$(PIP) --no-build-isolation --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Fetching the test tools ..." >&2
	@$(PIP) --no-build-isolation --editable '.[dev]'
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed-dev
	@echo "Fetching the documentation tools ..." >&2
	@$(PIP) --no-build-isolation --editable '.[docs]'
	@touch $@

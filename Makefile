# Two targets do everything, set-up included:
#   make mount [IMAGE=ubuntu.tar] [AT=/mnt/root] [OPTIONS="..."]
#   make check
SHELL := /bin/bash
VENV := .venv
PYTHON := $(VENV)/bin/python
AT ?= /mnt/imgmount
IMAGE ?=
MINUTES ?= 20
SECONDS ?= 60
# Processes that run tests side by side.
JOBS ?= $(shell nproc)
# Tests that mount nothing and run no other program.
QUICK := tests/words tests/image tests/native tests/rootfs tests/store tests/fuzz \
	tests/cli/test_mount_options.py tests/cli/test_overlay_words.py tests/cli/test_run_flags.py \
	tests/cli/test_template.py --ignore tests/words/test_documented_commands.py

.PHONY: mount check quick long setup lint native-check test stress soak faults fuzz install clean

mount: setup
	@scripts/make-mount "$(IMAGE)" "$(AT)" $(OPTIONS)

setup:
	@scripts/setup run

# What a newcomer runs before a change: set-up, lint, C under sanitizers, all tests.
check:
	@scripts/setup check
	@$(MAKE) --no-print-directory -j$(JOBS) -O lint native-check
	@$(MAKE) --no-print-directory test

lint:
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	@clang-format --dry-run --Werror native/*/*.[ch]

# The jobs of `make check`, or jobs of its own.
PARALLEL = $(if $(findstring -j,$(MAKEFLAGS)),,-j$(JOBS))
native-check:
	@$(MAKE) --no-print-directory $(PARALLEL) -C native/tests check
	@$(MAKE) --no-print-directory $(PARALLEL) -C native/fuzz check

# One process more than processors: tests wait a quarter of their time, for mounts and programs.
test:
	@scripts/test -n $$(($(JOBS) + 1))

# For the inner loop, 90 seconds: what needs no mount, no other program and no second process.
quick:
	@scripts/setup check
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory -j$(JOBS) -C native/tests units
	@scripts/test -q -n $(JOBS) $(QUICK)

# Before a release: all tests three times in random order, once beside a load, mounts of compressed
# layers, and every fault.
long:
	@scripts/long

# A mount under sanitizers with stress-ng on it: two minutes, not part of check.
stress: setup
	@scripts/setup bench
	@scripts/stress

# Random operations and programs on a mount and on a local disk, for MINUTES; not part of check.
soak:
	@scripts/setup check
	@scripts/setup soak
	@scripts/soak --minutes $(MINUTES)

# A killed daemon and a failing disk at every single step of every operation: half an hour.
faults: setup
	@scripts/setup check
	FAULTS=all scripts/test tests/faults

# Each fuzz target in turn for SECONDS (TARGETS="tar pax": only these); `make check` runs what was
# found so far.
fuzz:
	@scripts/setup check
	@scripts/setup fuzz
	@scripts/fuzz --seconds $(SECONDS) $(TARGETS)

# The command on everybody's PATH, for mount(8) and fstab.
install: setup
	ln -sf "$(CURDIR)/$(VENV)/bin/imgmount" /usr/local/bin/imgmount

clean:
	rm -rf build *.egg-info $(VENV) fusemount/*.so
	$(MAKE) --no-print-directory -C native/tests clean
	$(MAKE) --no-print-directory -C native/fuzz clean

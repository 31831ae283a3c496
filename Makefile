# What an admin or a developer does with a checkout; `make help` lists it.
#
# Everything lives in .venv: the compiled build, as a normal install makes it, and in .venv/pure the interpreted one,
# which PYTHONPATH puts in front. Tests import an installed build, never the checkout's ctfw/ (PYTHONSAFEPATH keeps it
# out, tests/test_build.py asserts which build runs). As root in somebody's checkout (`sudo make demo`) only what needs
# root runs as root: what is written there belongs to its owner.

PYTHON   ?= /usr/bin/python3
PREFIX   ?= /usr/local
PACKAGES := python3-venv python3-dev gcc libnetfilter-queue-dev libsystemd-dev pkg-config iptables nftables iproute2 \
            conntrack systemd python3-yaml python3-systemd man-db

OWNER := $(shell stat -c %u .)
ifeq ($(shell id -u),0)
  # AS_OWNER: as the owner of the checkout. AS_ROOT: as root, if only as that of a user namespace of our own.
  AS_OWNER := $(if $(filter-out 0,$(OWNER)),setpriv --reuid=$(OWNER) --regid=$(shell stat -c %g .) --clear-groups \
        env HOME=$(or $(shell getent passwd $(OWNER) | cut -d: -f6),/nonexistent))
else
  AS_ROOT := $(shell unshare -Urnm true 2>/dev/null && echo unshare -Urnm)
endif

# A build is stamped with what it was made from: an edit, a deletion or another branch makes it again, and nothing else
# does. (Below [tool.ruff], pyproject.toml holds only settings of the checks.)
PROJECT := $(shell (echo $(PYTHON); sed '/^\[tool.ruff\]/,$$d' pyproject.toml) | sha256sum | cut -c1-16)
SOURCES := $(shell (echo $(PROJECT); find ctfw setup.py -name '*.py' | LC_ALL=C sort | xargs sha256sum) | sha256sum | cut -c1-16)
DEPS    := .venv/.dependencies-$(PROJECT)
BUILT   := .venv/.compiled-$(SOURCES)
PURE    := .venv/.interpreted-$(SOURCES)
SERVERS := $(if $(filter 0,$(shell id -u)),.venv/servers)

PIP     := $(AS_OWNER) .venv/bin/python -m pip --quiet --disable-pip-version-check
INSTALL := $(PIP) install --no-deps --no-build-isolation --force-reinstall
WANTED  := $(PYTHON) -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb")); t = p["project"]; \
           print(*p["build-system"]["requires"], *t["dependencies"], *t["optional-dependencies"]["dev"])'
PYTEST  := .venv/bin/python -m pytest -q

export PYTHONSAFEPATH = 1
export PYTHONDONTWRITEBYTECODE = 1
export PATH := $(PATH):/usr/sbin:/sbin:$(CURDIR)/.venv/servers/usr/sbin:$(CURDIR)/.venv/servers/usr/bin

.PHONY: help venv demo install uninstall deb test test-compiled test-interpreted lint types format docs mutation bench bench-quick clean packages

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*##  */\1\t/p' Makefile | expand -t 20

demo: $(BUILT)  ## ctfw on a gateway made of network namespaces: real traffic and what ctfw says to it
	@PYTHONPATH=tests .venv/bin/python -m lab.demo --record demo.pcapng

venv: $(BUILT)  ## make .venv/bin/ctfw, compiled

install: $(BUILT)  ## put it into PREFIX (/usr/local), below DESTDIR; what runs needs neither this checkout nor a compiler
	@.venv/bin/python packaging/install.py --destdir "$(DESTDIR)" --prefix "$(PREFIX)"

uninstall:  ## take that away again; /etc/ctfw stays, and what was changed in /etc/logrotate.d
	@$(PYTHON) packaging/install.py --destdir "$(DESTDIR)" --prefix "$(PREFIX)" --uninstall

deb: $(BUILT)  ## make a Debian package in dist/
	@$(AS_OWNER) .venv/bin/python packaging/debian/build.py dist

test: lint types $(SERVERS) test-compiled test-interpreted  ## everything that can be tested, on both builds

test-compiled: $(BUILT)  ## the tests on the compiled build
	@CTFW_EXPECT_BUILD=compiled $(AS_OWNER) $(PYTEST) -m 'not kernel' -n 2
	@CTFW_EXPECT_BUILD=compiled $(AS_ROOT) $(PYTEST) -m kernel -n 2 -p no:cacheprovider

test-interpreted: $(PURE)  ## the tests on the interpreted build
	@CTFW_EXPECT_BUILD=interpreted PYTHONPATH=.venv/pure $(AS_OWNER) $(PYTEST) -m 'not kernel' -n 2
	@CTFW_EXPECT_BUILD=interpreted PYTHONPATH=.venv/pure $(AS_ROOT) $(PYTEST) -m 'kernel and not systemd' -n 2 -p no:cacheprovider

lint: $(DEPS)  ## ruff: lint and format
	@$(AS_OWNER) .venv/bin/ruff check . && $(AS_OWNER) .venv/bin/ruff format --check .

types: $(DEPS)  ## mypy --strict
	@$(AS_OWNER) .venv/bin/mypy

format: $(DEPS)  ## let ruff write the format it wants
	@$(AS_OWNER) .venv/bin/ruff format .

docs: $(BUILT)  ## write the generated parts of docs/ anew
	@.venv/bin/python docs/diagrams.py

mutation: $(BUILT)  ## spoil the engine line by line: does a test notice each time?
	@PYTHONPATH=tests $(AS_ROOT) .venv/bin/python -m mutation.check

.venv/servers: | $(DEPS)
	@echo "ctfw: fetching FTP, IRC, TFTP and SIP programs for the tests into $@ (not installing them)"
	@sh tests/lab/servers.sh $@ && chown -R $(OWNER) $@

bench: $(PURE)  ## what it costs, as a table with targets: about ten minutes, as root; figures in .venv/bench.json
	@PYTHONPATH=bench:tests $(AS_ROOT) .venv/bin/python bench/run.py --pure .venv/pure --output .venv/bench.json

bench-quick: $(BUILT)  ## what the engine alone costs, and what rules cost: under a minute, without root
	@PYTHONPATH=bench:tests .venv/bin/python bench/run.py --quick

clean:  ## remove whatever make made here
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis demo.pcapng
	find . -name __pycache__ -prune -exec rm -rf {} +

packages:
	@missing=$$(for p in $(PACKAGES); do dpkg-query -Wf '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	set -- $$missing; if [ $$# = 0 ] || ! command -v dpkg >/dev/null; then exit 0; fi; \
	if [ $$(id -u) != 0 ]; then echo "ctfw: packages missing: sudo apt-get install $$*" >&2; exit 1; fi; \
	echo "ctfw: installing the packages $$*"; export DEBIAN_FRONTEND=noninteractive; \
	apt-get -qq update && apt-get -qq install -y --no-install-recommends $$* >/dev/null

$(DEPS): | packages
	@echo "ctfw: installing the Python packages into .venv"
	@rm -rf .venv && $(AS_OWNER) $(PYTHON) -m venv .venv && $(PIP) install --use-pep517 $$($(WANTED))
	@$(AS_OWNER) touch $@

$(BUILT): $(DEPS)
	@echo "ctfw: compiling" && $(INSTALL) .
	@rm -f .venv/.compiled-* && $(AS_OWNER) touch $@

$(PURE): $(BUILT)
	@rm -rf .venv/pure && CTFW_PURE=1 $(INSTALL) --target .venv/pure .
	@rm -f .venv/.interpreted-* && $(AS_OWNER) touch $@

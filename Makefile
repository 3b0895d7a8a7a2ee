# terwayd: each target installs what it needs on a fresh Debian 12, as root.
#
#   make demo        a LAN, two nodes and six pods, live, in under a minute; KEEP=1 stays up to play with
#   make test        the tests that fit in half an hour on two cores
#   make test-full   and those that take longer
#   make check       format, lint and types
#   make bench       how long attaching takes, beside others
#   make deb         dist/terwayd_<version>_all.deb

export PATH := /usr/sbin:/usr/bin:/sbin:/bin
export DEBIAN_FRONTEND := noninteractive
PYTHON := /usr/bin/python3

LAB := iproute2 iputils-ping kmod nftables procps psmisc util-linux dnsmasq-base \
	python3-pyroute2 python3-typer python3-systemd python3-rich
TESTS := $(LAB) python3-pytest python3-pytest-xdist python3-hypothesis python3-jsonschema python3-yaml apt-utils gnupg mmdebstrap systemd-container tcpdump \
	containerd runc podman busybox-static curl iptables openssl containernetworking-plugins \
	kea-dhcp4-server isc-dhcp-server udhcpd faketime
EMULATOR := qemu-system-x86
BUILD := build-essential debhelper dh-python pybuild-plugin-pyproject python3-all python3-setuptools \
	bash-completion lintian
BESIDE := --numprocesses 3 --dist loadfile
TOOLS := ruff==0.14.5 mypy==1.18.2

.PHONY: demo bench test test-full check format deb clean

demo:
	@packaging/need $(LAB)
	@$(PYTHON) -m tests.demo $(if $(KEEP),--keep)

bench:
	@packaging/need $(LAB) containernetworking-plugins mmdebstrap
	@$(PYTHON) -m tests.bench $(ROUNDS)

test: deb
	@packaging/need $(TESTS)
	$(PYTHON) -m pytest -m "not long and not alone" $(BESIDE)
	$(PYTHON) -m pytest -m "not long and alone"

test-full: deb
	@packaging/need $(TESTS) $(EMULATOR)
	$(PYTHON) -m pytest -m "not alone" $(BESIDE)
	$(PYTHON) -m pytest -m alone

check: .venv/tools
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

format: .venv/tools
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

.venv/tools: Makefile
	@packaging/need $(TESTS) python3-venv
	$(PYTHON) -m venv --system-site-packages .venv
	.venv/bin/pip install --quiet --disable-pip-version-check $(TOOLS)
	@touch $@

deb:
	@packaging/need $(BUILD)
	packaging/build-deb

clean:
	rm -rf build dist .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info

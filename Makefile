# make help says what there is.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules
export PATH := $(PATH):/usr/local/go/bin
# The kernel and everything else bring their own flags.
unexport GOOS GOARCH

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
COMMIT ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
FUZZTIME ?= 1m

# The tag leaves out what urfave/cli makes manual pages with: compiling its
# regular expressions would be most of what a start of runv does.
GOBUILD := CGO_ENABLED=0 go build -trimpath -tags urfave_cli_no_docs -ldflags
GOFILES := go.mod go.sum $(shell find agent cmd guest-rootfs internal virtio vmm -name '*.go' -not -name '*_test.go' 2>/dev/null)
KERNELFILES := $(shell find kernel -type f \( -name build -o -name config -o -path 'kernel/patches/*' -o -path 'kernel/tsi/*' \))

.PHONY: all
all: bin/runv ## build bin/runv: static, with the guest's kernel and root inside

.PHONY: help
help: ## show this
	@sed -n 's/^\([a-z]*\):[^#]*## /  make \1\t/p' Makefile | expand -t 20

# Variables' values as files that change only when the values do.
.PHONY: FORCE
bin/.version: FORCE
	@mkdir -p bin; [[ $$(cat $@ 2>/dev/null) == '$(VERSION) $(COMMIT)' ]] || echo '$(VERSION) $(COMMIT)' >$@
bin/.kernel-src: FORCE
	@mkdir -p bin; [[ -e $@ && $$(<$@) == '$(KERNEL_SRC)' ]] || echo '$(KERNEL_SRC)' >$@

# Installs what a build lacks; a file, so that it is looked into once.
bin/.deps: tests/deps
	@mkdir -p bin; tests/deps build && touch $@

# kernel/build keeps kernels by content outside the tree, and leaves an equal
# bin/vmlinux alone.
bin/vmlinux: $(KERNELFILES) bin/.kernel-src
	@kernel/build -o $@ >/dev/null && touch $@

bin/runv-agent: $(GOFILES) bin/.version | bin/.deps
	$(GOBUILD) "-s -w -X main.version=$(VERSION)" -o $@ ./cmd/runv-agent

bin/initrd.cpio: bin/runv-agent $(GOFILES)
	go run ./guest-rootfs/mkinitrd -o $@ -agent bin/runv-agent

bin/.runv.elf: $(GOFILES) bin/.version | bin/.deps
	$(GOBUILD) "-s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)" -o $@ ./cmd/runv

# The guest's kernel and root become sections, compressed.
bin/.kernel.lz4: bin/vmlinux $(GOFILES)
	@go run ./internal/assets/mkassets -o $@ $<

bin/.initrd.lz4: bin/initrd.cpio $(GOFILES)
	@go run ./internal/assets/mkassets -o $@ $<

bin/runv: bin/.runv.elf bin/.kernel.lz4 bin/.initrd.lz4
	@echo "bin/runv: adding the guest's kernel and root"
	@objcopy --add-section .runv.kernel=bin/.kernel.lz4 --add-section .runv.initrd=bin/.initrd.lz4 bin/.runv.elf $@.tmp
	@mv $@.tmp $@

.PHONY: demo
demo: ## build, then run a container in a microVM and show it
	@tests/demo

.PHONY: test
test: lint unit integration ## everything: linters, unit tests with fuzz seeds, integration tests on the test host

.PHONY: lint
lint: ## gofmt, go vet, staticcheck, shellcheck and the rules of CONTRIBUTING.md
	@tests/deps test
	@tests/suite lint

.PHONY: unit
unit: ## unit tests, the fuzz targets' seeds included
	@tests/deps test
	@tests/suite unit

.PHONY: integration
integration: bin/runv ## integration tests, on the test host
	@tests/deps test
	@tests/suite integration

.PHONY: bench
bench: bin/runv ## runv beside crun, runc, runsc and QEMU microvm: a table, JSON and a chart; PARTS, ROUNDS (5)
	@tests/deps bench
	@tests/bench/run

.PHONY: chaos
chaos: bin/runv ## ROUNDS (200) lifecycles on the test host, in each of which something is killed
	@tests/deps test
	@CGO_ENABLED=0 go build -o bin/chaos ./tests/chaos
	@tests/host/run -t 7200 -- bin/chaos -rounds $(or $(ROUNDS),200) </dev/null

.PHONY: hostile
hostile: ## guests that attack the VMM, with a /dev/kvm of any kind: a table, and bin/hostile/table.md
	@tests/deps test
	@mkdir -p bin/hostile
	@RUNV_HOSTILE_TABLE=$(CURDIR)/bin/hostile/table.md go test -count=1 -v ./tests/hostile
	@tests/hostile/mutate

.PHONY: faults
faults: bin/runv ## hosts that fail: full, out of descriptors, without KVM, stopped …, on the test host
	@tests/deps test
	@tests/suite integration tests/faults

.PHONY: sockets
sockets: bin/runv ## every socket call natively and in a guest, on the test host, compared line by line
	@tests/deps test
	@tests/suite sockets

.PHONY: soak
soak: bin/runv ## an hour (RUNV_TEST_MIX, in seconds) of short connections, with resets, in and out of a guest
	@tests/deps test
	@RUNV_TEST_MIX=$(or $(RUNV_TEST_MIX),3600) RUNV_TEST_ONLY=TestMix tests/suite sockets

.PHONY: clones
clones: bin/runv ## RUNV_TEST_CLONES (1000) clones of one template, 20 at a time, in a host of 4 GiB: no failure, nothing left
	@tests/deps test
	@tests/suite clones

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME (1m)
	@tests/deps build
	@tests/suite fuzz $(FUZZTIME)

.PHONY: cage
cage: bin/runv ## trace the integration tests: is every system call that is allowed made
	@tests/deps test
	@tests/cage/run

.PHONY: clean
clean: ## remove bin/; built kernels stay in the cache
	rm -rf bin

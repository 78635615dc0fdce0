# Kelson is built by this file alone; `make help` lists what it does.
SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# N of the release v1.x.y+kelson<N>, and how hard the payload is compressed.
KELSON_REVISION ?= 1
PAYLOAD_LEVEL   ?= 3
# Arguments of `make run`, for example ARGS="--data-dir /tmp/k".
ARGS            ?=

export GOFLAGS := -trimpath -tags=netgo,osusergo,sqlite_omit_load_extension,providerless,urfave_cli_no_docs,no_btrfs,no_devmapper,no_zfs,no_aufs,grpcnotrace,static_build

BUILD    = go run ./embed/build -revision $(KELSON_REVISION)
# The last two are for the test of the plugin that is written in Python.
DEBS     = gcc libc6-dev libseccomp-dev pkg-config zstd git python3-grpcio python3-protobuf
BUF      = cd sdk/proto && go tool -modfile=../../.tools/buf.mod buf
CONTRACT = $(BUF) build --as-file-descriptor-set --exclude-source-info
# Packages that link neither Kubernetes nor containerd are tested with -race.
HEAVY    = k8s.io/(kubernetes|apiserver|client-go|kubectl)|containerd/containerd
PACKAGES = $$(go list -f '{{.ImportPath}}' ./core/... ./cmd/... ./embed/... ./plugins/... | grep -v /core/internal/e2e)

.PHONY: help
help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: build ## Build, then start a server (as root)
	exec dist/kelson server $(ARGS)

.PHONY: build
build: deps images ## Build dist/kelson, compressed fast
	$(BUILD) -level $(PAYLOAD_LEVEL)

.PHONY: dist
dist: ## Build dist/kelson as it is shipped, and check its size
	$(MAKE) build PAYLOAD_LEVEL=19
	@size=$$(stat -c %s dist/kelson); echo "dist/kelson: $$size bytes, budget 115343360"; test $$size -le 115343360

.PHONY: images
images: deps ## Build the system images to dist/images
	@if [ -d embed/images/build ]; then go run ./embed/images/build -out dist/images; fi

.PHONY: test
test: build test-unit test-e2e ## Build and run all tests (as root)

.PHONY: test-unit
test-unit: ## Run the tests of the packages
	@all=$(PACKAGES); heavy=$$(go list -f '{{.ImportPath}} {{join .Deps " "}} {{join .TestImports " "}} {{join .XTestImports " "}}' $$all | grep -E '$(HEAVY)' | cut -d' ' -f1 || true); \
	light=$$(grep -vxF -f <(printf '%s\n' "$$heavy") <(printf '%s\n' $$all) || true); \
	export KELSON=$(CURDIR)/dist/kelson KELSON_PAYLOAD=$(CURDIR)/dist/payload KELSON_TEST_BIN=$(CURDIR)/dist/payload/bin; \
	go test -race $$light; go -C sdk test -race ./...; [ -z "$$heavy" ] || go test $$heavy

.PHONY: next
next: images ## Build dist/next/kelson, one revision later, for the test of an upgrade
	@mkdir -p dist/next; ln -sfn ../images dist/next/images
	go run ./embed/build -dist dist/next -revision $$(($(KELSON_REVISION) + 1)) -level $(PAYLOAD_LEVEL)

.PHONY: test-e2e
test-e2e: next ## Run the end-to-end tests on dist/kelson (as root)
	KELSON=$(CURDIR)/dist/kelson KELSON_NEXT=$(CURDIR)/dist/next/kelson KELSON_PAYLOAD=$(CURDIR)/dist/payload go test ./core/internal/e2e/... -count=1 -timeout 30m

.PHONY: lint
lint: ## Run the linters
	go tool -modfile=.tools/go.mod golangci-lint run ./...
	cd sdk && go tool -modfile=../.tools/go.mod golangci-lint run --config ../.golangci.yml ./...
	$(BUF) lint
	$(BUF) breaking --against released.binpb
	@$(CONTRACT) -o -#format=binpb | cmp - ../samples/python/pybridge/contract.binpb || { echo "sdk/proto has changed: run make proto"; exit 1; }

.PHONY: proto
proto: ## Generate the code of the plugin contracts from sdk/proto
	$(BUF) generate
	$(CONTRACT) -o ../samples/python/pybridge/contract.binpb

.PHONY: proto-release
proto-release: ## Promise the contracts as they are: what `make lint` compares with from now on
	$(BUF) build --exclude-source-info -o released.binpb

.PHONY: bench
bench: dist ## Measure the budgets of the architecture on the shipped file (as root)
	KELSON=$(CURDIR)/dist/kelson go test ./core/internal/bench/... -count=1 -timeout 90m -v -bench . -run '^$$'

.PHONY: clean
clean: ## Remove dist; downloads and the Go build cache stay
	rm -rf dist

.PHONY: deps
deps: ## Install the Debian packages that the build needs
	@missing=$$(dpkg-query -W -f='$${Package} $${Status}\n' $(DEBS) 2>/dev/null | awk '/install ok installed/ { have[$$1] } END { n = split("$(DEBS)", want, " "); for (i = 1; i <= n; i++) if (!(want[i] in have)) print want[i] }'); \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" != 0 ]; then echo "the build needs Debian packages; as root: apt-get install -y --no-install-recommends" $$missing >&2; exit 1; fi; \
	apt-get update -qq; DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing

.PHONY: debian-lock
debian-lock: deps ## Pin the Debian packages of bin/aux anew in embed/debian.lock
	$(BUILD) -update-debian-lock

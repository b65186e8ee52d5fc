# nodetap. Everything that a target needs beyond Go, it installs by itself.
.DEFAULT_GOAL := help
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
GO_BUILD = CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)'

.PHONY: help build demo test test-vm e2e bench soak generate lint image clean

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

build: ## bin/nodetap, static
	$(GO_BUILD) -o bin/nodetap ./agent

demo: build ## the agent and three small services on this machine; Ctrl-C ends it
	@go build -o bin/demo ./test/demo
	@exec bin/demo -agent bin/nodetap

test: build ## unit, integration and BPF tests
	test/setup.sh
	go test -count=1 ./...
	cd test/promparse && go test -count=1 ./...
	cd test/manifests && go test -count=1 ./...
	cd dashboards && go test -count=1 ./...

test-vm: build ## the BPF objects and cgroup v2 on other kernels, emulated
	go test -tags vm -timeout 45m -v ./test/vm

e2e: ## a real Kubernetes, receivers that are not ours
	test/e2e/run.sh

bench: build ## the benchmarks, each with its figures (see README)
	go run ./test/bench/logs -mode catchup -runs 3
	go run ./test/bench/logs -mode catchup -out forward -runs 3
	go run ./test/bench/logs -mode live -duration 10s -runs 3
	go run ./test/bench/logs -mode idle -duration 10s -runs 3
	for i in 1 2 3; do go run ./test/bench/scrape -idle 10s || exit 1; done
	go run ./test/bench/trace

soak: ## what takes too long for CI: long fuzzing, five idle minutes, the race detector
	go test -race ./...
	test/fuzz.sh 2m
	test/e2e/run.sh -soak

generate: ## BPF objects and generated pages (needs clang-16; test/setup.sh -clang installs it)
	go generate ./...
	go test ./agent -run TestPages -update
	cd dashboards && go run .

lint: ## golangci-lint, pinned in test/lint
	cd test/lint && go build -o ../../bin/golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	bin/golangci-lint run ./...

image: ## dist/nodetap.tar: a scratch image for amd64 and arm64, without a daemon
	go run ./manifests/image -version $(VERSION) -o dist/nodetap.tar

clean: ## remove what was built
	rm -rf bin dist

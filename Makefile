# Everything here works on a machine with Go and nothing running, as root and as
# an ordinary user. What is missing is installed, or its one line is printed.
SHELL := /bin/sh
.DEFAULT_GOAL := help
export CGO_ENABLED ?= 1
# Go keeps its caches under the home folder, which some builders do not set.
export HOME ?= $(CURDIR)/bin/home

TEMPORAL_CLI := github.com/temporalio/cli/cmd/temporal@v1.5.1
TOOL := go -C tools build -o ../bin/

.PHONY: help build demo test model spin chromium lint vuln generate bench clean install race e2e replay chaos

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: ## install PostgreSQL's binaries when there are none
	@sh tools/install.sh

build: bin/temporal ## build bin/fanfare, and bin/temporal when there is none on the PATH
	go build -trimpath -o bin/fanfare ./cmd/fanfare

# Built once. A temporal on the PATH is used instead.
bin/temporal:
	@mkdir -p bin
	@if command -v temporal >/dev/null 2>&1; then \
		ln -sf "$$(command -v temporal)" bin/temporal; \
	else \
		echo "building the temporal CLI once: some minutes"; \
		GOBIN="$(CURDIR)/bin" GOFLAGS= go install $(TEMPORAL_CLI); \
	fi

demo: install build ## start everything and watch an article reach 10,000 subscribers
	bin/fanfare dev --demo 10000

test: install spin chromium build model race e2e ## run every test: model, unit, replay, race and end to end

# The packages' tests, with the race detector. Real PostgreSQL and real Temporal
# where a package touches them.
race:
	go test -race -timeout 15m $$(go list ./... | grep -v /e2e)

# The real binary, without the race detector: it is killed and frozen here.
e2e:
	go test -count=1 -timeout 20m -parallel 6 ./e2e/...

# SEED repeats an earlier run; without one it is drawn, and printed.
MINUTES ?= 5
chaos: install build ## hurt everything at random for MINUTES (5), heal it, and count; SEED repeats a run
	go test -count=1 -v -timeout 0 -run '^TestChaos$$' ./e2e -chaos.minutes=$(MINUTES) -chaos.seed=$(or $(SEED),0)

model: spin ## check the model of the protocol, and that it can fail
	@sh tools/model.sh

spin chromium:
	@sh tools/install.sh $@

lint: bin/golangci-lint bin/workflowcheck ## check format, style, imports and determinism
	bin/golangci-lint fmt --diff
	go vet ./...
	bin/golangci-lint run
	bin/workflowcheck -test=false ./workflows/...
	go mod tidy -diff
	@if command -v shellcheck >/dev/null 2>&1; then shellcheck tools/*.sh deploy/temporal/*.sh .ci/run; else sh -n tools/install.sh; fi

# Developer tools, at the versions in tools/go.mod, built once.
bin/golangci-lint: tools/go.mod
	$(TOOL) github.com/golangci/golangci-lint/v2/cmd/golangci-lint
bin/workflowcheck: tools/go.mod
	$(TOOL) go.temporal.io/sdk/contrib/tools/workflowcheck
bin/oapi-codegen: tools/go.mod
	$(TOOL) github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen
bin/govulncheck: tools/go.mod
	$(TOOL) golang.org/x/vuln/cmd/govulncheck

generate: bin/oapi-codegen ## write the code that comes from server/openapi.yaml
	go generate ./...

vuln: bin/govulncheck ## ask the vulnerability database; needs a network
	bin/govulncheck ./...

bench: install build ## measure a publication to 1,000,000 subscribers
	bin/fanfare bench publish --subscribers 1000000

clean: ## remove what was built
	rm -rf bin

# Lattice: everything that is run by hand or by CI. `make help` explains the targets.

CARGO ?= cargo
PROFILE_DIR := target/release
# What is tested and checked, beyond what is built by default: the second storage engine.
# And the programs of the tests.
FEATURES := --features lattice/redb,lattice-tests/programs

.DEFAULT_GOAL := help
.PHONY: help build demo test crash durability bitrot schemathesis hostile check fmt lint doc deny bench bench-store bench-reconcile bench-serving bench-gateway proto proto-baseline simulate clients planted bench-heal network fuzz clean

help: ## Show this list
	@echo "Usage: make <target>"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build the five binaries, optimized, into target/release
	$(CARGO) build --release --workspace --bins

demo: build ## Build, then watch three real nodes lose each other and heal
	$(PROFILE_DIR)/lattice demo --fast --exit

test: ## Run every test: units, properties, simulation, real processes and sockets
	$(CARGO) build --workspace --bins $(FEATURES)
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
		$(CARGO) nextest run --workspace $(FEATURES); \
	else \
		$(CARGO) test --workspace $(FEATURES) --lib --bins --tests --no-fail-fast 2>&1 | tee target/test.log | grep -v '^test .* ok$$'; \
		awk '/^test result:/ { passed += $$4; failed += $$6 } \
			END { printf "%d passed, %d failed\n", passed, failed; exit failed > 0 || passed == 0 }' target/test.log; \
	fi

simulate: ## Simulate clusters in which everything goes wrong; SEEDS=n, SEED=n for one, ARGS='--help'
	$(if $(SEED),SIMULATION_TRACE=1) $(CARGO) run -p lattice-tests --features programs --bin simulate -- \
		$(if $(SEED),--seed $(SEED),$(if $(SEEDS),--seeds $(SEEDS))) $(ARGS)

planted: ## Plant bugs one at a time in a copy of the sources, and see that the simulation finds each; ARGS='--help'
	$(CARGO) run -p lattice-tests --features programs --bin planted -- $(ARGS)

crash: ## Kill a store under load 300 times (CRASH_KILLS, CRASH_SEED), and check all it had acknowledged
	CRASH_KILLS=$(or $(CRASH_KILLS),300) $(CARGO) test -p state-store --test it crash:: -- --nocapture

durability: ## Show that a write is on the disk before its answer, and what clients see when the disk fails (needs strace)
	$(CARGO) test -p state-store --features redb --test it -- --nocapture --test-threads=1 durability full_disk

bitrot: ## Flip bits and tear writes in every file of a store, 200 times; CASES=n, SEED=n
	LATTICE_BITROT_CASES=$(or $(CASES),200) $(if $(SEED),LATTICE_BITROT_SEED=$(SEED)) \
		$(CARGO) test -p state-store --test bitrot -- --nocapture every_flip_and_tear_is_accounted_for

schemathesis: ## Walk the API with made-up requests: no server error, no undocumented answer; EXAMPLES=n, SEED=n
	$(CARGO) build -p lattice
	tests/schemathesis.sh $(ARGS)

hostile: ## Let a peer lie in every way over both paths, and print what became of it
	$(CARGO) build -p lattice
	$(CARGO) test -p lattice-tests --test it hostile:: -- --nocapture --test-threads=1

network: ## What both paths promise on lines that lose, delay and cut, in network namespaces (needs root, iproute2, iptables)
	$(CARGO) build --workspace --bins $(FEATURES)
	$(CARGO) test --workspace $(FEATURES) --test it -- network:: --ignored --test-threads=5

fuzz: ## Feed made-up bytes to every decoder, or to TARGETS='..', for SECONDS=n each (needs a C++ compiler)
	fuzz/run $(or $(SECONDS),60) $(TARGETS)

clients: ## Run the programs of docs/clients.md that need grpcurl and Python
	$(CARGO) build --workspace --bins
	tests/clients.sh

check: fmt lint proto doc deny ## Everything that CI checks besides the tests

fmt: ## Check the formatting
	$(CARGO) fmt --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check

lint: ## Run clippy; a warning is an error
	$(CARGO) clippy --workspace --all-targets $(FEATURES) -- -D warnings

proto: ## Lint the protocol files, and check that they break no client (needs buf)
	buf lint
	buf breaking --against proto/baseline.binpb

proto-baseline: ## Take the protocol files as they are now for what later ones must not break: with a release
	buf build --exclude-source-info --output proto/baseline.binpb

doc: ## Build the API documentation; a warning is an error
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps

deny: ## Check licences, duplicate crates and where crates come from (needs cargo-deny)
	$(CARGO) deny check bans licenses sources

bench: ## Measure the tree beside a plain rs_merkle tree, in one run, and print the ratio
	$(CARGO) bench -p lattice-core --bench tree

bench-store: ## Measure the store beside etcd and sled, in one run; ARGS='--help' lists what there is
	$(CARGO) bench -p state-store --features redb --bench store -- $(ARGS)

bench-reconcile: ## Measure what a pull costs beside others and the least possible; ARGS='--help' lists what there is
	$(CARGO) bench -p state-store --bench reconcile -- $(ARGS)

bench-serving: ## Measure what peers that pull cost clients; ARGS='--help' lists what there is
	$(CARGO) bench -p state-store --bench serving -- $(ARGS)

bench-gateway: ## Measure the gateway beside a bare axum server and etcd, in one run; ARGS='--help' lists what there is
	$(CARGO) bench -p lattice --bench gateway -- $(ARGS)

bench-heal: ## Measure how long a partition takes to heal, in network namespaces (needs root); ARGS='--help' lists what there is
	$(CARGO) build --release -p lattice --bin lattice
	$(CARGO) bench -p lattice-tests --bench heal -- $(ARGS)

clean: ## Remove what was built
	$(CARGO) clean

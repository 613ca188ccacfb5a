# `make help` lists what there is. Each command sets up what it needs.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
RATE ?= 4
SECONDS ?= 60

.PHONY: help
help: ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

.PHONY: setup
setup: ## Install what is missing: PostgreSQL server binaries, Node packages
	@scripts/setup

.PHONY: setup-postgres
setup-postgres:
	@scripts/setup postgres

.PHONY: demo
demo: setup-postgres ## Two organisations with simulated calls, live; Ctrl-C ends it
	cargo build --bin warden
	target/debug/warden dev --ephemeral --watch --rate $(RATE)

.PHONY: test
test: setup ## Every test: unit, integration, real clients
	cargo test --workspace --no-fail-fast

.PHONY: postgres-versions
postgres-versions: setup ## The schema and its isolation on PostgreSQL 14 to 18; a table
	@scripts/postgres-versions

.PHONY: chaos
chaos: setup ## Ten minutes in which everything fails, and nothing may be lost; WARDEN_SEED repeats one
	WARDEN_CHAOS_SECONDS=$${WARDEN_CHAOS_SECONDS:-600} cargo test --release --test chaos -- --nocapture

.PHONY: adopt-full
adopt-full: setup-postgres ## Adopt a million rows under full write load, and survive 20 kills; a table (minutes)
	cargo test --test it adoption::full -- --ignored --nocapture --test-threads=1

.PHONY: hostile
hostile: setup-postgres ## 100,000 hostile handshakes and 1,000,000 frames, with limits and without; WARDEN_SEED repeats
	WARDEN_HOSTILE=full cargo test --release --test hostile -- --nocapture

.PHONY: lint
lint: ## rustfmt, clippy, docs, offline query data, migrations, licences and bans
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy -p warden --lib --bins --no-default-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items
	scripts/sqlx-data --check
	scripts/lint-migrations
	@command -v cargo-deny >/dev/null || cargo install cargo-deny --locked --quiet
	cargo deny --log-level error check licenses bans sources

# Eight targets, one after the other; what is found lands in fuzz/artifacts.
.PHONY: fuzz
fuzz: ## Fuzz what strangers send, a minute a target (SECONDS=600: longer); needs Rust nightly
	@command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked --quiet
	for target in address claims credential cursor frames jwks message topic; do \
	  mkdir -p fuzz/corpus/$$target; \
	  cargo +nightly fuzz run $$target fuzz/corpus/$$target fuzz/corpus-seeds/$$target -- \
	    -max_total_time=$(SECONDS) -print_final_stats=1; \
	done

.PHONY: sqlx
sqlx: setup-postgres ## Renew .sqlx after a change of queries or migrations
	scripts/sqlx-data

.PHONY: docs-limits
docs-limits: ## Renew docs/limits.md from the code
	WARDEN_WRITE_DOCS=1 cargo test --quiet -p warden --lib -- config::limits::table

.PHONY: bench-doorbell
bench-doorbell: setup-postgres ## Commits per second with and without the doorbell; a table
	cargo bench --bench doorbell

.PHONY: bench-handshake
bench-handshake: setup-postgres ## What a token and a whole handshake cost the server, by algorithm; two tables
	cargo bench --bench verify
	cargo bench --bench handshake

.PHONY: loadtest
loadtest: setup-postgres ## 1,000 sockets in 20 organisations, 200 changes a second, for 20 s
	scripts/loadtest steady --sockets 1000 --orgs 20 --rate 200 --duration 20s

.PHONY: compare
compare: setup-postgres ## Cost of a delivery, compared with a bare write loop and other servers; ARGS="large --rounds 5"
	@scripts/setup peers
	cargo build --release --workspace
	target/release/warden-compare $(ARGS)

# `make help` lists the targets. Each target installs what it needs.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
RATE ?= 4
SECONDS ?= 60
EXAMPLES ?= 200

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^##@ / { printf "\n%s:\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##@ Getting started

.PHONY: setup
setup: ## Install what the tests need: PostgreSQL, PgBouncer, Node packages
	@scripts/setup

.PHONY: setup-postgres
setup-postgres:
	@scripts/setup postgres

.PHONY: demo
demo: setup-postgres ## Run a private PostgreSQL, the gateway and simulated calls, and print events (RATE=4)
	cargo build --bin warden
	target/debug/warden dev --ephemeral --watch --rate $(RATE)

##@ Before a commit

.PHONY: check
check: ## Check format, clippy and unit tests; takes about a minute
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo test --workspace --quiet --lib --bins

.PHONY: test
test: setup ## Run every test: unit, integration, chaos, hostile clients, load tester
	cargo test --workspace --no-run
	skipped=$$(scripts/share-of-tests); cargo test --workspace --no-fail-fast -- $$skipped

.PHONY: lint
lint: ## Check format, clippy, API documentation, .sqlx, migrations, licences and banned crates
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy -p warden --lib --bins --no-default-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items
	scripts/sqlx-data --check
	scripts/lint-migrations
	$(MAKE) --no-print-directory openapi-lint
	@command -v cargo-deny >/dev/null || cargo install cargo-deny --locked --quiet --debug
	cargo deny --log-level error check licenses bans sources

.PHONY: sqlx
sqlx: setup-postgres ## Renew .sqlx, which is needed after a change of queries or migrations
	scripts/sqlx-data

.PHONY: docs-limits
docs-limits: ## Renew docs/limits.md, which is needed after a change of limits
	WARDEN_WRITE_DOCS=1 cargo test --quiet -p warden --lib -- config::limits::table

.PHONY: openapi-lint
openapi-lint: ## Check the OpenAPI document with the linter Redocly, in which every warning is an error
	@scripts/setup redocly
	target/tools/redocly/node_modules/.bin/redocly lint --extends recommended-strict docs/openapi.json

.PHONY: schemathesis
schemathesis: setup-postgres ## Send a gateway requests that schemathesis generates from its OpenAPI document (EXAMPLES=200)
	@scripts/setup schemathesis
	WARDEN_SCHEMATHESIS=target/tools/schemathesis/bin/schemathesis WARDEN_SCHEMATHESIS_EXAMPLES=$(EXAMPLES) \
	  cargo test --workspace --test it openapi::schemathesis -- --ignored --nocapture

.PHONY: cors
cors: setup-postgres ## Open pages of an allowed and of another origin in Chromium, which call a gateway
	@scripts/setup chromium
	cargo test --workspace --test it openapi::chromium -- --ignored

.PHONY: docs-openapi
docs-openapi: setup-postgres ## Renew docs/openapi.json, which is needed after a change of routes, fields or codes
	WARDEN_WRITE_DOCS=1 cargo test --quiet --workspace --test it openapi::the_served

.PHONY: docs-attacks
docs-attacks: ## Renew the table of attacks in docs/security.md
	WARDEN_WRITE_DOCS=1 cargo test --quiet --workspace --test it attackers::the_documented

##@ Long tests

.PHONY: chaos
chaos: setup ## Kill and stall every part for ten minutes; no event may be lost (WARDEN_SEED repeats a run)
	WARDEN_CHAOS_SECONDS=$${WARDEN_CHAOS_SECONDS:-600} cargo test --release --test chaos -- --nocapture

.PHONY: snapshots
snapshots: setup-postgres ## Let 400 clients read snapshots and follow the stream while gateway and database restart
	WARDEN_CROWD=400 cargo test --workspace --test it reading::crowd -- --nocapture

.PHONY: transfers
transfers: setup-postgres ## Let clients of several topics show 2,000 states during transfers; each must be one that the database had
	WARDEN_STATES=2000 cargo test --workspace --test it transactions::marks -- --nocapture

.PHONY: idempotency
idempotency: setup-postgres ## Let 50 callers send the same 1,000 events to two nodes, one by one, during 20 kills
	WARDEN_KILLS=full cargo test --workspace --test it publishing::kills -- --nocapture

.PHONY: claims
claims: setup-postgres ## Write the organisations of 50,000 users through an admin API that fails at random, with two kills
	WARDEN_CLAIMS_USERS=$${WARDEN_CLAIMS_USERS:-50000} cargo test --test it claims::faults -- --nocapture

.PHONY: hostile-input
hostile-input: setup-postgres ## Send 100,000 hostile handshakes and 1,000,000 hostile frames (WARDEN_SEED repeats a run)
	WARDEN_HOSTILE=full cargo test --release --test hostile -- --nocapture

# One fuzz target after the other. Inputs that crash one are written to fuzz/artifacts.
.PHONY: fuzz
fuzz: ## Fuzz every parser of foreign input for a minute each (SECONDS=600: longer); needs Rust nightly
	@command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked --quiet
	for target in address claims cloudevents credential cursor database_url filters frames issuers jwks message rows topic; do \
	  mkdir -p fuzz/corpus/$$target; \
	  cargo +nightly fuzz run $$target fuzz/corpus/$$target fuzz/corpus-seeds/$$target -- \
	    -max_total_time=$(SECONDS) -print_final_stats=1; \
	done

.PHONY: adopt-full
adopt-full: setup-postgres ## Adopt a million rows under write load, plain and partitioned, with 20 kills each; takes minutes
	cargo test --workspace --test it adoption::full -- --ignored --nocapture --test-threads=1

.PHONY: schemas
schemas: setup-postgres ## Take every schema of tests/schemas from the plan to a restored dump; WARDEN_SCHEMAS selects
	@scripts/setup types
	WARDEN_SCHEMAS=$${WARDEN_SCHEMAS:-all} cargo test --workspace --test it schemas:: -- --nocapture

.PHONY: plans
plans: setup-postgres ## Plan a run to each goal after every migration; the suite plans one goal after every ninth
	WARDEN_FULL=1 cargo test --workspace --test it schema::states

.PHONY: remedies
remedies: setup-postgres ## Apply every answer to every question of the audit; the suite applies a third of them
	WARDEN_FULL=1 cargo test --workspace --test it audit::remedies

.PHONY: full
full: setup-postgres ## Run in full what the suite samples: attacks, audit, remedies, access, isolation, broken objects
	WARDEN_FULL=1 cargo test --workspace --test it -- access::property attackers:: audit:: isolation:: rls:: schema::default_privileges schema::states

.PHONY: orms
orms: setup ## Run applications with an ORM on an adopted database, with every tool of tests/orms; prints a table
	@scripts/setup orms
	cargo test --workspace --test it orms::every_tool -- --ignored --nocapture

.PHONY: clients
clients: setup-postgres ## Run every client of tests/clients against a gateway; prints a table
	@scripts/setup clients
	cargo build --bin warden
	node tests/clients/run.mjs
	cargo test --workspace --test it publishing::sdks -- --include-ignored

.PHONY: order
order: setup ## Test the order of events with 400 random programs (WARDEN_ORDER_FIRST: the first seed)
	WARDEN_ORDER_PROGRAMS=400 cargo test --workspace --test it -- order::

.PHONY: recordings
recordings: setup-postgres ## Copy 5,000 recordings of 20 organisations while the workers are killed
	WARDEN_RECORDINGS=full cargo test --workspace --test it recordings::killed -- --nocapture

.PHONY: recordings-s3
recordings-s3: setup-postgres ## Copy 200 recordings to a real S3 server whose connections are cut
	@scripts/setup moto
	cargo test --workspace --test it recordings::s3 -- --ignored --nocapture

.PHONY: types
types: setup ## Write hostile values of every type into watched tables, on PostgreSQL 14 to 18; prints a table
	@scripts/setup types
	@scripts/types $(ARGS)

.PHONY: postgres-versions
postgres-versions: setup ## Test schema, isolation, adoption, publishing and reading on PostgreSQL 14 to 18; prints a table
	@scripts/postgres-versions

##@ Measurements

.PHONY: loadtest
loadtest: setup-postgres ## Load a gateway for 20 s: 1,000 sockets, 20 organisations, 200 changes a second
	scripts/loadtest steady --sockets 1000 --orgs 20 --rate 200 --duration 20s

.PHONY: compare
compare: setup-postgres ## Compare the cost of a delivery with other servers (ARGS="large --rounds 5")
	@scripts/setup peers
	cargo build --release --workspace
	target/release/warden-compare $(ARGS)

.PHONY: hostile
hostile: setup-postgres ## Attack a gateway in twelve ways, and measure another organisation meanwhile; prints a table
	cargo bench --bench hostile -- $(ARGS)

.PHONY: bench-doorbell
bench-doorbell: setup-postgres ## Measure commits a second with and without the doorbell; prints a table
	cargo bench --bench doorbell

.PHONY: bench-publish
bench-publish: setup-postgres ## Measure events a second by SQL and HTTP, and snapshots beside psql; prints two tables
	cargo bench --bench publish -- $(ARGS)

.PHONY: filters
filters: setup-postgres ## Compare 1,000 random filters with PostgreSQL, more than 15 times as many as `make test`
	WARDEN_FILTERS=1000 cargo test --workspace --test it -- reading::events --nocapture

.PHONY: bench-filters
bench-filters: ## Measure the cost of an event by the number of filters on its topic
	cargo bench --bench filters

.PHONY: bench-handshake
bench-handshake: setup-postgres ## Measure CPU time of token checks and handshakes by algorithm; prints two tables
	cargo bench --bench verify
	cargo bench --bench handshake

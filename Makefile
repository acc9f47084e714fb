# What there is to do here. `make test` needs nothing but Rust: the rest it finds or installs.

CARGO ?= cargo

.PHONY: help demo test soak lint bench bench-apply bench-copy prerequisites

help:
	@echo 'make demo    two throwaway servers, a live migration between them'
	@echo 'make test    every test: unit, property, golden, scenario'
	@echo 'make soak    a quarter of an hour of random work, kills and broken connections'
	@echo 'make lint    formatting, clippy, documentation; warnings are errors'
	@echo 'make bench   the engine by itself, then on servers beside its rivals; an hour'
	@echo 'make bench-copy    only the copy, beside pg_dump, a native subscription, pgcopydb; half an hour'
	@echo '                   ARGS=--quick in four minutes; ARGS="--dataset mixed,many" for some'
	@echo 'make bench-apply   only the changes, beside the drain and a native subscription; twenty minutes'
	@echo '                   ARGS=--quick in three; ARGS="--workload tpcb,hot" for some'

demo: prerequisites
	$(CARGO) run --release --bin pgstream -- demo

# Not nextest: its process per test would start two servers per scenario, where one process shares a pair.
test: prerequisites
	$(CARGO) test --all-targets --no-fail-fast
	$(CARGO) test --doc

# The seed is printed; PGSTREAM_TEST_SEED=… takes it again.
soak: prerequisites
	PGSTREAM_SOAK_SECONDS=900 $(CARGO) test --test it soak -- --nocapture

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --no-deps

# In this order: the first takes a minute. `cargo bench --bench macro -- --quick` for a first look.
bench: prerequisites
	$(CARGO) bench --bench micro
	$(CARGO) bench --bench macro

bench-apply: prerequisites
	$(CARGO) bench --bench macro -- --only apply $(ARGS)

bench-copy: prerequisites
	$(CARGO) bench --bench macro -- --only copy $(ARGS)

prerequisites:
	@tests/prerequisites.sh

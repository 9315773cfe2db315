# What a change must pass, in the order that fails fastest: `just check`.

set shell := ["bash", "-euo", "pipefail", "-c"]

# everything below
check: fmt lint test doc

# formatting, checked and not changed
fmt:
    cargo fmt --check

# clippy's warnings are errors
lint:
    cargo clippy --all-targets -- -D warnings

# all tests that need nothing but cargo
test:
    cargo test

# the documentation of the code, for those who change it: private items and links included
doc:
    RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --no-deps --document-private-items

# with a certified provider, unmodified backends and a browser
interop:
    ./test --interop

# in front of real front ends
frontends:
    ./test --frontends

# advisories, licences and sources of dependencies (needs cargo-deny)
deny:
    cargo deny check

# the gateway with the repository's gateway.toml
run:
    cargo run --release

# The sidecar as one static binary in an image with nothing else: no shell, no package, no root.
#   docker build --tag parallax:0.1.0 .

# Alpine's Rust links statically against musl by itself. Build with the Rust that CI tests with, or a newer one.
FROM rust:1.95-alpine AS build
SHELL ["/bin/ash", "-eo", "pipefail", "-c"]
# A compiler and the authorities of the day: Alpine keeps no older ones that could be pinned.
# hadolint ignore=DL3018
RUN apk add --no-cache build-base ca-certificates
WORKDIR /src
# The dependencies alone first: this layer is used again as long as none of them changes.
COPY Cargo.toml Cargo.lock ./
COPY tests/model tests/model
RUN mkdir -p src benches/figures tests/it \
    && echo 'fn main() {}' | tee src/main.rs benches/figures/main.rs >tests/it/main.rs \
    && touch src/lib.rs \
    && cargo build --release --locked --bin parallax
COPY . .
# Cargo looks at times: what was built of the stand-ins must not be taken for the program.
RUN touch src/lib.rs src/main.rs \
    && cargo build --release --locked --bin parallax \
    && strip target/release/parallax \
    && if readelf --dynamic target/release/parallax | grep NEEDED; then echo 'not static' >&2; exit 1; fi

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /src/target/release/parallax /parallax
# Nobody: a number, since there is no /etc/passwd here.
USER 65532:65532
# The data door, the Redis door and the admin door. All listen on loopback unless they are told otherwise and given a token.
EXPOSE 8380 6380 8381
# SIGTERM drains; see docs/operations.md.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/parallax"]
CMD ["serve"]

# The one binary, for every role: `docker run … postrider api`, relay, deliverer, migrate.
#
# Both bases can be any others: the first needs Rust and a C compiler, the second the C library of the first or a
# newer one, and nothing else, not even a shell (gcr.io/distroless/cc-debian12 is such a one).
ARG BUILD_IMAGE=rust:1.95-slim-bookworm
ARG RUNTIME_IMAGE=debian:bookworm-slim

FROM ${BUILD_IMAGE} AS build
WORKDIR /build
COPY . .
RUN cargo build --release --locked --package postrider \
    && strip target/release/postrider

FROM ${RUNTIME_IMAGE}
LABEL org.opencontainers.image.title="Postrider" \
      org.opencontainers.image.description="Delivers webhooks" \
      org.opencontainers.image.licenses="MIT"
# Webhooks and PostgreSQL are spoken to by TLS.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /build/target/release/postrider /usr/local/bin/postrider
ENV POSTRIDER_API_LISTEN=:8000 \
    POSTRIDER_RELAY_LISTEN=:8001 \
    POSTRIDER_DELIVERER_LISTEN=:8002
EXPOSE 8000 8001 8002
# Nobody in particular: a number, because a small base may have no names.
USER 65532:65532
ENTRYPOINT ["postrider"]

# One binary for every role: `docker run … postrider api`, or relay, deliverer, migrate.
#
# Both base images can be replaced. The first needs Rust and a C compiler. The second needs only the same C library as
# the first, or a newer one, and no shell (for example gcr.io/distroless/cc-debian12).
ARG BUILD_IMAGE=rust:1.95-slim-bookworm
ARG RUNTIME_IMAGE=debian:bookworm-slim

FROM ${BUILD_IMAGE} AS build
WORKDIR /build
COPY . .
RUN cargo build --profile dist --locked --package postrider \
    && strip target/dist/postrider

FROM ${RUNTIME_IMAGE}
LABEL org.opencontainers.image.title="Postrider" \
      org.opencontainers.image.description="Delivers webhooks" \
      org.opencontainers.image.licenses="MIT"
# For TLS to receivers, PostgreSQL and Redis.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /build/target/dist/postrider /usr/local/bin/postrider
ENV POSTRIDER_API_LISTEN=:8000 \
    POSTRIDER_RELAY_LISTEN=:8001 \
    POSTRIDER_DELIVERER_LISTEN=:8002
EXPOSE 8000 8001 8002
# An unprivileged user. It is a number, because a small base image may have no user names.
USER 65532:65532
ENTRYPOINT ["postrider"]

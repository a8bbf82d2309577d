# The image of one Roster node: `docker build -t roster .`
# BuildKit is needed for the cache mounts (the default since Docker 23; DOCKER_BUILDKIT=1 before).

ARG RUST_IMAGE=rust:1.95-slim-bookworm
# glibc, libgcc and a non-root user, no shell. Of the same Debian release as the image above: the
# binary is linked against its glibc.
ARG BASE_IMAGE=gcr.io/distroless/cc-debian12:nonroot

FROM ${RUST_IMAGE} AS build
WORKDIR /build
COPY . .
# The downloaded crates and the compiled dependencies live in the builder's caches, not in a layer:
# a changed source file compiles the workspace's crates alone, a changed Cargo.lock what it changed.
# A cache is shared by all builds on a machine and cargo trusts file times, so `touch`: a source file
# older than another checkout's build must not pass for built. `strip` also takes the binary out of
# the cache; without line tables it is a quarter of the size, and backtraces keep the functions' names.
RUN --mount=type=cache,id=roster-registry,target=/usr/local/cargo/registry \
    --mount=type=cache,id=roster-target,target=/build/target,sharing=locked \
    find src storage api cluster-tests -name '*.rs' -exec touch {} + \
    && cargo build --release --locked --bin roster \
    && mkdir -p /image/data \
    && strip --strip-debug -o /image/roster target/release/roster

FROM ${BASE_IMAGE}
COPY --from=build /image/roster /usr/local/bin/roster
# A new volume takes its owner from the folder that it is mounted over.
COPY --from=build --chown=65532:65532 /image/data /var/lib/roster

# As a number: Kubernetes' runAsNonRoot does not take a name's word for it.
USER 65532:65532
WORKDIR /var/lib/roster
VOLUME /var/lib/roster

# The addresses stay Roster's own defaults, loopback: listening for other machines takes
# ROSTER_LISTEN, ROSTER_PEER_LISTEN and ROSTER_ALLOW_UNAUTHENTICATED, set by whoever starts the
# container. compose.yaml shows all that a node needs.
ENV ROSTER_DATA_DIR=/var/lib/roster
# `docker exec` and `kubectl exec` then ask this very node: `… roster top`. Without it the commands ask
# the ports of `roster dev`.
ENV ROSTER_ENDPOINT=127.0.0.1:7400

# The HTTP API, and the other nodes.
EXPOSE 7400 7500

# Whether the process answers; a node that waits for its cluster is well. Orchestrators have probes of
# their own for /livez and /readyz.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["/usr/local/bin/roster", "health", "--live", "--endpoint", "127.0.0.1:7400"]

# Ends on SIGTERM, having handed the leadership on.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/roster"]
CMD ["serve"]

ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Roster" \
      org.opencontainers.image.description="A replicated service registry: who is here, and who does what" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

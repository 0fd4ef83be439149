# One image for every agent; `docker-compose.yml` runs it as one service an agent.
# The native core: Debian's own Rust is too old for it. The same Debian as below, so that its C library fits.
FROM rust:1.95.0-slim-bookworm AS native
WORKDIR /build
COPY native/Cargo.toml native/Cargo.lock native/
COPY native/src native/src
COPY scripts/native.sh scripts/native.sh
RUN scripts/native.sh --strict

FROM python:3.11-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
COPY requirements/runtime.txt requirements/runtime.txt
RUN python -m venv /opt/driftline \
    && /opt/driftline/bin/pip install --require-hashes --only-binary :all: -r requirements/runtime.txt
COPY pyproject.toml README.md LICENSE ./
COPY schemas schemas
COPY streams streams
COPY agents agents
COPY scripts/wheel.py scripts/wheel.py
COPY --from=native /build/streams/native/libdriftline_hot.so streams/native/
# Dependencies came from the lock; hatchling builds the wheel of Driftline itself.
RUN python -m venv /opt/builder \
    && /opt/builder/bin/pip install hatchling==1.33.0 \
    && /opt/builder/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
    && /opt/driftline/bin/pip install --no-deps /wheels/*.whl \
    && cd / && /opt/driftline/bin/python -c "from streams.native.library import available; assert available()"

FROM python:3.11-slim-bookworm
# scikit-learn's wheels need libgomp; confluent-kafka, rocksdict and duckdb bring what they need.
RUN apt-get update \
    && apt-get install --no-install-recommends --yes libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --create-home driftline \
    && install --directory --owner driftline --group driftline /var/lib/driftline
COPY --from=build /opt/driftline /opt/driftline
ENV PATH=/opt/driftline/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    OMP_NUM_THREADS=1 \
    MALLOC_ARENA_MAX=2 \
    DRIFTLINE_HOME=/var/lib/driftline
USER driftline
WORKDIR /var/lib/driftline
VOLUME /var/lib/driftline
STOPSIGNAL SIGTERM
ENTRYPOINT ["driftline"]
CMD ["--help"]

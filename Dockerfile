# The server's image, for CPU and for NVIDIA GPUs, from one file:
#
#   docker build --tag anytime .                      on a CPU (the last stage is the default)
#   docker build --tag anytime:gpu --target gpu .     on a GPU; CUDA and cuDNN come from PyPI, the driver from the host
#
# BASE may be any glibc image with Python >= 3.11 and its venv module, a digest for one that never changes;
# INDEX any package index. What is installed is locked, with hashes, in deploy/requirements (see deploy/lock.sh).
ARG BASE=docker.io/library/python:3.13.5-slim-bookworm

# hadolint ignore=DL3006
FROM ${BASE} AS build
ARG INDEX=https://pypi.org/simple
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_INDEX_URL=${INDEX} PIP_REQUIRE_VIRTUALENV=1
WORKDIR /src

FROM build AS wheel
COPY deploy/requirements/build.txt ./
RUN python3 -m venv /build && /build/bin/pip install --require-hashes --requirement build.txt
COPY pyproject.toml README.md LICENSE ./
COPY model model
COPY service service
COPY docs/samples docs/samples
RUN /build/bin/pip wheel --no-build-isolation --no-deps --wheel-dir /wheels .

# The libraries, and then no pip: nothing is installed into a running server. They find the code by a line in a .pth file.
FROM build AS libraries-cpu
COPY deploy/requirements/cpu.txt ./
RUN python3 -m venv /opt/libraries && /opt/libraries/bin/pip install --require-hashes --requirement cpu.txt && \
    for site in /opt/libraries/lib/python3*/site-packages; do echo /opt/anytime > "$site/anytime.pth"; done && \
    /opt/libraries/bin/pip uninstall --yes pip setuptools

FROM build AS libraries-gpu
COPY deploy/requirements/gpu.txt ./
RUN python3 -m venv /opt/libraries && /opt/libraries/bin/pip install --require-hashes --requirement gpu.txt && \
    for site in /opt/libraries/lib/python3*/site-packages; do echo /opt/anytime > "$site/anytime.pth"; done && \
    /opt/libraries/bin/pip uninstall --yes pip setuptools

# The package, apart from the libraries and from the network that comes with it: a change of the code is a layer of its own, of
# a megabyte or two.
FROM build AS package
COPY --from=wheel /wheels /wheels
RUN python3 -m venv /opt/libraries && /opt/libraries/bin/pip install --no-deps --target /opt/anytime /wheels/*.whl && \
    mkdir -p /network/model && mv /opt/anytime/model/pretrained /network/model/

# hadolint ignore=DL3006
FROM ${BASE} AS runtime
ARG BASE
ENV PATH=/opt/anytime/bin:/opt/libraries/bin:$PATH PYTHONUNBUFFERED=1 ANYTIME_HOST=0.0.0.0 ANYTIME_PORT=8000
# The base's own pip goes too, and what could bring it back; wherever the base has them.
RUN find / -xdev \( -path '*-packages/pip' -o -path '*-packages/pip-*' -o -path '*/bin/pip' -o -path '*/bin/pip[0-9]*' \
      -o -name ensurepip -o -name 'pip-*.whl' \) -prune -exec rm -rf {} +
WORKDIR /tmp
EXPOSE 8000
# A number, so that Kubernetes can tell that it is not root.
USER 10001:10001
HEALTHCHECK --interval=10s --timeout=5s --start-period=180s --retries=3 CMD ["python", "-P", "-m", "service.health"]
CMD ["anytime", "serve"]
LABEL org.opencontainers.image.title="anytime-inference" \
      org.opencontainers.image.description="The most accurate answer that fits in the caller's deadline." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${BASE}"

FROM runtime AS gpu
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=libraries-gpu /opt/libraries /opt/libraries
COPY --from=package /network /opt/anytime
COPY --from=package /opt/anytime /opt/anytime
ARG VERSION=unknown
ARG REVISION=unknown
ARG SOURCE=https://github.com/anytime-inference/anytime
LABEL org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"

FROM runtime AS cpu
COPY --from=libraries-cpu /opt/libraries /opt/libraries
COPY --from=package /network /opt/anytime
COPY --from=package /opt/anytime /opt/anytime
ARG VERSION=unknown
ARG REVISION=unknown
ARG SOURCE=https://github.com/anytime-inference/anytime
LABEL org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"

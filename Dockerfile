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

FROM build AS libraries-cpu
COPY deploy/requirements/cpu.txt ./
RUN python3 -m venv /opt/anytime && /opt/anytime/bin/pip install --require-hashes --requirement cpu.txt

FROM build AS libraries-gpu
COPY deploy/requirements/gpu.txt ./
RUN python3 -m venv /opt/anytime && /opt/anytime/bin/pip install --require-hashes --requirement gpu.txt

# The package, and then no pip: nothing is installed into a running server.
FROM libraries-cpu AS installed-cpu
COPY --from=wheel /wheels /wheels
RUN /opt/anytime/bin/pip install --no-deps /wheels/*.whl && /opt/anytime/bin/pip uninstall --yes pip setuptools

FROM libraries-gpu AS installed-gpu
COPY --from=wheel /wheels /wheels
RUN /opt/anytime/bin/pip install --no-deps /wheels/*.whl && /opt/anytime/bin/pip uninstall --yes pip setuptools

# hadolint ignore=DL3006
FROM ${BASE} AS runtime
ARG BASE
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="anytime-inference" \
      org.opencontainers.image.description="The most accurate answer that fits in the caller's deadline." \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${BASE}"
ENV PATH=/opt/anytime/bin:$PATH PYTHONUNBUFFERED=1 ANYTIME_HOST=0.0.0.0 ANYTIME_PORT=8000
# The base's own pip goes too, and what could bring it back; wherever the base has them.
RUN find / -xdev \( -path '*-packages/pip' -o -path '*-packages/pip-*' -o -path '*/bin/pip' -o -path '*/bin/pip[0-9]*' \
      -o -name ensurepip -o -name 'pip-*.whl' \) -prune -exec rm -rf {} +
WORKDIR /tmp
EXPOSE 8000
# A number, so that Kubernetes can tell that it is not root.
USER 10001:10001
HEALTHCHECK --interval=10s --timeout=5s --start-period=180s --retries=3 CMD ["python", "-c", \
  "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + (os.environ['ANYTIME_PORT'].strip() or '8000') + '/health/ready', timeout=4)"]
CMD ["anytime", "serve"]

FROM runtime AS gpu
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=installed-gpu /opt/anytime /opt/anytime

FROM runtime AS cpu
COPY --from=installed-cpu /opt/anytime /opt/anytime

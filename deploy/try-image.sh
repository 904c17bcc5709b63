#!/bin/sh
# Build the CPU image and try it, on a Debian machine without a container engine's daemon:
#
#   apt-get install --no-install-recommends buildah podman runc debootstrap netavark aardvark-dns iptables prometheus haproxy
#   pip install podman-compose
#   deploy/try-image.sh                    builds, then runs tests/deploy/test_image.py against the image
#
# The base is made by debootstrap, so no registry is needed; every other line of the Dockerfile is the real one.
# WORK=DIR keeps the base, the images and the settings; PYTHON is one that has the dev extra.
set -eu
cd "$(dirname "$0")/.."
WORK=${WORK:-/var/tmp/anytime-image}
PYTHON=${PYTHON:-python3}
BASE=localhost/anytime-base:bookworm
IMAGE=localhost/anytime:cpu
PROMETHEUS=localhost/anytime-prometheus:bookworm
PROXY=localhost/anytime-haproxy:bookworm

for tool in buildah podman podman-compose runc debootstrap prometheus haproxy; do
  command -v "$tool" >/dev/null || { echo "try-image: $tool is not installed" >&2; exit 1; }
done

# A machine that is itself a container or a small virtual one: no systemd, no CAP_SYS_RESOURCE to raise limits; the proxy
# wants 8,000 files.
mkdir -p "$WORK"
FILES=$(ulimit -Hn)
cat >"$WORK/containers.conf" <<CONF
[containers]
default_ulimits = ["nofile=$FILES:$FILES", "nproc=1024:1024"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
CONF
cat >"$WORK/storage.conf" <<CONF
[storage]
driver = "overlay"
graphroot = "$WORK/storage"
runroot = "/run/anytime-image"
CONF
export CONTAINERS_CONF="$WORK/containers.conf" CONTAINERS_STORAGE_CONF="$WORK/storage.conf"

if ! buildah inspect --type image "$BASE" >/dev/null 2>&1; then
  [ -x "$WORK/base/usr/bin/python3" ] ||
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$WORK/base"
  for part in var/cache/apt var/lib/apt/lists usr/share/doc usr/share/man usr/share/locale; do
    find "$WORK/base/$part" -mindepth 1 -delete
  done
  container=$(buildah from scratch)
  buildah add --quiet "$container" "$WORK/base" /
  buildah commit --quiet --rm --format docker "$container" "$BASE"
fi

# The way to the package index is the machine's own: mounted for the build, never in the image.
set --
for file in /etc/pip.conf /etc/ssl/certs/ca-certificates.crt; do
  if [ -f "$file" ]; then set -- "$@" --volume "$file:$file:ro"; fi
done
buildah build --isolation chroot --format docker --layers --target cpu --build-arg "BASE=$BASE" \
  --build-arg "VERSION=$("$PYTHON" deploy/release.py)" --build-arg "REVISION=$(git rev-parse HEAD)" "$@" --tag "$IMAGE" .

if ! buildah inspect --type image "$PROMETHEUS" >/dev/null 2>&1; then
  container=$(buildah from "$BASE")
  buildah copy --quiet "$container" "$(command -v prometheus)" /bin/prometheus
  buildah config --entrypoint '["/bin/prometheus"]' --user 65534 "$container"
  buildah commit --quiet --rm --format docker "$container" "$PROMETHEUS"
fi

if ! buildah inspect --type image "$PROXY" >/dev/null 2>&1; then
  container=$(buildah from "$BASE")
  mkdir -p "$WORK/proxy"
  ldd "$(command -v haproxy)" | awk '$2 == "=>" { print $3 }' | xargs cp --dereference --target-directory "$WORK/proxy"
  buildah copy --quiet "$container" "$WORK/proxy" /usr/lib/
  buildah copy --quiet "$container" "$(command -v haproxy)" /bin/haproxy
  buildah config --cmd '["haproxy", "-W", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]' --user 65534 "$container"
  buildah commit --quiet --rm --format docker "$container" "$PROXY"
fi

IMAGE_UNDER_TEST=$IMAGE PROMETHEUS_IMAGE=$PROMETHEUS PROXY_IMAGE=$PROXY "$PYTHON" -m pytest tests/deploy/test_image.py

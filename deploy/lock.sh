#!/bin/sh
# Lock what is installed, in the image and by `make`, to versions and hashes; run it after a change to pyproject.toml's
# dependencies. It needs uv (pip install uv). Versions already locked stay unless they must change; --upgrade takes the newest.
#
# torch, and CUDA, which it brings, are not in dev.txt: which build of it fits is the machine's to choose, and each package
# index has files of its own. pyproject.toml pins its version.
set -eu
cd "$(dirname "$0")/.."

lock() {
  uv pip compile --quiet --generate-hashes --universal --python-version 3.11 --no-annotate \
    --custom-compile-command 'deploy/lock.sh' "$@"
}

folder=deploy/requirements
lock "$@" --extra cpu --extra traces --extra grpc --output-file $folder/cpu.txt pyproject.toml
# One version of each package everywhere: the files are installed on top of each other.
lock "$@" --extra gpu --extra traces --extra grpc --constraints $folder/cpu.txt --output-file $folder/gpu.txt pyproject.toml
lock "$@" --extra serve --extra traces --extra grpc --extra train --extra tensorboard --extra dev --constraints $folder/cpu.txt \
  --output-file $folder/dev.txt pyproject.toml
awk '/^[a-z]/ { keep = !/^(torch|triton|nvidia-|cuda-)/ } keep || /^#/' $folder/dev.txt > $folder/dev.new
mv $folder/dev.new $folder/dev.txt
lock "$@" --extra audit --constraints $folder/dev.txt --output-file $folder/audit.txt pyproject.toml
printf 'hatchling>=1.27\neditables>=0.5\n' | lock "$@" --constraints $folder/dev.txt --output-file $folder/build.txt -

#!/bin/sh
# Lock what the image installs to versions and hashes; run it after a change to pyproject.toml's dependencies.
# It needs uv (pip install uv). Versions already locked stay unless they must change; --upgrade takes the newest.
set -eu
cd "$(dirname "$0")/.."

lock() {
  uv pip compile --quiet --generate-hashes --universal --python-version 3.11 --no-annotate \
    --custom-compile-command 'deploy/lock.sh' "$@"
}

for runtime in cpu gpu; do
  lock "$@" --extra "$runtime" --extra traces --output-file "deploy/requirements/$runtime.txt" pyproject.toml
done
echo 'hatchling>=1.27' | lock "$@" --output-file deploy/requirements/build.txt -

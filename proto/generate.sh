#!/usr/bin/env bash
# Generates the Python code of proto/headspring/proto/v1/*.proto beside it. The generator is pinned
# here and runs in an environment of its own: generated code of one protobuf line must run on the next.
set -euo pipefail
cd "$(dirname "$0")/.."
env -u VIRTUAL_ENV PATH="$PWD/.venv/bin:$PATH" uv tool run --quiet \
  --from 'grpcio-tools==1.75.1' --with 'mypy-protobuf==3.6.0' --with 'protobuf==6.31.1' --with 'setuptools<80' \
  bash -c 'PATH="$(dirname "$(readlink -f "$(command -v python-grpc-tools-protoc)")"):$PATH"; python-grpc-tools-protoc -I proto --python_out=proto --mypy_out=quiet:proto proto/headspring/proto/v1/*.proto'

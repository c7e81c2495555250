#!/usr/bin/env bash
# All that a GPU has to show, in at most 8 minutes: on_gpu.json and on_gpu.md in DIR.
#
#     benchmarks/on_gpu.sh DIR [--plan PLAN.json] [--dry-run]
#
# Needs the project's requirements, jax[cuda13], pytest, and for the comparison torch
# (benchmarks/torch_twin/requirements.txt). PLAN.json is made beforehand, on any machine:
#
#     python -m benchmarks.plan --out PLAN.json
#
# --dry-run does the same with a tiny network on a CPU.
set -euo pipefail
if [ $# -eq 0 ] || [ "${1#-}" != "$1" ]; then
  echo "usage: $0 DIR [--plan PLAN.json] [--dry-run]" >&2
  exit 2
fi
out=$(realpath -m "$1")
shift
cd "$(dirname "$0")/.."
exec "${PYTHON:-python3}" -m benchmarks.on_gpu "$out" "$@"

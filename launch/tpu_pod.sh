#!/usr/bin/env bash
# One run over all hosts of a TPU slice, on which this checkout lies in ~/qsdt_jax with its .venv:
#   launch/tpu_pod.sh NAME ZONE CONFIG WORKDIR [--config.KEY=VALUE ...]
# The workdir is a folder that all hosts see, as a mounted Filestore. A slice that was preempted and made
# anew goes on with the same command.
set -euo pipefail

if (($# < 4)); then
  echo "usage: launch/tpu_pod.sh NAME ZONE CONFIG WORKDIR [FLAGS]" >&2
  exit 2
fi
name=$1 zone=$2 config=$3 workdir=$4
shift 4

printf -v command ' %q' .venv/bin/python -m launch \
  --config "$config" --workdir "$workdir" --coordinator=auto "$@"
exec gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="cd qsdt_jax &&$command"

"""The device that `on_gpu.sh` runs on: JSON in a file; exit status 1 where it is no GPU.

python -m benchmarks.device FILE.json [--dry-run]
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

from qsdt_jax.workdir.provenance import provenance

ASKED = "--query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit"


def device() -> dict[str, Any]:
    """What JAX tells, and the driver of NVIDIA's GPUs where there is one."""
    told = None
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", ASKED, "--format=csv,noheader"]
        told = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return {
        "backend": jax.default_backend(),
        "devices": [each.device_kind for each in jax.devices()],
        "memory": jax.devices()[0].memory_stats(),
        "nvidia_smi": told,
        "provenance": provenance(),
    }


def main() -> None:
    """Writes; a dry run takes a CPU as well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--dry-run", action="store_true")
    given = parser.parse_args()
    found = device()
    given.file.write_text(json.dumps(found) + "\n")
    if found["backend"] == "cpu" and not given.dry_run:
        sys.exit("jax sees no GPU")


if __name__ == "__main__":
    main()

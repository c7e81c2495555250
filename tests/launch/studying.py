"""`python -m launch` with a wait in the place of training: for tests of several processes at one study.

    SECONDS=0.1 python -m tests.launch.studying ablate --config ... --workdir ...

Each run notes the processes that began it in its folder.
"""

import json
import os
import sys
import time
from pathlib import Path

import launch.ablate
import launch.workers
from launch.__main__ import main
from qsdt_jax.processes.preemption import Preemption


def train(config, folder: Path) -> None:
    """Writes what a run leaves after a while; stops on signals as training does."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "begun_by").open("a") as notes:
        notes.write(f"{os.getpid()}\n")
    end = time.monotonic() + float(os.environ["SECONDS"])
    with Preemption() as preemption:
        while time.monotonic() < end:
            preemption.check()
            time.sleep(0.01)
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    summary = {"final": {"eval/top1": 50.0}, "images_per_second": 1.0, "parameters": 1, "commit": "abc"}
    (folder / "summary.json").write_text(json.dumps(summary))


if __name__ == "__main__":
    launch.workers.PROGRAM = [sys.executable, "-m", "tests.launch.studying"]
    launch.ablate.train = train
    launch.ablate.make_run = lambda config, workdir: config
    launch.ablate.check = lambda study, variant: None
    sys.exit(main(sys.argv[1:]))

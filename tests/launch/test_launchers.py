"""The scripts for clusters, as far as a machine without one can check them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"

# Starts its command twice, with the variables that Slurm gives to two tasks of one node.
SRUN = """#!/usr/bin/env bash
[ "$1" = --kill-on-bad-exit=1 ] && [ "$SRUN_CPUS_PER_TASK" = 12 ] || exit 9
shift
export SLURM_JOB_ID=$((RANDOM + 1)) SLURM_STEP_NODELIST=localhost SLURM_NTASKS=2 SLURM_STEP_NUM_TASKS=2
SLURM_PROCID=1 SLURM_LOCALID=1 "$@" 2> "$OUTPUT.1" & other=$!
SLURM_PROCID=0 SLURM_LOCALID=0 "$@" 2> "$OUTPUT.0"
status=$?
wait "$other"
exit "$status"
"""
GCLOUD = '#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n'


@pytest.fixture
def fake(tmp_path):
    """Puts a program of that name before all others; returns the environment."""

    def put(name: str, text: str) -> dict[str, str]:
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
        return {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "PYTHON": sys.executable}

    return put


def run(script: str, *arguments: object, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(LAUNCH / script), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)


def test_shellcheck_has_nothing_to_say():
    scripts = [*LAUNCH.glob("*.sh"), *(ROOT / "benchmarks").glob("*.sh"), ROOT / ".ci" / "run"]
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([shellcheck, *scripts], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout


@pytest.mark.parametrize("script", ["slurm.sh", "tpu_pod.sh"])
def test_usage(script):
    assert os.access(LAUNCH / script, os.X_OK)
    told = run(script, env=dict(os.environ))
    assert told.returncode == 2 and told.stderr.startswith("usage: ")


def test_slurm_tasks_are_one_run(fake, tmp_path):
    """Two tasks find each other through Slurm's variables, and 7 images are no batch for two devices."""
    env = fake("srun", SRUN) | {"OUTPUT": str(tmp_path / "told"), "JAX_NUM_CPU_DEVICES": "1"}
    env["SLURM_CPUS_PER_TASK"] = "12"  # As sbatch has it of the header.
    config = ROOT / "tests" / "configs" / "tiny.py"
    wrong = ("--config.batch_size=7", "--config.accumulate=1")
    done = run("slurm.sh", config, tmp_path / "w", *wrong, env=env)
    told = [(tmp_path / f"told.{i}").read_text().splitlines() for i in (0, 1)]
    assert done.returncode != 0 and not (tmp_path / "w").exists()
    lines = [line for text in told for line in text if line.startswith("error: ")]
    assert lines == ["error: config.batch_size=7 does not divide over 2 devices"] * 2, told
    assert not [line for text in told for line in text if "Traceback" in line], told


def test_tpu_hosts_get_the_command_quoted(fake):
    env = fake("gcloud", GCLOUD)
    done = run("tpu_pod.sh", "pod", "zone-a", "configs/a b.py", "/w", "--config.epochs=3", env=env)
    assert done.returncode == 0, done.stderr
    words = done.stdout.splitlines()
    assert words[:5] == ["compute", "tpus", "tpu-vm", "ssh", "pod"]
    assert words[5:7] == ["--zone=zone-a", "--worker=all"]
    assert words[7] == (
        r"--command=cd qsdt_jax && .venv/bin/python -m launch --config configs/a\ b.py --workdir /w "
        "--coordinator=auto --config.epochs=3"
    )


def test_jobset_is_consistent():
    manifest = yaml.safe_load((LAUNCH / "jobset.yaml").read_text())
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    [replicated] = manifest["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    [container] = job["template"]["spec"]["containers"]
    values = {entry["name"]: entry["value"] for entry in container["env"]}
    assert job["completionMode"] == "Indexed"
    assert str(job["parallelism"]) == str(job["completions"]) == values["PROCESSES"]
    name = manifest["metadata"]["name"]
    assert values["COORDINATOR"] == f"{name}-{replicated['name']}-0-0.{name}:8476"
    assert (ROOT / values["CONFIG"]).is_file()
    # The command passes flags that there are, and the shell gives it what the environment has.
    shell, flag, command = container["command"]
    assert (shell, flag) == ("bash", "-c")
    command = command.replace("exec python", "printf '%s ' python")
    done = subprocess.run(
        ["bash", "-c", command], env={**values, "JOB_COMPLETION_INDEX": "1"}, capture_output=True, text=True
    )
    assert done.stdout.split()[3:] == [
        *(
            "--config",
            values["CONFIG"],
            "--workdir",
            values["WORKDIR"],
            f"--config.data.path={values['DATA']}",
            "--coordinator",
            values["COORDINATOR"],
        ),
        *("--num_processes", "2", "--process_id", "1"),
    ]
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in job["template"]["spec"]["volumes"]}

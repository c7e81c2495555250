import json
import os
import sys
import time

from benchmarks import steps
from benchmarks.steps import Step, run_all


def command(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def run(tmp_path, steps, after=lambda found: None, seconds=60.0):
    return run_all(steps, seconds, tmp_path, dict(os.environ), after)


def test_no_step_stops_the_others(tmp_path):
    output = tmp_path / "found.json"
    sleeping = (
        "import subprocess, time; subprocess.Popen(['sleep', '9']); print('begun', flush=True); time.sleep(9)"
    )
    steps = [
        Step("too long", command(sleeping), 1),
        Step("no such", ["/no/such/command"], 20),
        Step("wrong", command("print('before'); raise SystemExit('because')"), 20, tmp_path / "none.json"),
        Step("right", command(f"open({str(output)!r}, 'w').write('[1]')"), 20, output),
    ]
    seen = []
    start = time.monotonic()
    found = run(tmp_path, steps, after=lambda found: seen.append(len(found)))
    assert time.monotonic() - start < 8
    assert [step["status"] for step in found] == ["timed out", "failed", "failed", "done"]
    assert [step["result"] for step in found] == [None, None, None, [1]]
    assert "No such file" in found[1]["told"][-1]
    assert found[2]["told"] == ["before", "because"]
    assert found[0]["told"] == ["begun"] and 1 <= found[0]["seconds"] < 3
    assert seen == [1, 2, 3, 4]
    json.dumps(found)


def test_what_a_step_has_written_before_its_end_is_kept(tmp_path):
    output = tmp_path / "found.json"
    text = f"import time; open({str(output)!r}, 'w').write('[2]'); time.sleep(9)"
    [found] = run(tmp_path, [Step("long", command(text), 1, output)])
    assert (found["status"], found["result"]) == ("timed out", [2])


def test_half_written_results_are_none(tmp_path):
    output = tmp_path / "found.json"
    [found] = run(tmp_path, [Step("half", command(f"open({str(output)!r}, 'w').write('[2')"), 20, output)])
    assert (found["status"], found["result"]) == ("done", None)


def test_no_step_goes_on_when_the_time_is_over(tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "SHORTEST", 0.5)
    sleeping = command("import time; time.sleep(30)")
    several = [Step("short", ["true"], 9), Step("long", sleeping, 1), *(Step(x, sleeping, 9) for x in "ab")]
    start = time.monotonic()
    found = run(tmp_path, several, seconds=2.5)
    assert 2.5 <= time.monotonic() - start < 4
    assert [step["status"] for step in found] == ["done", "timed out", "timed out", "not begun"]
    assert found[1]["limit"] == 1 < found[2]["limit"] <= 1.5
    assert found[3]["told"] == [] and found[3]["seconds"] < 0.5

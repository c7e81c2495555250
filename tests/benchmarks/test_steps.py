import json
import os
import sys
import time

from benchmarks.steps import Step, run_all


def command(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def run(tmp_path, steps, after=lambda found: None):
    return run_all(steps, tmp_path, dict(os.environ), after)


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


def test_later_steps_may_take_what_earlier_ones_leave(tmp_path):
    sleeping = command("import time; time.sleep(30)")
    steps = [Step("short", ["true"], 2), Step("second", sleeping, 1), Step("third", sleeping, 1)]
    found = run(tmp_path, steps)
    assert [step["status"] for step in found] == ["done", "timed out", "timed out"]
    assert found[1]["limit"] > 1
    assert sum(step["seconds"] for step in found) < 6
    assert found[2]["seconds"] < 2.5  # And no step has of a later one.

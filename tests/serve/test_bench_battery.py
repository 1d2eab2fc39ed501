"""`bench battery`: it tries every field, and sees each way in which an answer can be wrong."""

import argparse
import json

import pytest

from minivllm.bench import battery
from minivllm.bench.battery_send import Report, fault_of
from minivllm.bench.hostile import RIGHT, STRANGE, HostileInput, fields_of, hostile_inputs
from minivllm.bench.hostile_sockets import ATTACKS


def arguments(*argv):
    parser = argparse.ArgumentParser()
    battery.add_arguments(parser)
    return parser.parse_args(argv)


def test_a_small_battery_on_the_real_engine(real, capsys):
    result = battery.run(
        arguments(
            "--base-url", real.url, "--rounds", "1", "--every", "61", "--num-cut-off", "6", "--skip-sockets"
        )
    )
    assert result["failures"] == [] and result["answers_5xx"] == 0 and result["victim"]["texts"] == 1
    assert result["cut_off"]["blocks_after"] == 0 < result["cut_off"]["blocks_before"]
    assert result["inputs"] == sum(row["inputs"] for row in result["ideas"]) > 50
    assert "nobody else touched" in capsys.readouterr().out and json.dumps(result)


FAST = [attack for attack in ATTACKS if not attack.__name__.startswith(("slow", "never"))]


@pytest.mark.parametrize("attack", FAST, ids=lambda attack: attack.__name__)
def test_attacks_below_http_are_bounded(server, attack):
    from minivllm.bench.serve_client import Target

    seen = attack(Target(server.url, "fake"))
    assert seen and "500" not in seen
    assert server.get("/health").status_code == 200


def test_every_field_of_every_route_is_tried(server):
    openapi = server.get("/openapi.json").json()
    inputs = list(hostile_inputs(openapi))
    strange = [one for one in inputs if one.idea == "strange values"]
    assert len(strange) == len(STRANGE) * sum(len(fields_of(openapi, path)) for path in RIGHT)
    assert {"temperature", "n", "stop", "structured_outputs"} <= set(fields_of(openapi, "/v1/completions"))
    assert {"messages", "prompt"} <= set(fields_of(openapi, "/tokenize"))
    assert b'"temperature": NaN' in b"".join(one.body for one in strange[:2000])


WRONG = HostileInput("forms", "/v1/completions")
HARMLESS = HostileInput("forms", "/v1/completions", is_wrong=False)


def error(message="temperature must be in [0, 2]", code=400, **more):
    return json.dumps(
        {"error": {"message": message, "type": "x", "param": None, "code": code, **more}}
    ).encode()


@pytest.mark.parametrize(
    ("one", "status", "answer", "seconds", "fault"),
    [
        (WRONG, "400", error(), 0.1, None),
        (HARMLESS, "200", b"{}", 0.1, None),
        (WRONG, "200", b"{}", 0.1, "answered with 200"),
        (WRONG, "500", error(code=500), 0.1, "status 500"),
        (HARMLESS, "503", error(code=503), 0.1, "status 503"),
        (WRONG, "400", error(), 99, "took 99"),
        (WRONG, "400", b"nonsense", 0.1, "no error JSON"),
        (WRONG, "400", b'{"detail": "x"}', 0.1, "no error JSON"),
        (WRONG, "400", error(code=404), 0.1, "wrong shape"),
        (WRONG, "400", error(trace="x"), 0.1, "wrong shape"),
        (WRONG, "400", error(message="no"), 0.1, "a message of 2"),
        (WRONG, "closed", b"", 0.1, "no answer"),
    ],
)
def test_faults_of_answers(one, status, answer, seconds, fault):
    found = fault_of(one, status, answer, seconds)
    assert found is None if fault is None else fault in found


def test_the_table_counts(capsys):
    report = Report()
    report.note("forms", "400", 0.5)
    report.note("forms", "200", 0.1)
    report.note("keys", "500", failure="/x: 500")
    rows = {row["idea"]: row for row in report.rows()}
    assert (rows["forms"]["4xx"], rows["forms"]["2xx"], rows["forms"]["slowest_ms"]) == (1, 1, 500.0)
    assert rows["keys"]["5xx"] == 1 and report.num_inputs == 3
    assert report.failures == ["keys: /x: 500"] and "/x: 500" in capsys.readouterr().out
    assert "forms" in report.table()


@pytest.mark.parametrize(("argv", "name"), [(["--rounds", "0"], "rounds"), (["--every", "-1"], "every")])
def test_wrong_arguments_get_a_sentence(argv, name):
    with pytest.raises(SystemExit, match=name):
        battery.run(arguments(*argv))

"""What a file must be to load as a trace."""

import json
from typing import Any


def check_format(trace: dict[str, Any]) -> None:
    """What Perfetto and chrome://tracing need: known phases, their fields, pairs, and spans that nest."""
    trace = json.loads(json.dumps(trace, allow_nan=False))
    open_calls: dict[tuple[str, int], float] = {}
    spans: dict[tuple[int, int], list[tuple[float, float]]] = {}
    named = {(e["pid"], e["tid"]) for e in trace["traceEvents"] if e["name"] == "thread_name"}
    for event in trace["traceEvents"]:
        assert {"ph", "name", "pid", "tid"} <= event.keys()
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "thread_name")
            assert event["args"]["name"]
            continue
        assert (event["pid"], event["tid"]) in named
        assert event["ts"] >= 0
        if event["ph"] == "X":
            assert event["dur"] >= 0
            spans.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["ts"] + event["dur"]))
        elif event["ph"] == "b":
            open_calls[event["cat"], event["id"]] = event["ts"]
        else:
            assert event["ph"] == "e"
            assert open_calls.pop((event["cat"], event["id"])) <= event["ts"]
    assert not open_calls
    for line in spans.values():
        for start, end in line:
            for other_start, other_end in line:
                nested = other_start >= start and other_end <= end + 0.001
                around = other_start <= start and other_end >= end - 0.001
                apart = other_end <= start + 0.001 or other_start >= end - 0.001
                assert nested or around or apart, (start, end, other_start, other_end)

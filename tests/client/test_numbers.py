import argparse
import itertools
from importlib.metadata import entry_points

import pytest
from endcap_client import numbers
from endcap_client.cli import COMMANDS, main
from endcap_client.request_command import add_request_command

WRONG = ("", "x", "nan", "inf", "-inf", "1e400", "-1", "9" * 30, "-99999999999", "٣x", "1,x")


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        (numbers.whole(1, 10), {"1": 1, "10": 10, " 7": 7}, ("0", "11", "1.5", "1e1")),
        (numbers.number(0, 1), {"0": 0.0, "1": 1.0, "1e-3": 0.001}, ("-0.1", "1.0001")),
        (numbers.number(0, 1, above=True), {"0.5": 0.5, "1": 1.0}, ("0", "-0", "0.0")),
        (numbers.listed(numbers.whole(1, 9)), {"3,1,3": (1, 3), "2": (2,)}, ("0,1", "1,,2", "1;2")),
        (numbers.share, {"5%": 0.05, "0.5": 0.5, "100%": 1.0}, ("0", "0%", "101%", "1.1", "%")),
        (numbers.port, {"0": 0, "65535": 65535}, ("65536", "99999")),
    ],
)
def test_numbers(kind, right, wrong):
    assert {text: kind(text) for text in right} == right
    for text in {*wrong, *WRONG}:
        with pytest.raises(argparse.ArgumentTypeError, match=r"^expected .*, got '") as refused:
            kind(text)
        assert len(str(refused.value)) < 120


def options(parser, words):
    """(words of the command, option) of every option that takes a number."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, each in action.choices.items():
                yield from options(each, [*words, name])
        elif action.option_strings and callable(action.type) and isinstance(action.default, int | float | None):
            # Where the default does not say, those of paths and texts are no numbers.
            try:
                action.type("1")
                action.type("x")
            except (argparse.ArgumentTypeError, ValueError):
                yield words, action.option_strings[-1]


def commands():
    parser = argparse.ArgumentParser(prog="endcap")
    subparsers = parser.add_subparsers()
    add_request_command(subparsers)
    for entry in entry_points(group=COMMANDS):
        entry.load()(subparsers)
    return list(options(parser, []))


def test_every_number_of_every_command_has_a_range(capsys):
    found = commands()
    assert {words[0] for words, _ in found} >= {"serve", "request", "build", "apply", "compare", "rollback", "bench"}
    for (words, option), wrong in itertools.product(found, ("-99999999999", "9" * 30, "nan", "x")):
        with pytest.raises(SystemExit) as ended:
            main([*words, f"{option}={wrong}"])
        assert ended.value.code == 2
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert option in said, (words, option)
        assert "expected" in said

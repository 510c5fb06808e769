"""The reader of positions agrees with protobuf's own parser on every text that protobuf accepts."""

from pathlib import Path

import pytest
from endcap_server.lint.finding import Where
from endcap_server.lint.pbtxt import Field, read_fields
from google.protobuf import text_format
from hypothesis import example, given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

HERE = Path("config.pbtxt")
CONFIGS = sorted((Path(__file__).resolve().parents[2] / "model_repository").rglob("*.pbtxt"))

names = st.text(max_size=12)
tensors = st.builds(
    model_config_pb2.ModelInput,
    name=names,
    data_type=st.sampled_from(model_config_pb2.DataType.values()),
    dims=st.lists(st.integers(-1, 9), max_size=3),
    optional=st.booleans(),
)
steps = st.builds(
    model_config_pb2.ModelEnsembling.Step,
    model_name=names,
    model_version=st.integers(-1, 5),
    input_map=st.dictionaries(names, names, max_size=3),
)
configs = st.builds(
    model_config_pb2.ModelConfig,
    name=names,
    max_batch_size=st.integers(-5, 5),
    input=st.lists(tensors, max_size=3),
    ensemble_scheduling=st.builds(model_config_pb2.ModelEnsembling, step=st.lists(steps, max_size=3)),
    parameters=st.dictionaries(names, st.builds(model_config_pb2.ModelParameter, string_value=names), max_size=3),
)


def agrees(field: Field, config: model_config_pb2.ModelConfig) -> None:
    assert [each.text("name") for each in field.all("input")] == [each.name for each in config.input]
    assert [[int(dim.value) for dim in each.all("dims")] for each in field.all("input")] == [
        list(each.dims) for each in config.input
    ]
    found = field.find("ensemble_scheduling").all("step") if config.ensemble_scheduling.step else []
    assert [each.text("model_name") for each in found] == [each.model_name for each in config.ensemble_scheduling.step]
    for each, step in zip(found, config.ensemble_scheduling.step, strict=True):
        assert {link.text("key"): link.text("value") for link in each.all("input_map")} == dict(step.input_map)
    parameters = {each.text("key"): each.find("value").text("string_value") for each in field.all("parameters")}
    assert parameters == {key: value.string_value for key, value in config.parameters.items()}


@given(config=configs, one_line=st.booleans(), short=st.booleans(), angles=st.booleans(), utf8=st.booleans())
def test_whatever_protobuf_writes_is_read_alike(
    config: model_config_pb2.ModelConfig, one_line: bool, short: bool, angles: bool, utf8: bool
) -> None:
    text = text_format.MessageToString(
        config, as_one_line=one_line, use_short_repeated_primitives=short, pointy_brackets=angles, as_utf8=utf8
    )
    agrees(read_fields(HERE, text), config)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_our_own_files_are_read_alike(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    agrees(read_fields(path, text), text_format.Parse(text, model_config_pb2.ModelConfig()))


def test_lines_of_fields_and_of_elements_of_lists() -> None:
    text = """# one
input [
  { name: "A" },
  # two
  {
    name: "B" # not alone
    dims: [ 1,
            -1 ]
  }
]
parameters: { key: 'k' value: { string_value: "a"
  "b" } }
"""
    root = read_fields(HERE, text)
    first, second = root.all("input")
    assert [each.line for each in (first.where, second.where, second.place("name"))] == [3, 5, 6]
    assert [(each.value, each.where.line) for each in second.all("dims")] == [("1", 7), ("-1", 8)]
    assert root.find("parameters", "value", "string_value").value == "ab"
    assert root.place("output") == Where(HERE, 2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # protobuf's own, of an escape that it does not know
@given(name=st.text(), quote=st.sampled_from("'\""))
@example('\\x41\\102\\n\\"', "'")
def test_whatever_string_protobuf_accepts_is_read_alike(name: str, quote: str) -> None:
    text = f"name: {quote}{name}{quote} {quote}{name}{quote}"
    try:
        config = text_format.Parse(text, model_config_pb2.ModelConfig())
    except text_format.ParseError:
        return
    assert read_fields(HERE, text).text("name") == config.name

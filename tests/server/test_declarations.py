"""What is derived from the declarations of models is up to date, and what the declarations say is true."""

from pathlib import Path

import pytest
from endcap_server.ensembles import ENSEMBLES, STAGES
from endcap_server.lint import read_repository
from endcap_server.lint.checks_files import NEWER_FIELDS
from endcap_server.models import DECLARATIONS, ENGINES, MODELS, base_name
from endcap_server.serving.model_repository import rendered, write
from endcap_server.shop.store import STORE_FILES, ItemStore, StoreError
from google.protobuf import text_format
from tiny_shop import build_shop
from tritonclient.grpc import model_config_pb2

REPOSITORY = Path(__file__).resolve().parents[2] / "model_repository"


def test_the_repository_is_what_the_declarations_say() -> None:
    paths = [*REPOSITORY.rglob("*.pbtxt"), *REPOSITORY.glob("*/1/model.py")]
    committed = {str(path.relative_to(REPOSITORY)): path.read_text(encoding="utf-8") for path in paths}
    assert committed == rendered(), "run make render"


def test_the_rendering_is_written_whole(tmp_path: Path) -> None:
    write(tmp_path)
    assert set(read_repository(tmp_path).models) == set(MODELS)


def test_every_model_that_is_no_ensemble_has_code() -> None:
    with_code = {path.parts[-3] for path in REPOSITORY.glob("*/1/model.py")}
    assert with_code == set(DECLARATIONS) == set(STAGES) | set(ENGINES)


@pytest.mark.parametrize("name", sorted(DECLARATIONS))
def test_rendered_parameters_are_the_defaults(name: str) -> None:
    declared = DECLARATIONS[name].parameters
    proto = text_format.Parse(rendered()[f"{name}/config.pbtxt"], model_config_pb2.ModelConfig())
    texts = {key: value.string_value for key, value in proto.parameters.items()}
    assert declared.from_strings(name, texts) == declared()


def test_engines_that_stages_call_are_declared() -> None:
    assert {engine for stage in STAGES.values() for engine in stage.declaration.calls} == set(ENGINES)


@pytest.mark.parametrize("name", sorted(ENSEMBLES))
def test_every_tensor_of_an_ensemble_is_made_before_it_is_read(name: str) -> None:
    ensemble = ENSEMBLES[name]
    known = {each.name: each for each in ensemble.inputs}
    for step in ensemble.steps:
        takes = {each.name: each for each in step.stage.declaration.inputs}
        gives = {each.name: each for each in step.stage.declaration.outputs}
        for tensor, source in step.inputs.items():
            assert (known[source].data_type, known[source].dims) == (takes[tensor].data_type, takes[tensor].dims)
        assert {tensor for tensor, each in takes.items() if not each.optional} <= set(step.inputs)
        known |= {target: gives[tensor] for tensor, target in step.outputs.items()}


def test_store_files_are_those_that_the_store_opens(tmp_path: Path) -> None:
    build_shop(tmp_path)
    ItemStore.open(tmp_path)
    for name in STORE_FILES:
        aside = (tmp_path / name).rename(tmp_path / "aside")
        if name == "index/keyword_products.npy":  # without them a keyword finds no products, and nobody says so
            assert (ItemStore.open(tmp_path).keyword_products == -1).all()
        else:
            with pytest.raises(StoreError):
                ItemStore.open(tmp_path)
        aside.rename(tmp_path / name)


def test_newer_fields_are_fields() -> None:
    for name in NEWER_FIELDS:
        kind = model_config_pb2.ModelConfig.DESCRIPTOR
        for part in name.split("."):
            assert part in kind.fields_by_name, f"{name}: no field of Triton's schema"
            field = kind.fields_by_name[part]
            kind = field.message_type


def test_a_version_is_no_other_model() -> None:
    assert base_name("rerank__v2") == "rerank"
    assert base_name("theme_llm") == "theme_llm"

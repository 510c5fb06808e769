"""What lint declares about our models is what their code and configurations say."""

import re
from pathlib import Path

import pytest
from endcap_server.lint import read_repository
from endcap_server.lint.declared import MODELS, NEWER_FIELDS, PARAMETERS, STAGES, STORE_FILES, base_name
from endcap_server.lint.repository import Tensor
from endcap_server.shop.store import ItemStore, StoreError
from tiny_shop import build_shop
from tritonclient.grpc import model_config_pb2

ROOT = Path(__file__).resolve().parents[2]
REPOSITORY = read_repository(ROOT / "model_repository")


def test_every_model_is_declared() -> None:
    assert set(MODELS) == set(REPOSITORY.models)
    assert set(PARAMETERS) | {name for name, known in MODELS.items() if known.public} == set(MODELS)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_tensors_are_those_of_the_configurations(name: str) -> None:
    def described(tensors: tuple[Tensor, ...]) -> set[tuple[str, str, tuple[int, ...], bool]]:
        return {(each.name, each.data_type, each.full_dims, each.optional) for each in tensors}

    for config in REPOSITORY.models[name].configs.values():
        for found, declared in ((config.inputs, MODELS[name].inputs), (config.outputs, MODELS[name].outputs)):
            assert described(found) == {(each.name, each.data_type, each.dims, each.optional) for each in declared}


@pytest.mark.parametrize("name", sorted(STAGES))
def test_calls_are_those_of_the_code(name: str) -> None:
    source = (ROOT / f"server/endcap_server/stages/{name}.py").read_text(encoding="utf-8")
    called = set(re.findall(r'engines\.call\(\s*"(\w+)"', source))
    assert called | ({"nearest"} if "NearestClient(" in source else set()) == set(MODELS[name].calls)


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

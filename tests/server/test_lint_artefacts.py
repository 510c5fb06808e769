"""The build around a repository: written by the real pipeline, with small files in the places of the models."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from endcap_builders.catalogue import write_catalogue
from endcap_builders.pipeline import Pipeline
from endcap_builders.step import BuildContext, Settings, Step
from endcap_builders.steps import repository as repository_step
from endcap_server.lint import lint_repository
from endcap_server.models import DECLARATIONS
from rich.console import Console

ORDER = ("bi_encoder", "store", "index", "lexical", "cross_encoder", "theme_llm", "keyword_llm", "ranker", "postings")
READS = {
    "store": ("bi_encoder",),
    "index": ("store",),
    "cross_encoder": ("store",),
    "ranker": ("store", "index"),
}


def files_of(step: str) -> set[str]:
    """The files that the models of the CPU profile open in a step's folder, and one more."""
    found = {"extra.txt"}
    for model in DECLARATIONS.values():
        opened = (*model.files(model.parameters()), *model.optional_files)
        found |= {path.partition("/")[2] for path in opened if path.startswith(f"{step}/")}
    return found


def make_step(name: str) -> Step:
    def run(context: BuildContext, settings: Settings) -> dict[str, Any]:
        for file in files_of(name):
            path = context.output / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{name} {file}", encoding="utf-8")
        return {}

    return Step(name=name, needs=READS.get(name, ()), settings=Settings, run=run, help=name)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("builds")
    products = pl.DataFrame({"product_id": ["a", "b", "c"], "title": ["Ash", "Birch", "Cedar"]})
    write_catalogue(folder / "catalogue", products)
    steps = [*(make_step(name) for name in ORDER), repository_step.STEP]
    console = Console(file=io.StringIO())
    Pipeline(steps, folder / "build", folder / "catalogue", console=console).run()
    return folder / "build"


@pytest.fixture
def build(finished: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "mine"
    shutil.copytree(finished, copy)
    return copy


def manifest_line(build: Path, step: str, text: str) -> int:
    lines = (build / "manifest.json").read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f'  "{step}": {{'))
    return next(number for number, line in enumerate(lines[start:], start + 1) if line.strip().startswith(f'"{text}"'))


def found(build: Path, **options: Any) -> set[tuple[str, str, int]]:
    return {
        (each.code.name, str(each.where.path.relative_to(build)), each.where.line)
        for each in lint_repository(build, **options)
    }


def test_a_finished_build_is_clean(build: Path) -> None:
    assert found(build) == set()
    assert found(build / "repository") == set()


def test_sources_without_a_build_are_not_asked_for_artefacts(build: Path, tmp_path: Path) -> None:
    (tmp_path / "checkout").mkdir()
    (build / "repository").rename(tmp_path / "checkout" / "models")
    assert found(tmp_path / "checkout" / "models") == set()


@pytest.mark.parametrize(
    "name",
    ["store/vectors.npy", "index/products.faiss", "theme_llm/openvino_model.bin", "theme_llm/title_words.txt"],
)
def test_a_deleted_artefact(name: str, build: Path) -> None:
    step, _, file = name.partition("/")
    (build / name).unlink()
    assert found(build) == {("E602", "manifest.json", manifest_line(build, step, file))}


def test_a_deleted_ranker(build: Path) -> None:
    """Fusion would do without, and nobody would know."""
    shutil.rmtree(build / "ranker")
    lines = {name: manifest_line(build, "ranker", name) for name in ("extra.txt", "model.txt", "ranker.json")}
    assert found(build) == {
        ("E602", "manifest.json", lines["model.txt"]),
        ("E602", "manifest.json", lines["ranker.json"]),
        ("W605", "manifest.json", lines["extra.txt"]),
    }


def test_a_build_without_a_ranker(build: Path) -> None:
    manifest = json.loads((build / "manifest.json").read_text(encoding="utf-8"))
    del manifest["steps"]["ranker"]
    (build / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True), encoding="utf-8")
    shutil.rmtree(build / "ranker")
    assert found(build) == set()


def test_a_deleted_artefact_that_nobody_opens(build: Path) -> None:
    (build / "theme_llm/extra.txt").unlink()
    assert found(build) == {("W605", "manifest.json", manifest_line(build, "theme_llm", "extra.txt"))}


def test_an_artefact_that_was_never_built(build: Path) -> None:
    """Neither beside the repository nor in the manifest: the model that needs it is named."""
    manifest = json.loads((build / "manifest.json").read_text(encoding="utf-8"))
    del manifest["steps"]["theme_llm"]["files"]["config.json"]
    (build / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True), encoding="utf-8")
    (build / "theme_llm/config.json").unlink()
    assert found(build) == {("E602", "repository/theme_llm/config.pbtxt", 17)}


def test_an_implementation_whose_artefacts_are_missing(build: Path) -> None:
    path = build / "repository/theme_llm/config.pbtxt"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"openvino_genai"', '"tensorrt_llm"'), encoding="utf-8")
    line = text[: text.index('"openvino_genai"')].count("\n") + 1
    findings = lint_repository(build, ["cpu"])
    assert {(each.code.name, each.where.path.name, each.where.line) for each in findings} == {
        ("E213", "config.pbtxt", line),
        ("E602", "config.pbtxt", line),
    }


def test_the_packed_cross_encoder_is_an_implementation_for_gpus(build: Path) -> None:
    path = build / "repository/cross_encoder/configs/gpu.pbtxt"
    text = path.read_text(encoding="utf-8").replace('"tensorrt"', '"packed"')
    path.write_text(text, encoding="utf-8")
    assert not [each for each in lint_repository(build, ["gpu"]) if each.where.path == path]


def test_a_changed_artefact(build: Path) -> None:
    (build / "store/price.npy").write_text("other", encoding="utf-8")
    expected = {("E603", "manifest.json", manifest_line(build, "store", "price.npy"))}
    assert found(build) == expected
    assert found(build, hashes=False) == set()


def test_an_index_of_another_store(build: Path) -> None:
    """A store that was built anew, with an index that was not."""
    manifest = json.loads((build / "manifest.json").read_text(encoding="utf-8"))
    manifest["steps"]["index"]["read"]["store"]["vectors.npy"] = "0123456789abcdef"
    (build / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True), encoding="utf-8")
    assert found(build) == {("E604", "manifest.json", manifest_line(build, "index", "vectors.npy"))}


def unlink(build: Path) -> None:
    (build / "manifest.json").unlink()


def truncate(build: Path) -> None:
    path = build / "manifest.json"
    path.write_text(path.read_text(encoding="utf-8")[:500], encoding="utf-8")


@pytest.mark.parametrize("harm", [unlink, truncate])
def test_no_readable_manifest(harm: Callable[[Path], None], build: Path) -> None:
    harm(build)
    assert found(build) == {("E601", "manifest.json", 0)}


def test_an_ensemble_of_a_build_has_a_version_folder(build: Path) -> None:
    (build / "repository/search/1").rmdir()
    assert found(build) == {("E104", "repository/search/config.pbtxt", 2)}


def test_configs_may_be_edited_in_a_build(build: Path) -> None:
    path = build / "repository/rerank/config.pbtxt"
    path.write_text(path.read_text(encoding="utf-8").replace('"100"', '"90"'), encoding="utf-8")
    assert found(build) == set()


def test_a_model_that_a_refresh_kept(build: Path) -> None:
    """It may be older than the files beside it, but those have to be the ones of the refresh."""
    path = build / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    entry = manifest["steps"]["cross_encoder"]
    entry["kept"] = {"read": entry["read"]}
    entry["read"] = {"store": dict.fromkeys(entry["read"]["store"], "0123456789abcdef")}
    path.write_text(json.dumps(manifest, indent=1, sort_keys=True), encoding="utf-8")
    assert found(build) == set()
    entry["kept"] = {"read": entry["read"]}
    path.write_text(json.dumps(manifest, indent=1, sort_keys=True), encoding="utf-8")
    assert {code for code, _, _ in found(build)} == {"E604"}

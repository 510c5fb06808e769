"""What a generation is made of: snapshots, sharing, the repository that Triton reads, and the difference in words."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from endcap_server.apply.difference import difference
from endcap_server.exposures.record import FOLDER as EXPOSURES
from endcap_server.generations.composition import compose, view_of
from endcap_server.generations.render import render_ensemble, render_models
from endcap_server.generations.snapshot import source_folders, take_snapshot
from endcap_server.generations.start import prepare
from endcap_server.lint.repository import View
from endcap_server.prepared.stores import FOLDER as PREPARED
from endcap_server.serving.generation import KEPT, ApplyError, Generation, StateFolder
from endcap_server.stages.fusion import FusionParameters
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

MARGIN = FusionParameters().margin
"""The first parameter of fusion's configuration."""

MODELS = Path(__file__).resolve().parents[2] / "model_repository"
STEPS = ("bi_encoder", "index", "store", "cross_encoder", "theme_llm", "keyword_llm", "ranker", "postings")
FILES = {"postings": ("postings.json",)}
"""Files of a step that models open only if the build has them; else "data"."""


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """A build whose artefacts are one small file a step."""
    folder = tmp_path / "build"
    shutil.copytree(MODELS, folder / "repository", ignore=shutil.ignore_patterns("__pycache__"))
    for step in STEPS:
        (folder / step).mkdir()
        (folder / step / "data").write_text(step, encoding="utf-8")
    (folder / "logs").mkdir()
    manifest(folder)
    return folder


@pytest.fixture
def state(tmp_path: Path) -> StateFolder:
    return StateFolder(tmp_path / "serving")


def manifest(build: Path, **changed: str) -> None:
    steps = {step: {"files": dict.fromkeys(FILES.get(step, ("data",)), changed.get(step, "0"))} for step in STEPS}
    (build / "manifest.json").unlink(missing_ok=True)
    (build / "manifest.json").write_text(json.dumps({"steps": steps}), encoding="utf-8")


def edit(build: Path, model: str, old: str, new: str) -> None:
    path = build / "repository" / model / "config.pbtxt"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def generation(state: StateFolder, build: Path, number: int, live: Generation | None) -> tuple[Generation, View]:
    take_snapshot(build / "repository", build, state.snapshot(number))
    view = view_of(state.snapshot(number), "cpu")
    found = compose(number, str(build), view, state.snapshot(number), live)
    state.write(found)
    return found, view


def config(state: StateFolder, name: str) -> model_config_pb2.ModelConfig:
    text = (state.models / name / "config.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def loaded(found: Generation) -> set[str]:
    return set(found.own)


def test_a_snapshot_outlives_its_build(state: StateFolder, build: Path) -> None:
    take_snapshot(build / "repository", build, state.snapshot(1))
    shutil.rmtree(build)
    assert (state.snapshot(1) / "store/data").read_text(encoding="utf-8") == "store"
    assert not (state.snapshot(1) / "logs").exists()
    assert (state.snapshot(1) / "repository/search/1").is_dir()


def test_no_snapshot_has_what_is_about_shoppers(state: StateFolder, build: Path) -> None:
    """What is erased from the deployment must not live on in a generation."""
    for folder in (EXPOSURES, PREPARED):
        (build / folder).mkdir()
        (build / folder / "data").touch()
    take_snapshot(build / "repository", build, state.snapshot(1))
    assert not {EXPOSURES, PREPARED} & {path.name for path in state.snapshot(1).iterdir()}


def test_a_snapshot_takes_no_space(state: StateFolder, build: Path) -> None:
    take_snapshot(build / "repository", build, state.snapshot(1))
    assert (state.snapshot(1) / "store/data").stat().st_ino == (build / "store/data").stat().st_ino


def test_the_first_generation_has_plain_names(state: StateFolder, build: Path) -> None:
    first, _ = generation(state, build, 1, None)
    assert all(model == name for model, name in first.models.items())
    assert first.public == ("storefront", "search")
    assert set(first.models) == {path.name for path in MODELS.iterdir() if path.is_dir()}
    assert state.read(1) == first


def test_an_edited_stage_is_loaded_with_the_one_that_reports(state: StateFolder, build: Path) -> None:
    first, _ = generation(state, build, 1, None)
    edit(build, "theme", '"0.92"', '"0.9"')
    second, _ = generation(state, build, 2, first)
    assert loaded(second) == {"theme__g2", "fusion__g2"}
    assert second.models["rerank"] == "rerank"
    edit(build, "rerank", '"100"', '"90"')
    third, _ = generation(state, build, 3, second)
    assert loaded(third) == {"rerank__g3", "fusion__g3"}
    assert (third.models["theme"], third.owners["theme"]) == ("theme__g2", 2)


def test_an_engine_takes_the_stages_that_call_it_along(state: StateFolder, build: Path) -> None:
    first, _ = generation(state, build, 1, None)
    edit(build, "cross_encoder", '"200000"', '"100000"')
    second, view = generation(state, build, 2, first)
    assert loaded(second) == {"cross_encoder__g2", "rerank__g2", "fusion__g2"}
    render_models(state, view, second)
    engines = json.loads(config(state, "rerank__g2").parameters["engines"].string_value)
    assert engines == {"nearest": "nearest", "cross_encoder": "cross_encoder__g2"}


@pytest.mark.parametrize(
    ("step", "shared"),
    [
        (
            "ranker",
            {"nearest", "retrieval", "theme", "theme_llm", "keywords", "keyword_llm", "rerank", "cross_encoder"},
        ),
        ("index", {"theme_llm", "keyword_llm"}),
        ("store", {"nearest", "theme_llm", "keyword_llm"}),
        ("postings", {"nearest", "retrieval", "theme", "theme_llm", "keywords", "keyword_llm", "cross_encoder"}),
        ("keyword_llm", {"nearest", "retrieval", "theme", "theme_llm", "rerank", "cross_encoder"}),
    ],
)
def test_an_artefact_takes_along_what_opens_it(state: StateFolder, build: Path, step: str, shared: set[str]) -> None:
    first, _ = generation(state, build, 1, None)
    manifest(build, **{step: "1"})
    second, _ = generation(state, build, 2, first)
    assert {model for model, owner in second.owners.items() if owner == 1} == shared


def test_comments_and_order_change_nothing(state: StateFolder, build: Path) -> None:
    first, _ = generation(state, build, 1, None)
    edit(build, "theme", "# Stage 2", "# The second stage")
    second, _ = generation(state, build, 2, first)
    assert second.digests == first.digests


def test_code_counts(state: StateFolder, build: Path) -> None:
    first, _ = generation(state, build, 1, None)
    with (build / "repository/keywords/1/model.py").open("a", encoding="utf-8") as file:
        file.write("# another line\n")
    second, _ = generation(state, build, 2, first)
    assert "keywords__g2" in loaded(second)


def test_an_ensemble_that_callers_know_must_stay(state: StateFolder, build: Path) -> None:
    first, _ = generation(state, build, 1, None)
    shutil.rmtree(build / "repository/search")
    with pytest.raises(ApplyError, match="the ensemble search is missing"):
        generation(state, build, 2, first)


def test_what_triton_reads(state: StateFolder, build: Path) -> None:
    first, _ = generation(state, build, 1, None)
    edit(build, "retrieval", '"2000"', '"2500"')
    second, view = generation(state, build, 2, first)
    render_models(state, view, second)
    render_ensemble(state, view, second, "search", "search")
    render_ensemble(state, view, second, "search", second.staging("search"))
    assert [step.model_name for step in config(state, "search").ensemble_scheduling.step] == [
        "retrieval__g2",
        "rerank",
        "fusion__g2",
    ]
    assert config(state, "search") == config(state, "search__g2")
    fusion = config(state, "fusion__g2").parameters
    assert fusion["generation"].string_value == "2"
    place = (state.models / "fusion__g2" / fusion["build"].string_value).resolve()
    assert place == state.snapshot(2).resolve()
    assert (state.models / "fusion__g2/1/model.py").exists()
    assert not (state.models / "theme").exists(), "shared models are left alone"


def test_importing_a_model_does_not_change_its_folder(state: StateFolder, build: Path) -> None:
    first, view = generation(state, build, 1, None)
    render_models(state, view, first)
    folder = state.models / "fusion" / "1"
    before = folder.stat().st_mtime_ns
    (folder / "model.py").unlink()  # a link to the repository's
    (folder / "model.py").write_text("FOUND = 1\n", encoding="utf-8")
    os.utime(folder, ns=(before, before))
    code = "import model, sys; assert not sys.dont_write_bytecode; print(model.FOUND)"
    environment = {"PYTHONPATH": str(folder), "PATH": os.environ["PATH"]}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "1\n", done.stderr
    assert folder.stat().st_mtime_ns == before
    assert not (folder / "__pycache__").is_dir()


def test_one_table_of_requests_in_flight_for_each_retrieval(state: StateFolder, build: Path) -> None:
    first, _ = generation(state, build, 1, None)
    edit(build, "retrieval", '"2000"', '"2500"')
    second, _ = generation(state, build, 2, first)
    edit(build, "fusion", f'"{MARGIN}"', '"0.3"')
    third, _ = generation(state, build, 3, second)
    assert first.table == "retrieval"
    assert second.table == third.table == "retrieval__g2"


def test_the_difference_in_words(state: StateFolder, build: Path) -> None:
    first, first_view = generation(state, build, 1, None)
    edit(build, "cross_encoder", '"200000"', '"100000"')
    edit(build, "search", 'value: "row" }', 'value: "rows" }')
    edit(build, "search", 'value: "row" }', 'value: "rows" }')
    manifest(build, theme_llm="1")
    second, view = generation(state, build, 2, first)
    lines = difference(view, second, first_view, first)
    said = "\n".join(lines)
    assert "  cross_encoder: loads as cross_encoder__g2\n      parameters.cache_pairs: 200000 -> 100000" in said
    assert "ensemble_scheduling.step[rerank].output_map.ROW: row -> rows" in said
    assert "  theme_llm: loads as theme_llm__g2\n      its artefacts or code" in said
    assert "  theme: loads as theme__g2\n      calls theme_llm" in said
    assert lines[-1] == "  shared with generation 1: nearest, retrieval, keyword_llm, keywords"


def test_sources(build: Path, tmp_path: Path) -> None:
    assert source_folders(build, tmp_path) == (build / "repository", build)
    assert source_folders(build / "repository", tmp_path) == (build / "repository", build)
    assert source_folders(MODELS, tmp_path) == (MODELS, tmp_path)
    with pytest.raises(ApplyError, match="expected a build with a repository"):
        source_folders(tmp_path / "nothing", tmp_path)


def test_a_server_starts_with_the_build_as_it_is(state: StateFolder, build: Path) -> None:
    assert prepare(state, build, "cpu").number == 1
    assert prepare(state, build, "cpu").number == 1, "nothing has changed"
    edit(build, "fusion", f'"{MARGIN}"', '"0.3"')
    assert prepare(state, build, "cpu", again=True).number == 1, "edited while it runs, and not applied"
    assert prepare(state, build, "cpu").number == 2
    assert config(state, "fusion").parameters["margin"].string_value == "0.3"


def test_a_repository_of_another_version_is_not_served(state: StateFolder, build: Path) -> None:
    edit(build, "theme", '"THEMES"', '"THEME"')
    with pytest.raises(ApplyError, match=r"theme .*output THEME.*another version of endcap.*build --out .* repository"):
        prepare(state, build, "cpu")
    edit(build, "theme", '"THEME"', '"THEMES"')
    assert prepare(state, build, "cpu").number == 1


def test_a_server_comes_back_with_what_was_applied(state: StateFolder, build: Path) -> None:
    first = prepare(state, build, "cpu")
    edit(build, "fusion", f'"{MARGIN}"', '"0.3"')
    state.journal.write("began", 2, kind="apply", source=str(build))
    second, view = generation(state, build, 2, first)
    render_models(state, view, second)
    for step in ("load", "compare", "switch"):
        state.journal.step(2, step)
    assert prepare(state, build, "cpu", again=True).number == 1, "not wholly switched"
    assert {path.name for path in state.models.iterdir()} == set(first.models)
    state.journal.write("began", 3, kind="apply", source=str(build))
    third, view = generation(state, build, 3, first)
    render_models(state, view, third)
    for step in ("load", "compare", "switch", "watch"):
        state.journal.step(3, step)
    for again in (True, False):
        assert prepare(state, build, "cpu", again=again) == third
        assert {path.name for path in state.models.iterdir()} == set(third.models.values())
        assert config(state, "storefront").ensemble_scheduling.step[-1].model_name == "fusion__g3"
    assert prepare(state, build, "cpu", as_built=True).number == 4


def test_old_generations_go(state: StateFolder, build: Path) -> None:
    live, _ = generation(state, build, 1, None)
    edit(build, "theme", '"0.92"', '"0.91"')
    live, _ = generation(state, build, 2, live)
    for number in range(3, 3 + KEPT + 1):
        edit(build, "fusion", f'"{MARGIN}', f'"{MARGIN}1')
        edit(build, "fusion", f'"{MARGIN}1', f'"{MARGIN}')
        live, _ = generation(state, build, number, live)
    state.prune(live)
    assert state.kept() == [1, 2, *range(number - KEPT + 1, number + 1)], "the live one shares models with 1 and 2"
    with pytest.raises(ApplyError, match="generation 3: its files are gone; those that are kept: 1, 2, 4"):
        state.read(3)


def test_one_rollout_at_a_time(state: StateFolder) -> None:
    with state.locked(), pytest.raises(ApplyError, match="another apply or rollback"), state.locked():
        pass
    with state.locked():
        pass

"""`endcap evaluate search` on a tiny shop, and the arithmetic of its figures."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from endcap_builders.evaluation.command import run_built, run_evaluation
from endcap_builders.evaluation.metrics import corpus_figures, judged_figures
from endcap_builders.evaluation.queries import EvaluationError, Judged, read_judged
from endcap_builders.evaluation.request import EvaluationRequest
from endcap_builders.evaluation.summary import summarise
from endcap_builders.evaluation.systems import Searched
from endcap_builders.relevance.labels import LabelScale
from endcap_builders.relevance.pairs import RelevanceError, make_pairs
from endcap_builders.step import BuildError
from rich.console import Console
from tiny_relevance import TITLES, copy_shop, pipeline, write_shop

UNSEEN = ("blue oak desk", "red wool rug", "Brass  LAMP table", "oak chair mug")


def judged_of(queries, rows, grades):
    pairs = make_pairs(queries, np.array(rows), np.array(grades))
    return Judged(pairs.with_target((pairs.target - 1) / 3), pairs.target.astype(float), "test")


def test_judged_figures_follow_their_definitions():
    judged = judged_of(["a"] * 3 + ["b"] * 2 + ["c"], [0, 1, 2, 0, 1, 0], [4, 1, 2.67, 2, 2, 3])
    figures = judged_figures(judged, np.array([0.1, 0.9, 0.5, 1.0, 2.0, 1.0]))
    # Of query a the order is 1, 2.67, 4: every pair is in the wrong order.
    discount = 1 / np.log2([2, 3, 4])
    expected = np.array([1, 2.67, 4]) @ discount / (np.array([4, 2.67, 1]) @ discount)
    assert figures["ndcg"][0] == pytest.approx(expected, abs=1e-6)
    assert (figures["accuracy"][0], figures["spearman"][0]) == (0.0, pytest.approx(-1))
    # All labels equal, and one product alone: there is no order to get right.
    assert all(np.isnan(figures[name][1:]).all() for name in figures)
    assert judged_figures(judged, judged.grades)["ndcg"][0] == 1
    tied = judged_figures(judged, np.zeros(6))
    assert (tied["accuracy"][0], tied["spearman"][0]) == (0.5, 0.0)


def test_corpus_figures_count_unjudged_products_as_nothing():
    judged = judged_of(["a"] * 2 + ["b"] * 2, [3, 4, 3, 4], [4, 2, 1, 2])
    ranked = [np.array([7, 3, 8]), np.array([3])]
    figures = corpus_figures(judged, ranked, relevant=0.5)
    ideal = 4 + 2 / np.log2(3)
    assert figures["corpus_ndcg"][0] == pytest.approx(4 / np.log2(3) / ideal, abs=1e-6)
    assert figures["corpus_recall"][0] == 1
    assert np.isnan(figures["corpus_recall"][1])


def test_differences_are_paired_by_query_and_seed():
    rng = np.random.default_rng(0)
    hard = rng.random(300)
    teacher = {1: {"ndcg": hard}, 2: {"ndcg": hard + 0.2}}
    student = {1: {"ndcg": hard + 0.01}, 2: {"ndcg": hard + 0.21}}
    found = summarise({"teacher": teacher, "student": student, "BM25": {None: {"ndcg": hard}}}, ["teacher"])
    difference = found["student"]["minus"]["teacher"]["ndcg"]
    assert difference["value"] == pytest.approx(0.01, abs=1e-4)
    assert difference["high"] - difference["low"] < 1e-3
    interval = found["student"]["figures"]["ndcg"]
    assert interval["low"] < interval["value"] - 0.02
    assert found["BM25"]["minus"]["teacher"]["ndcg"]["value"] == pytest.approx(-0.1, abs=1e-4)
    one = summarise({"teacher": teacher, "student": {2: student[2]}}, ["teacher"])["student"]
    assert one["minus"]["teacher"]["ndcg"]["value"] == pytest.approx(0.01, abs=1e-4)
    assert (one["seeds"], one["by_seed"]["ndcg"]) == ([2], [round(float(student[2]["ndcg"].mean()), 4)])


def write_unseen(folder: Path, queries=UNSEEN) -> Path:
    folder.mkdir()
    texts = pl.DataFrame({"query_id": range(len(queries)), "query": queries, "split": ["dev"] * len(queries)})
    texts.write_parquet(folder / "queries.parquet")
    rows = [
        (number, f"p{row}", 1.0 + len(set(query.lower().split()) & set(title.split())))
        for number, query in enumerate(queries)
        for row, title in enumerate(TITLES)
        if (row + number) % 2
    ]
    labels = pl.DataFrame(rows, schema=["query_id", "product_id", "relevance"], orient="row")
    labels.write_parquet(folder / "labels.parquet")
    return folder


@pytest.fixture(scope="module")
def shop(made_once, tmp_path_factory):
    folder = copy_shop(made_once("relevance_shop", write_shop), tmp_path_factory.mktemp("evaluation"))
    write_unseen(folder / "unseen")
    return folder


def request(shop, **changes):
    overrides = {
        "evaluate": {"labelled_pairs": 60, "multiples": "0,1,2", "layers": "2,1", "seeds": "1,2", "speed_rounds": 3,
                     "speed_pairs": 20},
        "teacher": {"checkpoint": str(shop / "classifier"), "learning_rate": 2e-3, "epochs": 6, "warm_up_pairs": 64,
                    "train_embeddings": True},
        "cross_encoder": {"learning_rate": 1e-3, "mined_group": 8, "least_steps": 5, "neighbour_share": 0.1},
    }  # fmt: skip
    asked = {"queries": shop / "unseen", "labels": shop / "unseen", "overrides": overrides, **changes}
    return EvaluationRequest(shop / "build", shop / "catalogue", **asked)


@pytest.fixture(scope="module")
def report(shop):
    return run_evaluation(request(shop), Console(quiet=True))


def test_report_has_every_system_with_intervals(shop, report):
    systems = report["systems"]
    students = ["student x0", "student x1", "student x2", "student x2, 1 layers"]
    assert list(systems) == ["random", "BM25", "bi-encoder", "teacher", *students]
    assert [systems[name]["seeds"] for name in ("teacher", "student x0", "student x1", "student x2")] == [
        [1, 2], [1, 2], [1], [1, 2],
    ]  # fmt: skip
    for row in systems.values():
        for name in ("ndcg", "accuracy", "spearman", "corpus_ndcg", "corpus_recall"):
            figure = row["figures"][name]
            assert figure["low"] <= figure["value"] <= figure["high"]
            assert figure["queries"] == len(UNSEEN)
    # Grades are words in common: an untrained encoder learns little of that from 60 pairs, BM25 has no need to.
    assert systems["BM25"]["figures"]["accuracy"]["value"] > 0.8
    assert set(systems["student x2"]["minus"]["teacher"]) >= {"ndcg", "accuracy", "spearman"}
    assert set(systems["student x1"]["minus"]) == {"teacher", "student x0"}
    rows = report["layers"]["rows"]
    assert list(rows) == ["2 layers", "1 layers"]
    assert rows["2 layers"]["ratio"]["value"] == 1
    assert rows["1 layers"]["ndcg_share"]["value"] > 0
    held_out = report["training"]["teacher"]["1"]["held_out"]
    assert 0 <= held_out["ece"] <= 1


def test_report_is_written_with_tables_and_plots(shop, report):
    folder = shop / "build/evaluation/unseen-dev"
    assert json.loads((folder / "report.json").read_text(encoding="utf-8"))["systems"] == report["systems"]
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert "| student x2, 1 layers | 1 |" in text
    assert text.count("| teacher |") == 2  # its figures, and its difference to the student without augmentation
    for name in ("curve.png", "cost.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


def test_evaluated_queries_are_never_mined(shop, report):
    pools = list((shop / "build/.evaluation").glob("pool-*/pairs.parquet"))
    assert len(pools) == 2
    for path in pools:
        mined = pl.read_parquet(path)
        assert not {" ".join(text.casefold().split()) for text in UNSEEN} & set(mined["query"].to_list())
        assert mined.select("query", "product").is_duplicated().sum() == 0
        assert mined["score"].is_between(0, 1).all()


def test_second_run_trains_nothing_and_adds_what_is_missing(shop, report):
    work = shop / "build/.evaluation"

    def models():
        return {path: path.stat().st_mtime_ns for path in work.glob("*/figures.json")}

    before = models()
    again = run_evaluation(request(shop), Console(quiet=True))
    assert again["systems"] == report["systems"]
    assert models() == before
    lost = next(work.glob("student-x1-*"))
    shutil.rmtree(lost)
    once_more = run_evaluation(request(shop), Console(quiet=True))
    assert once_more["systems"]["teacher"] == report["systems"]["teacher"]
    changed = {path for path, when in models().items() if before.get(path) != when}
    assert changed == {lost / "figures.json"}


def test_without_files_the_held_out_queries_are_measured(shop, report):
    overrides = request(shop).overrides
    small = {**overrides, "evaluate": {**overrides["evaluate"], "multiples": "0", "layers": "2", "seeds": "1"}}
    found = run_evaluation(request(shop, queries=None, labels=None, overrides=small), Console(quiet=True))
    assert found["queries"]["source"] == "held-out queries of the catalogue, judgements"
    assert found["queries"]["queries"] > 1


def test_models_of_a_build_are_measured_as_they_are(shop, report):
    with pytest.raises(RelevanceError, match="expected a trained teacher, got none"):
        run_built(request(shop), Console(quiet=True))
    pipeline(shop, teacher={"epochs": 1}).run()
    before = (shop / "build/cross_encoder/model.bin").stat().st_mtime_ns
    systems = run_built(request(shop), Console(quiet=True))["systems"]
    assert list(systems) == ["random", "BM25", "bi-encoder", "teacher", "student"]
    assert systems["BM25"]["figures"] == report["systems"]["BM25"]["figures"]
    assert systems["teacher"]["figures"] != systems["student"]["figures"]
    for name in ("teacher", "student"):
        assert systems[name]["figures"]["corpus_recall"]["queries"] == len(UNSEEN)
    assert (shop / "build/cross_encoder/model.bin").stat().st_mtime_ns == before
    assert "| student |" in (shop / "build/evaluation/unseen-dev/built.md").read_text(encoding="utf-8")


def test_queries_that_training_has_seen_are_left_out(shop, tmp_path):
    unseen = write_unseen(tmp_path / "mixed", ("oak desk", " OAK  Chair", *UNSEEN))
    ids = pl.Series("product_id", [f"p{row}" for row in range(len(TITLES))])
    scale = LabelScale()
    judged = read_judged(unseen, unseen / "labels.parquet", "dev", ids, scale, {"Oak desk", "oak chair"})
    assert (judged.left_out, len(judged.pairs.queries)) == (2, len(UNSEEN))
    assert judged.grades.min() == 1
    assert judged.pairs.target.max() == 1
    with pytest.raises(EvaluationError, match=r"expected judged queries .* got none of 6"):
        read_judged(unseen, unseen, "dev", ids, scale, {"oak desk", "oak chair", *UNSEEN})
    with pytest.raises(RelevanceError, match=r"a label in 1\.\.2, .* got 3"):
        read_judged(unseen, unseen, "dev", ids, LabelScale.parse("1:0 2:1"), set())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, "--queries and --labels go together"),
        ({"split": "test"}, "split 'test'"),
        ({"queries": Path("nowhere")}, "expected a Parquet file"),
        ({"overrides": {"evaluate": {"seeds": "one"}}}, r"setting evaluate\.seeds"),
        ({"overrides": {"store": {}}}, "evaluate, teacher or cross_encoder, got 'store'"),
        ({"overrides": {"evaluate": {"labelled_pairs": 60, "multiples": "0,500"}}}, "lower multiples"),
    ],
)
def test_what_cannot_be_evaluated_is_named(shop, changes, message):
    if "multiples" in str(changes):
        asked = request(shop).overrides
        changes["overrides"] = {**asked, "evaluate": {**asked["evaluate"], "multiples": "0,500", "seeds": "1"}}
    with pytest.raises(BuildError, match=message):
        run_evaluation(request(shop, **changes), Console(quiet=True))


def test_build_without_a_store_is_named(shop, tmp_path):
    with pytest.raises(EvaluationError, match="none of bi_encoder; run `endcap build bi_encoder"):
        run_evaluation(EvaluationRequest(tmp_path, shop / "catalogue"), Console(quiet=True))


def test_exponential_gains_leave_the_lowest_grade_out():
    judged = replace(judged_of(["a"] * 3, [0, 1, 2], [1, 2, 4]), lowest=1.0)
    found = judged_figures(judged, np.array([3.0, 2.0, 1.0]))
    discount = 1 / np.log2([2, 3, 4])
    expected = np.array([0, 1, 7]) @ discount / (np.array([7, 1, 0]) @ discount)
    assert found["ndcg_exponential"][0] == pytest.approx(expected, abs=1e-6)
    # An unjudged product gains nothing; neither does one of the lowest grade.
    corpus = corpus_figures(judged, [np.array([9, 0, 2])], relevant=0.5)
    assert corpus["corpus_ndcg_exponential"][0] == pytest.approx(7 * discount[2] / (7 + discount[1]), abs=1e-6)


def test_places_of_a_search_order_the_judged_products():
    pairs = make_pairs(["a", "a", "a", "b"], np.array([0, 1, 2, 3]), np.zeros(4))
    found = Searched([np.array([7, 2, 0]), np.array([], np.int64)], np.array([1.0, 2.0]), 0, np.array([3, 0]))
    assert found.scores(pairs).tolist() == [-2, -100, -1, -100]

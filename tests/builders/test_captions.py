"""Caption tokens, the DLRM-type ranker, and their evaluation."""

import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from endcap_builders.behaviour.log import EventLog
from endcap_builders.captions.dlrm import DlrmRanker, DlrmSettings
from endcap_builders.captions.measures import Draws, compared, measured
from endcap_builders.captions.tokens import TokenSettings, caption_ids, semantic_ids
from endcap_builders.captions.visits import Visits, baskets_of, weeks_of
from endcap_builders.catalogue.write import write_catalogue
from endcap_builders.evaluation import captions
from endcap_builders.evaluation.captions import CaptionEvaluation, run_captions
from endcap_client.cli import main
from endcap_server.shop.columns import Ragged
from endcap_server.stages.ranking_features import FEATURES
from rich.console import Console

from tests.builders.test_ranker import PRODUCTS, TASTES, make_events, make_store


def tokens_of(texts: list[str], **settings: float) -> list[list[int]]:
    column, _ = caption_ids(texts, TokenSettings.model_validate({"least": 2, "most_share": 1, **settings}))
    return [column.row(row).tolist() for row in range(len(column))]


def test_words_that_differ_in_form_only_are_one_token() -> None:
    first, second, third = tokens_of(["Ｒed shirts", "the RED Shirt", "a 24 of"], phrase_pmi=9)
    assert first == second
    assert len(first) == 2
    assert third == []


def test_a_phrase_is_of_words_that_stand_together_more_often_than_by_chance() -> None:
    together = ["ice cream"] * 3 + ["sofa"] * 20
    assert len(tokens_of(together, phrase_pmi=1.5)[0]) == 3
    by_chance = ["ice cream", "ice cream", *["ice"] * 9, *["cream"] * 9]
    assert len(tokens_of(by_chance, phrase_pmi=1.5)[0]) == 2


def test_rare_and_common_tokens_are_left_out_and_the_most_frequent_are_kept() -> None:
    texts = ["common pan lid", "common pan lid", "common pan", "common lone"]
    assert tokens_of(texts, most_share=0.8, phrase_pmi=99)[3] == []
    column, size = caption_ids(texts, TokenSettings(least=2, most_share=0.8, vocabulary=1, phrase_pmi=99))
    assert size == 1
    assert [len(column.row(row)) for row in range(4)] == [1, 1, 1, 0]


def test_hashed_tokens_need_no_vocabulary() -> None:
    rows = tokens_of(["pan lid", "lid pan", "pan", "lid"], buckets=8, phrase_pmi=99)
    assert rows[0] == rows[1] == sorted({*rows[2], *rows[3]})
    assert max(rows[0]) < 8


def test_prefixes_of_semantic_ids_are_shared_by_near_products() -> None:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((2, 8)) * 10
    column, size = semantic_ids(np.repeat(centres, 40, axis=0) + rng.standard_normal((80, 8)) * 0.1, (2, 3), seed=0)
    table = column.values.reshape(80, 2)
    for group in (slice(0, 40), slice(40, 80)):
        assert len(set(table[group, 0])) == 1
    assert len(set(table[:, 0])) == 2
    assert not set(table[:, 0]) & set(table[:, 1])
    assert table.max() == size - 1


def visits(bought: list[bool], sizes: list[int], shopper: list[int], weight: float = 1.0) -> Visits:
    count = len(bought)
    return Visits(
        features=np.zeros((count, len(FEATURES)), np.float32),
        product=np.arange(count),
        bought=np.array(bought),
        weight=np.where(bought, 1, weight).astype(np.float32),
        cold=np.zeros(count, bool),
        sizes=np.array(sizes),
        shopper=np.array(shopper),
        history=Ragged.of([[0]] * len(sizes)),
    )


def test_measures_by_hand() -> None:
    made = visits([True, False, False, True, False], [3, 2], [0, 1])
    logit = np.array([2.0, 1.0, 3.0, 0.0, -1.0])
    found = measured(made, [logit], np.ones(5, bool), Draws.of(made, 1, seed=0))
    # Of the six pairs of a bought and another product, the first bought one wins two, the second one wins one.
    assert found["auc"][0] == pytest.approx(3 / 6)
    assert found["ndcg"][0] == pytest.approx((1 / np.log2(3) + 1) / 2)
    share = np.full(5, np.log(0.4 / 0.6))
    assert measured(made, [share], np.ones(5, bool), Draws.of(made, 1, seed=0))["entropy"][0] == pytest.approx(1)


def test_a_weight_stands_for_as_many_examples() -> None:
    logit = np.array([0.5, 1.0, -1.0])
    heavy = visits([True, False, False], [3], [0], weight=4)
    many = visits([True, *[False] * 8], [9], [0])
    chosen = [measured(each, [scores], np.ones(len(scores), bool), Draws.of(each, 1, 0)) for each, scores in
              ((heavy, logit), (many, np.r_[0.5, [1.0] * 4, [-1.0] * 4]))]  # fmt: skip
    for name in ("auc", "entropy"):
        assert chosen[0][name][0] == pytest.approx(chosen[1][name][0])


def test_intervals_draw_shoppers_with_all_their_visits_and_seeds() -> None:
    rng = np.random.default_rng(3)
    made = visits([True, False, False, False] * 60, [4] * 60, [visit // 2 for visit in range(60)])
    draws = Draws.of(made, 3, seed=1)
    assert (draws.visits[:, ::2] == draws.visits[:, 1::2]).all()
    noise = [rng.standard_normal(240) for _ in range(3)]
    better = [each + made.bought for each in noise]
    every = np.ones(240, bool)
    found = compared(measured(made, better, every, draws), measured(made, noise, every, draws))
    assert found["auc"].low > 0
    same = compared(measured(made, noise, every, draws), measured(made, noise, every, draws))
    assert (same["auc"].value, same["auc"].low, same["auc"].high) == (0, 0, 0)


def test_periods_do_not_overlap(tmp_path: Path) -> None:
    log = EventLog.read(make_events(), make_store(tmp_path))
    for train, validation, test in (weeks_of(log, 5), baskets_of(log, 5)):
        assert train
        assert max(each.end for each in train) <= validation.start < validation.end <= test.start < test.end


def test_tokens_tell_the_taste_of_products_that_nobody_has_bought(tmp_path: Path) -> None:
    """Products have a taste that only their tokens know; half of them have no purchase in the training."""
    rng = np.random.default_rng(5)
    old = np.arange(PRODUCTS // 2)

    def made(count: int, products: np.ndarray) -> Visits:
        parts = []
        for _ in range(count):
            taste = int(rng.integers(TASTES))
            history = rng.choice(old[old % TASTES == taste], 8)
            product = rng.choice(products, 24, replace=False)
            own = visits((product % TASTES == taste).tolist(), [24], [len(parts)])
            columns = {name: getattr(own, name) for name in Visits.__dataclass_fields__}
            parts.append(Visits(**{**columns, "product": product, "history": Ragged.of([history])}))
        return Visits.join(parts)

    train, validation = made(600, old), made(60, old)
    new = made(100, np.arange(PRODUCTS // 2, PRODUCTS))
    ids = dict.fromkeys(("category", "parent", "brand"), np.zeros(PRODUCTS, np.int32))
    tokens = (Ragged.of([[row % TASTES] for row in range(PRODUCTS)]), TASTES)
    found = {}
    for name, sets in (("plain", {}), ("captions", {"captions": tokens})):
        ranker = DlrmRanker(ids, sets, DlrmSettings(epochs=4, learning_rate=0.01))
        logit = ranker.fit(train, validation, [0, 1], seed=0).predict(new)
        assert (logit == ranker.predict(new)).all()
        every = np.ones(len(logit), bool)
        found[name] = measured(new, [logit], every, Draws.of(new, 1, 0))["auc"][0]
    assert found["plain"] < 0.65
    assert found["captions"] > 0.9


def test_an_evaluation_goes_on_and_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path / "build")
    products = {
        "product_id": list(store.product_ids),
        "title": [f"taste{'abcdef'[row % TASTES]} thing" for row in range(PRODUCTS)],
    }
    write_catalogue(tmp_path / "shop", pl.DataFrame(products), make_events())
    request = CaptionEvaluation(
        build=tmp_path / "build", catalogue=tmp_path / "shop", baskets=False, systems=("DLRM", "DLRM + captions"),
        seeds=2, on="test", tokens=TokenSettings(most_share=0.5), dlrm=DlrmSettings(epochs=1), name="captions",
    )  # fmt: skip
    report = run_captions(request, Console(quiet=True))
    folder = tmp_path / "build/evaluation/captions"
    assert json.loads((folder / "report.json").read_text(encoding="utf-8"))["values"] == report["values"]
    assert "DLRM + captions over DLRM" in (folder / "report.md").read_text(encoding="utf-8")
    assert (folder / "auc.png").stat().st_size > 1000
    assert report["tokens"]["from"] == "text"
    monkeypatch.setattr(captions, "SYSTEMS", dict.fromkeys(captions.SYSTEMS))  # nothing is trained again
    assert run_captions(request, Console(quiet=True))["over"] == report["over"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--system", "DRLM"], r"--system: expected one of LightGBM, .*, got 'DRLM'"),
        (["--set", "drlm.hidden=8"], r"--set: expected a setting of tokens or dlrm, got 'drlm'"),
        (["--set", "dlrm.hiden=8"], r"setting dlrm\.hiden: .*, got '8'; the settings of dlrm are "),
        (["--set", "tokens.least=0"], r"setting tokens\.least: .*, got '0'; the settings of tokens are "),
    ],
)
def test_what_cannot_be_evaluated_is_named(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    catalogue = ["--catalogue", str(tmp_path)]
    assert main(["evaluate", "captions", "--build", str(tmp_path / "none"), *catalogue, *options]) == 2
    assert re.search(message, " ".join(capsys.readouterr().err.split()))
    assert not (tmp_path / "none").exists()

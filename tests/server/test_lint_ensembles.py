"""Small repositories that are no shop: valid wirings pass without a word, and Triton's batching rules are kept."""

from pathlib import Path

import pytest
from endcap_server.lint import Finding, View, read_repository, run_checks
from hypothesis import given
from hypothesis import strategies as st
from tiny_repository import Map, ensemble, model, tensor

SHOP = {"E320"}
"""A toy repository has no storefront."""


def lint(folder: Path) -> list[Finding]:
    findings = run_checks(View(read_repository(folder), "cpu"))
    return [finding for finding in findings if finding.code.name not in SHOP]


def codes(folder: Path) -> list[tuple[str, int]]:
    return [(finding.code.name, finding.where.line) for finding in lint(folder)]


@given(data=st.data())
def test_chains_that_fit_pass_without_a_word(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Random chains: types handed on, sizes known or not, inputs used several times, optional ones or not."""
    folder = tmp_path_factory.mktemp("repository")
    kinds = st.tuples(st.sampled_from(["FP32", "INT64", "STRING"]), st.lists(st.integers(1, 3), min_size=1, max_size=3))
    data_type, dims = data.draw(kinds)
    first = tensor("X", dims, data_type)
    available = {"X": (data_type, dims)}
    steps: list[tuple[str, Map, Map]] = []
    used: set[str] = set()
    for number in range(data.draw(st.integers(1, 4))):
        reads = data.draw(st.lists(st.sampled_from(sorted(available)), min_size=1, max_size=2, unique=True))
        if number == 0:
            reads = ["X"]
        inputs = []
        for position, name in enumerate(reads):
            kind, sizes = available[name]
            wider = [-1 if data.draw(st.booleans()) else size for size in sizes]
            inputs.append(tensor(f"IN{position}", wider, kind, data.draw(st.booleans())))
        spare = tensor("SPARE", [1], optional=True)
        out_type, out_dims = data.draw(kinds)
        model(folder, f"m{number}", [*inputs, spare], [tensor("OUT", out_dims, out_type), tensor("REST", [1])])
        into = {f"IN{position}": name for position, name in enumerate(reads)}
        used |= set(reads)
        steps.append((f"m{number}", into, {"OUT": f"t{number}"}))
        available[f"t{number}"] = (out_type, out_dims)
    outputs = [tensor(name, dims, kind) for name, (kind, dims) in available.items() if name != "X" and name not in used]
    data.draw(st.permutations(range(len(steps))).map(lambda order: steps.sort(key=lambda s: order[int(s[0][1:])])))
    ensemble(folder, "chain", [first], outputs, steps)
    assert lint(folder) == []


@given(
    dims=st.lists(st.integers(-1, 3).filter(bool), min_size=1, max_size=3),
    others=st.lists(st.integers(-1, 3).filter(bool), min_size=1, max_size=3),
    batches=st.tuples(st.sampled_from([0, 4]), st.sampled_from([0, 4])),
)
def test_shapes_fit_by_tritons_rule(
    dims: list[int], others: list[int], batches: tuple[int, int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("repository")
    model(folder, "m", [tensor("IN", [1])], [tensor("OUT", others)], batches[1])
    output = tensor("Y", dims)
    ensemble(folder, "e", [tensor("X", [1])], [output], [("m", {"IN": "X"}, {"OUT": "Y"})], batches[0])

    def fit(one: list[int], other: list[int]) -> bool:
        return len(one) == len(other) and all(a == b or -1 in (a, b) for a, b in zip(one, other, strict=True))

    full = [([-1] * (batch > 0)) + each for batch, each in zip(batches, (dims, others), strict=True)]
    accepted = fit(dims, others) or fit(*full)
    assert ("E314" in {code for code, _ in codes(folder)}) == (not accepted)


def test_a_batching_model_fits_an_ensemble_that_names_the_dimension(tmp_path: Path) -> None:
    model(tmp_path, "m", [tensor("IN", [2])], [tensor("OUT", [3])], batch=8)
    ensemble(tmp_path, "e", [tensor("X", [-1, 2])], [tensor("Y", [-1, 3])], [("m", {"IN": "X"}, {"OUT": "Y"})])
    assert codes(tmp_path) == []


def test_a_step_must_take_the_batches_of_its_ensemble(tmp_path: Path) -> None:
    model(tmp_path, "m", [tensor("IN", [2])], [tensor("OUT", [3])], batch=4)
    ensemble(tmp_path, "e", [tensor("X", [2])], [tensor("Y", [3])], [("m", {"IN": "X"}, {"OUT": "Y"})], batch=8)
    assert codes(tmp_path) == [("E316", 2)]


def test_a_queue_that_rejects_is_told_of(tmp_path: Path) -> None:
    more = "dynamic_batching {\n  default_queue_policy {\n    max_queue_size: 8\n  }\n}"
    model(tmp_path, "m", [tensor("IN", [2])], [tensor("OUT", [3])], batch=8, more=more)
    ensemble(tmp_path, "e", [tensor("X", [2])], [tensor("Y", [3])], [("m", {"IN": "X"}, {"OUT": "Y"})], batch=8)
    assert codes(tmp_path) == [("W204", 7)]


def test_ensembles_may_contain_others(tmp_path: Path) -> None:
    model(tmp_path, "m", [tensor("IN", [2])], [tensor("OUT", [2])])
    ensemble(tmp_path, "inner", [tensor("X", [2])], [tensor("Y", [2])], [("m", {"IN": "X"}, {"OUT": "Y"})])
    ensemble(tmp_path, "outer", [tensor("X", [2])], [tensor("Z", [2])], [("inner", {"X": "X"}, {"Y": "Z"})])
    assert codes(tmp_path) == []


def test_a_step_that_reads_its_own_output_waits_forever(tmp_path: Path) -> None:
    model(tmp_path, "m", [tensor("A", [2]), tensor("B", [2])], [tensor("OUT", [2])])
    ensemble(tmp_path, "e", [tensor("X", [2])], [tensor("Y", [2])], [("m", {"A": "X", "B": "Y"}, {"OUT": "Y"})])
    assert codes(tmp_path) == [("E312", 10)]

"""The two ensembles: their stages, and the tensors between these.

Names of tensors that callers send or receive are in capitals; names of tensors between stages are in lower case.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from endcap_server.declared.model import DeclaredTensor
from endcap_server.stages.base import Stage
from endcap_server.stages.fusion import Fusion
from endcap_server.stages.keywords import Keywords
from endcap_server.stages.rerank import Rerank
from endcap_server.stages.retrieval import Retrieval
from endcap_server.stages.theme import Theme


@dataclass(frozen=True)
class EnsembleStep:
    """One stage of an ensemble.

    Attributes:
        stage: The stage that it runs.
        inputs: Input of the stage -> tensor of the ensemble.
        outputs: Output of the stage -> tensor of the ensemble.
    """

    stage: type[Stage]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True)
class Ensemble:
    """Steps that Triton runs as one model; its inputs and outputs are a contract with callers.

    Attributes:
        name: Of the model.
        summary: What it is; the first comment of its configuration.
        steps: In the order in which a request passes them.
    """

    name: str
    summary: str
    steps: tuple[EnsembleStep, ...]

    public = True
    """Its tensors are a contract and must not change."""

    @property
    def inputs(self) -> tuple[DeclaredTensor, ...]:
        """Tensors that callers send: inputs of its stages."""
        return tuple(
            replace(declared, name=step.inputs[declared.name])
            for step in self.steps
            for declared in step.stage.declaration.inputs
            if step.inputs.get(declared.name, "").isupper()
        )

    @property
    def outputs(self) -> tuple[DeclaredTensor, ...]:
        """Tensors that callers get: outputs of its stages."""
        return tuple(
            replace(declared, name=step.outputs[declared.name])
            for step in self.steps
            for declared in step.stage.declaration.outputs
            if step.outputs.get(declared.name, "").isupper()
        )


def _same(*names: str) -> dict[str, str]:
    """Public tensors with the stage's names."""
    return {name: name for name in names}


def _inner(*names: str) -> dict[str, str]:
    """Tensors between stages with the stage's names, in lower case."""
    return {name: name.lower() for name in names}


STOREFRONT = Ensemble(
    "storefront",
    "The storefront of one shopper: themed placements of ranked products. Its tensors are endcap's public contract.",
    (
        EnsembleStep(
            Retrieval,
            _same("SHOPPER", "HISTORY", "SESSION", "RULES", "PLACEMENTS", "PRODUCTS", "BUDGET_MS"),
            _inner("CANDIDATE_ROW", "CANDIDATE_SOURCE", "PAGE", "THEME_REQUEST"),
        ),
        EnsembleStep(Theme, _inner("THEME_REQUEST"), _inner("THEMES")),
        EnsembleStep(Keywords, _inner("THEMES"), _inner("KEYWORDS")),
        EnsembleStep(
            Rerank,
            _inner("THEMES", "KEYWORDS", "CANDIDATE_ROW", "PAGE"),
            _inner("ROW", "MEASURED", "RERANK_STATUS"),
        ),
        EnsembleStep(
            Fusion,
            _inner(
                *("THEMES", "KEYWORDS", "CANDIDATE_ROW", "CANDIDATE_SOURCE", "ROW", "MEASURED", "PAGE"),
                "RERANK_STATUS",
            ),
            {"THEME_OUT": "THEME", "KEYWORDS_OUT": "KEYWORDS", **_same("PRODUCT_ID", "SCORE", "SIGNALS", "STATUS")},
        ),
    ),
)

_CANDIDATES = ("CANDIDATE_ROW", "CANDIDATE_SIMILARITY", "CANDIDATE_LEXICAL")
_OF_QUERY = {"THEMES": "query_themes", "KEYWORDS": "query_keywords"}

SEARCH = Ensemble(
    "search",
    "Product search: a storefront with one placement whose theme and only keyword are the query. Public contract.",
    (
        EnsembleStep(
            Retrieval,
            _same("SHOPPER", "QUERY", "HISTORY", "RULES", "PRODUCTS", "BUDGET_MS"),
            _inner(*_CANDIDATES, "PAGE", "QUERY_THEMES", "QUERY_KEYWORDS"),
        ),
        EnsembleStep(
            Rerank,
            {**_OF_QUERY, **_inner(*_CANDIDATES, "PAGE")},
            _inner("ROW", "MEASURED", "RERANK_STATUS"),
        ),
        EnsembleStep(
            Fusion,
            {"THEMES": _OF_QUERY["THEMES"], **_inner("ROW", "MEASURED", "PAGE", "RERANK_STATUS")},
            {
                "FIRST_PRODUCT_ID": "PRODUCT_ID",
                "FIRST_SCORE": "SCORE",
                "FIRST_SIGNALS": "SIGNALS",
                "STATUS": "STATUS",
            },
        ),
    ),
)

ENSEMBLES: dict[str, Ensemble] = {each.name: each for each in (STOREFRONT, SEARCH)}
"""The ensembles, by name."""

STAGES: dict[str, type[Stage]] = {
    step.stage.name: step.stage for ensemble in ENSEMBLES.values() for step in ensemble.steps
}
"""Every stage, by name, in the order of a storefront."""

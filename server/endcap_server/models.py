"""Everything that endcap serves, collected from the declarations of stages, engines and ensembles."""

from endcap_server.declared.model import ModelDeclaration
from endcap_server.engines.cross_encoder import CROSS_ENCODER
from endcap_server.engines.keyword_llm import KEYWORD_LLM
from endcap_server.engines.llm_models import THEME_LLM
from endcap_server.engines.nearest import NEAREST
from endcap_server.ensembles import ENSEMBLES, STAGES, Ensemble

VERSION_MARK = "__"
"""Separates name and version in the names of staged models."""

ENGINES: dict[str, ModelDeclaration] = {each.name: each for each in (NEAREST, CROSS_ENCODER, THEME_LLM, KEYWORD_LLM)}
"""Every engine, by name."""

DECLARATIONS: dict[str, ModelDeclaration] = {
    **{name: stage.declaration for name, stage in STAGES.items()},
    **ENGINES,
}
"""Every stage and engine, by name."""

MODELS: dict[str, ModelDeclaration | Ensemble] = {**ENSEMBLES, **DECLARATIONS}
"""Every model, by name."""


def base_name(model: str) -> str:
    """The declared name of a model, without its version: `rerank` for `rerank__v2`."""
    return model.partition(VERSION_MARK)[0]


def declared_model(model: str) -> ModelDeclaration | Ensemble | None:
    """The declaration of a model of any version, if it is one of endcap's."""
    return MODELS.get(base_name(model))

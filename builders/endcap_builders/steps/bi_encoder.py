"""Step `bi_encoder`: export a sentence-transformers checkpoint for the engine."""

from collections.abc import Mapping
from typing import Any

from endcap_server.engines.bi_encoder import BiEncoderConfig
from pydantic import Field

from endcap_builders.export.tensorrt import compile_engine, require_tensorrt
from endcap_builders.pretrained.checkpoints import HELP, check_tokenizer, checkpoint_of
from endcap_builders.pretrained.models import DEFAULT
from endcap_builders.step import BuildContext, BuildError, Settings, Step


class BiEncoderSettings(Settings):
    """Options of the step."""

    checkpoint: str = Field(
        "",
        description=f"sentence-transformers checkpoint: {HELP}; empty: {DEFAULT}, which needs no network",
    )
    max_tokens: int = Field(128, ge=8, le=8192, description="longest text in tokens; the rest is cut off")


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

    checkpoint = checkpoint_of("bi_encoder.checkpoint", settings.checkpoint)
    try:
        with quiet():
            model = SentenceTransformer(checkpoint, device="cpu")
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise BuildError(
            f"bi_encoder.checkpoint: expected a sentence-transformers checkpoint, got {checkpoint} ({reason})"
        ) from error
    encoder: Any = model[0].auto_model
    check_tokenizer(checkpoint, model.tokenizer, encoder.get_input_embeddings().num_embeddings)
    backend = model.tokenizer.backend_tokenizer
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
    name = settings.checkpoint or DEFAULT
    ctx.log(f"{name}, {dimension} dimensions")
    return {"checkpoint": name, "dimension": dimension}


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

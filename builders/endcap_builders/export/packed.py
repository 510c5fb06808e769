"""Checkpoints of bi-encoders for the engine `nearest` on endcap's own kernels (`implementation` packed)."""

from pathlib import Path
from typing import Any, Literal

from endcap_builders.export.encoder import quiet


def export_sentence_checkpoint(model: Any, folder: Path) -> Literal["", "mean", "cls"]:
    """Write the encoder of a SentenceTransformer to ``folder`` in float16, as the exported ``model.bin`` has it.

    Returns:
        What a vector is made of; "", and nothing is written, if the kernels cannot run this model: they need a BERT, a
        pooling by the mean or the first token, and nothing behind that but the normalisation.
    """
    kinds = [type(module).__name__ for module in model]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        return ""
    encoder, pooling = model[0].auto_model, model[1].pooling_mode
    if encoder.config.model_type != "bert" or pooling not in ("mean", "cls"):
        return ""
    half = {name: tensor.half().contiguous() for name, tensor in encoder.state_dict().items()}
    with quiet():
        encoder.save_pretrained(folder, state_dict=half)
    return "mean" if pooling == "mean" else "cls"

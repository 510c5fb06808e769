"""The common code of the steps ``theme_llm`` and ``keyword_llm``: trains, exports and measures a student."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from endcap_builders.export.trtllm import export_for_tensorrt_llm
from endcap_builders.gates import Gate, write_gates
from endcap_builders.llm.examples import Example, read_examples, split_held_out
from endcap_builders.llm.export import export_student
from endcap_builders.llm.settings import StudentSettings
from endcap_builders.llm.student import make_student, save_student
from endcap_builders.llm.training import train
from endcap_builders.step import BuildContext, BuildError, progress_bar

Evaluate = Callable[[Path, list[Example]], tuple[dict[str, Any], list[Gate]]]


def build_student(ctx: BuildContext, settings: StudentSettings, examples: Path, evaluate: Evaluate) -> dict[str, Any]:
    """Train a student on a file of examples; write the served model and its checkpoint (``hf/``).

    If the training was finished, an interrupted build continues with the export.
    """
    training, held_out = split_held_out(read_examples(examples), settings.held_out)
    figures: dict[str, Any] = {"examples": len(training)}
    trained = ctx.work / "hf"
    if trained.exists():
        ctx.log("the student is trained already")
    else:
        figures |= _train(ctx, settings, training, trained)
    export_student(trained, ctx.output, settings.weights)
    if ctx.profile == "gpu":
        export_for_tensorrt_llm(trained, ctx.output / "trtllm")
    shutil.copytree(trained, ctx.output / "hf")
    measured, gates = evaluate(ctx.output, held_out)
    write_gates(ctx.output, gates)
    ctx.log(", ".join(f"{name} {value}" for name, value in measured.items()))
    return {**figures, "held_out": {"examples": len(held_out), **measured}}


def _train(ctx: BuildContext, settings: StudentSettings, examples: list[Example], folder: Path) -> dict[str, Any]:
    torch.manual_seed(ctx.seed)
    random.seed(ctx.seed)
    try:
        model, tokenizer = make_student(settings, examples)
        figures: dict[str, Any] = {
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "vocabulary": len(tokenizer),
        }
        if settings.train_tokens:
            with progress_bar(ctx.console) as progress:
                task = progress.add_task("training", total=100)
                done = train(
                    model,
                    tokenizer,
                    examples,
                    settings,
                    ctx.seed,
                    lambda share, loss: progress.update(
                        task, completed=round(100 * share), description=f"training, loss {loss:.3f}"
                    ),
                )
            figures |= {
                "steps": done.steps,
                "tokens": done.tokens,
                "epochs": done.epochs,
                "loss": done.loss,
                "train_seconds": done.seconds,
            }
            figures["tokens_per_second"] = round(done.tokens / max(done.seconds, 1e-3))
    except ValueError as error:
        raise BuildError(str(error)) from None
    unfinished = folder.with_name("hf.new")
    save_student(model, tokenizer, unfinished)
    unfinished.rename(folder)
    return figures

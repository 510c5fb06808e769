"""The common code of the steps ``theme_llm`` and ``keyword_llm``: trains, exports and measures a student."""

import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import torch
from transformers import PreTrainedTokenizerFast

from endcap_builders.gates import Gate, write_gates
from endcap_builders.llm.examples import AnyExample, read_examples, split_held_out
from endcap_builders.llm.settings import StudentSettings
from endcap_builders.llm.student import make_student, save_student
from endcap_builders.llm.training import Objective, train
from endcap_builders.step import BuildContext, BuildError, progress_bar


@dataclass(frozen=True)
class Lesson(Generic[AnyExample]):
    """What a student learns, and what is done with it.

    Attributes:
        kind: of its examples.
        objective: makes the loss for a tokenizer.
        export: writes the served model of a checkpoint.
        evaluate: figures and gates of the exported student on held-out examples.
        tokens: texts that are one token each.
    """

    kind: type[AnyExample]
    objective: Callable[[PreTrainedTokenizerFast], Objective]
    export: Callable[[BuildContext, Path], None]
    evaluate: Callable[[Path, list[AnyExample]], tuple[dict[str, Any], list[Gate]]]
    tokens: Sequence[str] = ()


def build_student(
    ctx: BuildContext, settings: StudentSettings, examples: Path, lesson: Lesson[AnyExample]
) -> dict[str, Any]:
    """Train a student on a file of examples; write the served model and its checkpoint (``hf/``).

    If the training was finished, an interrupted build continues with the export.
    """
    training, held_out = split_held_out(read_examples(examples, lesson.kind), settings.held_out)
    figures: dict[str, Any] = {"examples": len(training)}
    trained = ctx.work / "hf"
    if trained.exists():
        ctx.log("the student is trained already")
    else:
        figures |= _train(ctx, settings, training, trained, lesson)
    lesson.export(ctx, trained)
    shutil.copytree(trained, ctx.output / "hf")
    measured, gates = lesson.evaluate(ctx.output, held_out)
    write_gates(ctx.output, gates)
    ctx.log(", ".join(f"{name} {value}" for name, value in measured.items()))
    return {**figures, "held_out": {"examples": len(held_out), **measured}}


def _train(
    ctx: BuildContext, settings: StudentSettings, examples: list[AnyExample], folder: Path, lesson: Lesson[AnyExample]
) -> dict[str, Any]:
    torch.manual_seed(ctx.seed)
    random.seed(ctx.seed)
    try:
        model, tokenizer = make_student(settings, examples, lesson.tokens)
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
                    lesson.objective(tokenizer),
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

"""The grid: for each seed a teacher, the pairs that it labels, and its students; every point is stored on disk.

A point's folder is named by a digest of everything that it depends on. An interrupted grid continues with the missing
points, a larger grid trains only the new ones, and other queries are scored with the existing models.
"""

import hashlib
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from endcap_server.shop.store import ItemStore

from endcap_builders.evaluation.queries import EvaluationError
from endcap_builders.evaluation.settings import EvaluationSettings
from endcap_builders.relevance.augmentation import draw_searches, mine_searches
from endcap_builders.relevance.checkpoints import load_model, save_model
from endcap_builders.relevance.data import Labelled, draw_labelled, pair_encoder, read_labelled
from endcap_builders.relevance.distilling import distil, start, towards_teacher, write_student
from endcap_builders.relevance.encode import PairEncoder
from endcap_builders.relevance.inference import predict
from endcap_builders.relevance.judge import Judge
from endcap_builders.relevance.labelling import label_pairs, write_whole
from endcap_builders.relevance.labels import LabelScale
from endcap_builders.relevance.pairs import Pairs, make_pairs, no_pairs, without
from endcap_builders.relevance.settings import CrossEncoderSettings, TeacherSettings
from endcap_builders.relevance.teaching import teach, teacher_figures
from endcap_builders.relevance.warm_up import warm_up_pairs
from endcap_builders.step import BuildContext

_DONE = "figures.json"
_WARM_UP = {"checkpoint", "layers", "lora_rank", "train_embeddings", "grades", "label_spread", "warm_up_pairs",
            "batch_size", "learning_rate"}  # fmt: skip
"""Settings of the teacher that affect its warm-up."""
_WARM_UP_SEED = 1


@dataclass(frozen=True)
class Point:
    """A trained model of the grid."""

    name: str
    seed: int
    folder: Path
    figures: dict[str, Any]


class Grid:
    """Trains the points of the settings that do not exist yet."""

    def __init__(
        self,
        ctx: BuildContext,
        settings: EvaluationSettings,
        teacher: TeacherSettings,
        student: CrossEncoderSettings,
        labelled: Labelled,
        store: ItemStore,
    ) -> None:
        """Set what all points share.

        Args:
            ctx: context of the build; points are stored in `work`.
            settings: settings of the evaluation.
            teacher: settings of the teachers.
            student: settings of the students.
            labelled: labelled pairs of the build.
            store: the products.
        """
        self.settings, self.teacher, self.student = settings, teacher, student
        self.labelled, self.store, self._ctx = labelled, store, ctx
        self.unseen: list[str] = []
        """The queries of the evaluation, which mining must not use."""
        self._encoders: dict[str, PairEncoder] = {}
        self._human: dict[int, Pairs] = {}

    @classmethod
    def opened(
        cls,
        ctx: BuildContext,
        settings: EvaluationSettings,
        teacher: TeacherSettings,
        student: CrossEncoderSettings,
        scale: LabelScale,
    ) -> "Grid":
        """The grid of a build; set `unseen` before training."""
        store = ItemStore.open(ctx.build, linked=False)
        labelled = read_labelled(ctx, store, teacher.weak_queries, teacher.held_out_share, scale)
        return cls(ctx, settings, teacher, student, labelled, store)

    def teacher_of(self, seed: int) -> Point:
        """The teacher of a seed, trained on its draw of the labelled pairs."""
        folder = self._folder("teacher", seed, self._teacher_key(seed))
        if not (folder / _DONE).exists():
            ctx, pairs = self._context(seed, folder), self.human(seed)
            self._ctx.log(f"seed {seed}: teacher on {len(pairs):,} pairs of {len(pairs.queries):,} queries")
            held_out, settings = self.labelled.part(training=False)[0], self.teacher
            if settings.warm_up_pairs:
                settings = settings.model_copy(update={"checkpoint": str(self.warm_start()), "layers": 0})
            teacher, encoder, figures = teach(
                ctx, settings, self.store, pairs, held_out, folder / "checkpoints", self.settings.max_product_tokens
            )
            teacher.save(folder)
            quality = teacher_figures(teacher, encoder.encode(held_out)) if len(held_out) else {}
            _finish(folder, {**figures, "train_pairs": len(pairs), "held_out": quality})
        return _point("teacher", seed, folder)

    def warm_start(self) -> Path:
        """The checkpoint from which the teachers of all seeds start. It has seen no labels, so they can share it."""
        seed = _WARM_UP_SEED  # independent of the seeds: a teacher's key does not include its start
        key = [seed, self.settings.max_product_tokens, sorted(self.unseen), self.store.tokenizer,
               self.teacher.model_dump(include=_WARM_UP)]  # fmt: skip
        folder = self._folder("warm-up", seed, key)
        if not (folder / _DONE).exists():
            ctx, rng = self._context(seed, folder), np.random.default_rng((seed, 4))
            pairs = warm_up_pairs(ctx, self.store, self.labelled, self.teacher.warm_up_pairs, rng, self.unseen)
            self._ctx.log(f"warming up on {len(pairs):,} mined pairs")
            settings = self.teacher.model_copy(update={"epochs": 1.0, "evaluations": 0})
            teacher, _, figures = teach(
                ctx, settings, self.store, pairs, no_pairs(), folder / "checkpoints", self.settings.max_product_tokens
            )
            teacher.save(folder)
            _finish(folder, figures)
        return folder

    def student_of(self, seed: int, multiple: int, layers: int) -> Point:
        """The student of a seed, with `multiple` mined pairs per labelled one, and `layers` layers."""
        settings = self.student.model_copy(update={"layers": layers})
        key = [self._teacher_key(seed), self._pool_key(seed) if multiple else "", settings.model_dump(), multiple]
        folder = self._folder(f"student-x{multiple}-{layers}l", seed, key)
        if not (folder / _DONE).exists():
            judge, ctx = self.judge(seed), self._context(seed, folder)
            human, mined = self.human(seed), self.pool(seed, multiple) if multiple else no_pairs()
            self._ctx.log(
                f"seed {seed}: student of {layers} layers, {len(human):,} labelled and {len(mined):,} mined pairs"
            )
            if settings.human_weight < 1:
                human = towards_teacher(human, judge, settings.human_weight)
            model, tokenizer = start(ctx, settings, judge)
            encoder, held_out = self._encoder(tokenizer), self.labelled.part(training=False)[0]
            figures = distil(ctx, settings, model, encoder, human, mined, held_out, folder / "checkpoints")
            save_model(model, tokenizer, folder)
            _finish(folder, {**figures, "labelled_pairs": len(human), "mined_pairs": len(mined)})
        return _point(f"student x{multiple}", seed, folder)

    def human(self, seed: int) -> Pairs:
        """The labelled pairs of a seed, with the negatives added to them."""
        if seed not in self._human:
            sample = self.teacher.model_copy(update={"max_pairs": self.settings.labelled_pairs})
            rng = np.random.default_rng((seed, 1))
            self._human[seed] = draw_labelled(self._ctx, self.store, self.labelled, sample, rng)
        return self._human[seed]

    def pool(self, seed: int, multiple: int) -> Pairs:
        """The mined pairs of a seed with the teacher's labels; a smaller multiple is a subset of a larger one."""
        human = self.human(seed)
        folder = self._folder("pool", seed, [self._teacher_key(seed), self._pool_key(seed)])
        path, groups = folder / "pairs.parquet", self._groups(human, multiple)
        if not path.exists():
            self._mine(seed, human, folder, path)
        frame = pl.read_parquet(path).filter(pl.col("place") < groups)
        return make_pairs(frame["query"].to_list(), frame["product"].to_numpy(), frame["score"].to_numpy())

    def judge(self, seed: int) -> Judge:
        """The teacher of a seed, ready to score."""
        return Judge(
            self.teacher_of(seed).folder, self._ctx.build, self._ctx.catalogue_folder, self.settings.max_product_tokens
        )

    def scores(self, point: Point, pairs: Pairs) -> np.ndarray:
        """Scores of a point's model, float32 [n], cached on disk."""
        digest = _digest([pairs.queries, pairs.query.tolist(), pairs.product.tolist()])
        path = point.folder / f"scores-{digest}.npy"
        if path.exists():
            return np.load(path)
        if point.name == "teacher":
            found = self.judge(point.seed).judge(pairs)
        else:
            model, tokenizer = load_model(str(point.folder), labels=1)
            found = predict(model, self._encoder(tokenizer).encode(pairs))[:, 0]
        np.save(path, found)
        return found

    def served(self, point: Point) -> Path:
        """Folder of a student in the format of the serving engine."""
        folder = point.folder / "served"
        if not (folder / "calibration.json").exists():
            folder.mkdir(exist_ok=True)
            write_student(folder, *load_model(str(point.folder), labels=1))
            # The evaluation uses plain logits, but the engine needs a calibration file.
            (folder / "calibration.json").write_text('{"scale": 1, "bias": 0, "temperature": 1}\n', encoding="utf-8")
        return folder

    def _mine(self, seed: int, human: Pairs, folder: Path, path: Path) -> None:
        rng = np.random.default_rng((seed, 2))
        most = self._groups(human, max(self.settings.multiples))
        searches = draw_searches(self.store, self.labelled, most, rng, self.unseen)
        if len(searches) < most:
            wanted = max(self.settings.multiples)
            raise EvaluationError(
                f"evaluate.multiples: expected {most:,} searches to mine {wanted} times the labelled pairs, got "
                f"{len(searches):,} in the log; lower multiples or labelled_pairs, or raise cross_encoder.mined_group"
            )
        mined = without(mine_searches(self._ctx, self.store, searches, self.student, rng), human)
        self._ctx.log(f"seed {seed}: the teacher labels {len(mined):,} mined pairs of {len(searches):,} searches")
        labelled = label_pairs(
            mined, self.judge(seed), folder / "labelling", self._ctx.track,
            shard_pairs=self.student.shard_pairs, ray_address=self.student.ray, say=self._ctx.log,
        )  # fmt: skip
        place = {" ".join(text.split()): number for number, text in reversed(list(enumerate(searches)))}
        texts = [labelled.queries[index] for index in labelled.query]
        columns = {"query": texts, "product": labelled.product, "score": labelled.target}
        write_whole(pl.DataFrame({**columns, "place": [place[text] for text in texts]}), path)

    def _groups(self, human: Pairs, multiple: int) -> int:
        return round(multiple * self.settings.labelled_pairs / self.student.mined_group)

    def _encoder(self, tokenizer: Any) -> PairEncoder:
        name = tokenizer.backend_tokenizer.to_str()
        if name not in self._encoders:
            encoder, cut = pair_encoder(self._ctx, self.store, tokenizer), self.settings.max_product_tokens
            self._encoders[name] = encoder.cut(cut) if cut else encoder
        return self._encoders[name]

    def _teacher_key(self, seed: int) -> list[Any]:
        pairs = self.human(seed)
        drawn = _digest([pairs.queries, pairs.query.tolist(), pairs.product.tolist(), pairs.target.tolist()])
        return [seed, drawn, self.settings.max_product_tokens, self.store.tokenizer, self.teacher.model_dump()]

    def _pool_key(self, seed: int) -> list[Any]:
        names = ("mined_group", "dense_share", "lexical_share", "neighbour_share")
        searches = [max(self.settings.multiples), sorted(self.unseen), len(self.store), len(self.store.keywords)]
        return [seed, *searches, *(getattr(self.student, name) for name in names)]

    def _folder(self, kind: str, seed: int, key: Any) -> Path:
        folder = self._ctx.work / f"{kind}-seed{seed}-{_digest(key)}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _context(self, seed: int, folder: Path) -> BuildContext:
        return replace(self._ctx, seed=seed, work=folder)


def _finish(folder: Path, figures: dict[str, Any]) -> None:
    """Mark a point as complete."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    temporary = folder / f".{_DONE}"
    temporary.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    temporary.replace(folder / _DONE)


def _point(name: str, seed: int, folder: Path) -> Point:
    return Point(name, seed, folder, json.loads((folder / _DONE).read_text(encoding="utf-8")))


def _digest(key: Any) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()[:12]

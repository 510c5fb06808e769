"""Moves a running server from one generation to another: loads, switches, watches, unloads."""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from endcap_server.apply.limits import RolloutLimits
from endcap_server.apply.replay import Asker, ReplayAnswer, ReplaySample
from endcap_server.generations.composition import view_of
from endcap_server.generations.render import render_ensemble, render_models
from endcap_server.models import base_name
from endcap_server.serving.control import Answered, Control, ControlError
from endcap_server.serving.errors import ApplyError
from endcap_server.serving.generation import Generation, StateFolder
from endcap_server.serving.processes import model_processes
from endcap_server.stages.in_flight import InFlight, table_path
from endcap_server.stages.recorder import FOLDER as RECORDED
from endcap_server.stages.retrieval_parameters import RetrievalParameters

_PROBE_PAUSE_S = 0.5
_SETTLE_S = 1.0
"""Time in which a request from before the switch reaches retrieval."""
_LONGEST_DRAIN_S = 60.0
_LONGEST_UNLOAD_S = 60.0
_DEAD_UNLOAD_S = 5.0
"""Time for a model without a process; others are unloaded in a tenth of a second."""
_FEW_FAILURES = 5
_ENOUGH_ANSWERS = 20


class Switch:
    """The switch of one server.

    Args:
        state: Its state on disk.
        control: Client of its model control.
        run_folder: Its private folder.
        process: Its process id.
    """

    def __init__(self, state: StateFolder, control: Control, run_folder: Path, process: int) -> None:
        self._state, self._control, self._run_folder, self._process = state, control, run_folder, process

    def load(self, generation: Generation, report: Callable[[str], None]) -> None:
        """Load the models that a generation does not share, and its ensembles under their staging names.

        Raises:
            ApplyError: the server refuses one; the message is its reason.
        """
        view = view_of(self._state.snapshot(generation.number), generation.profile)
        render_models(self._state, view, generation)
        for name in generation.own:
            started = time.monotonic()
            self._load(name)
            report(f"{name} loaded in {time.monotonic() - started:.1f} s")
        for ensemble in generation.public:
            render_ensemble(self._state, view, generation, ensemble, generation.staging(ensemble))
            self._load(generation.staging(ensemble))

    def to(self, generation: Generation) -> None:
        """Make the public ensembles use the models of a generation, which must be loaded.

        Raises:
            ApplyError: the server refuses one.
        """
        view = view_of(self._state.snapshot(generation.number), generation.profile)
        for ensemble in generation.public:
            render_ensemble(self._state, view, generation, ensemble, ensemble)
            self._load(ensemble)

    def retire(
        self, generation: Generation, kept: Generation, report: Callable[[str], None], *, was_live: bool
    ) -> None:
        """Unload what a generation does not share with `kept`, when none of its requests is in flight.

        Raises:
            ApplyError: something stays loaded.
        """
        if was_live:
            self._drain(generation)
        keep = set(kept.models.values())
        own = [name for model, name in generation.models.items() if model not in generation.public and name not in keep]
        # Callers first: ensembles, then stages, then engines.
        self.drop_staging(generation)
        self._unload([*reversed(own)], report)
        if generation.table != kept.table:
            table_path(self._run_folder, generation.table).unlink(missing_ok=True)
            shutil.rmtree(self._run_folder / RECORDED / generation.table, ignore_errors=True)

    def drop_staging(self, generation: Generation) -> None:
        """Unload a generation's ensembles under their staging names.

        Raises:
            ApplyError: one stays loaded.
        """
        self._unload([generation.staging(ensemble) for ensemble in generation.public])

    def _unload(self, names: Sequence[str], report: Callable[[str], None] | None = None) -> None:
        """Unload models and wait until they are gone.

        Triton 24.10 never finishes unloading some models whose process died. No request reaches these, and their names
        are not used again, so they are left as they are; some MB of the server's memory stay allocated.

        Args:
            names: The models.
            report: Called with the models that were left. None for ensembles, which have no process and stay loaded
                while a request is in them.
        """
        self._control.unload(*names)
        began = time.monotonic()
        while left := self._control.loaded(*names):
            waited = time.monotonic() - began
            if report and waited > _DEAD_UNLOAD_S and not {*left} & {*model_processes(self._process).values()}:
                report(f"  note: Triton does not finish unloading {', '.join(left)}, whose process has died")
                return
            if waited > _LONGEST_UNLOAD_S:
                raise ApplyError(
                    f"{', '.join(left)}: not unloaded within {_LONGEST_UNLOAD_S:.0f} s; it stays loaded until the next "
                    "apply or rollback"
                )
            time.sleep(0.05)

    def _drain(self, generation: Generation) -> None:
        """Wait until no request of a generation is in flight.

        It does not raise: a request that never ends expires in the table.
        """
        time.sleep(self._settle_s(generation))
        table = InFlight(self._run_folder, generation.table)
        waiting, deadline = table.waiting(), time.monotonic() + _LONGEST_DRAIN_S
        while waiting and time.monotonic() < deadline:
            time.sleep(0.05)
            waiting &= table.waiting()

    def _settle_s(self, generation: Generation) -> float:
        """Seconds until every request from before the switch is in the table; without a table, until it has ended."""
        view = view_of(self._state.snapshot(generation.number), generation.profile)
        for model in generation.models:
            given = view.configs[model].texts()
            if base_name(model) == "retrieval" and given.get("max_in_flight") == "0":
                return _SETTLE_S + RetrievalParameters.from_strings(model, given).max_budget_ms / 1e3
        return _SETTLE_S

    def _load(self, name: str) -> None:
        try:
            self._control.load(name)
        except ControlError as error:
            raise ApplyError(f"{name} does not load: {error}") from None


class Watch:
    """Monitors the server after a switch, by requests and by the server's counts.

    Args:
        control: The server's model control.
        ensembles: The public ones.
        limits: Limits of the rollout.
    """

    def __init__(self, control: Control, ensembles: Sequence[str], limits: RolloutLimits) -> None:
        self._control, self._ensembles, self._limits = control, ensembles, limits
        self._began = self._counts()
        self._before: dict[str, Answered] = {}
        self._at_switch: dict[str, Answered] = {}

    def switching(self) -> None:
        """Record the counts before the switch."""
        self._at_switch = self._counts()
        self._before = {name: counts.since(self._began[name]) for name, counts in self._at_switch.items()}

    def run(self, asker: Asker, probes: Sequence[ReplaySample], generation: Generation) -> str:
        """Watch for `watch_s` seconds; returns what is wrong, or ""."""
        ends = time.monotonic() + self._limits.watch_s
        number = 0
        while time.monotonic() < ends:
            sample = probes[number % len(probes)]
            number += 1
            if wrong := self._probe(asker.ask(sample, sample.ensemble), sample, generation) or self._look():
                return wrong
            time.sleep(min(_PROBE_PAUSE_S, max(0.0, ends - time.monotonic())))
        return ""

    def _probe(self, answer: ReplayAnswer, sample: ReplaySample, generation: Generation) -> str:
        if answer.error and not answer.overloaded:
            return f"a request failed: {answer.error} ({sample})"
        if not answer.error and answer.generation != str(generation.number):
            return f"a page came from generation {answer.generation} after the switch ({sample})"
        return ""

    def _look(self) -> str:
        for name in ("", *self._ensembles):
            if not self._control.is_ready(name):
                return f"{name or 'the server'} is not ready"
        for name, counts in self._counts().items():
            now, before = counts.since(self._at_switch[name]), self._before[name]
            if now.bad >= _FEW_FAILURES and now.bad_share > before.bad_share + self._limits.watch_error_rise:
                return (
                    f"{now.bad} of {now.total} requests of {name} failed, {before.bad_share:.1%} before the switch "
                    f"(watch_error_rise {self._limits.watch_error_rise:g})"
                )
            slower_ms = now.mean_ms - before.mean_ms
            if (
                min(now.good, before.good) >= _ENOUGH_ANSWERS
                and slower_ms > self._limits.latency_slack_ms
                and now.mean_ms > self._limits.watch_latency_ratio * before.mean_ms
            ):
                return (
                    f"{name} takes {now.mean_ms:.0f} ms, {before.mean_ms:.0f} ms before the switch "
                    f"(watch_latency_ratio {self._limits.watch_latency_ratio:g})"
                )
        return ""

    def _counts(self) -> dict[str, Answered]:
        return {name: self._control.answered(name) for name in self._ensembles}

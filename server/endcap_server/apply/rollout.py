"""One rollout: replaces the live generation by one from a folder of configurations or a build, or reverts."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from endcap_server.apply.compare import compare
from endcap_server.apply.difference import difference
from endcap_server.apply.limits import RolloutLimits
from endcap_server.apply.memory import memory_need
from endcap_server.apply.notices import notices
from endcap_server.apply.replay import Asker, samples, smoke_samples
from endcap_server.apply.switch import Switch, Watch
from endcap_server.generations.composition import compose, view_of
from endcap_server.generations.snapshot import REPOSITORY, source_folders, take_snapshot
from endcap_server.lint import lint_repository
from endcap_server.lint.command import describe_finding
from endcap_server.lint.finding import Finding
from endcap_server.serving.control import ControlError
from endcap_server.serving.errors import ApplyError
from endcap_server.serving.generation import Generation, StateFolder, write_whole
from endcap_server.serving.running import RunningServer
from endcap_server.stages.trial import FILE as TRIAL_FILE

Report = Callable[[str], None]


class RolloutRefused(Exception):  # noqa: N818 - an outcome, not a fault
    """The new generation was refused; the message says why. The live generation is unchanged."""


@dataclass(frozen=True)
class Share:
    """The share of requests for a generation on trial.

    Attributes:
        mode: split: its answers are used; shadow: it gets copies of requests, and its answers are dropped.
        share: of the shoppers, above 0 and at most 1.
    """

    mode: str
    share: float


@dataclass(frozen=True)
class RolloutOptions:
    """Options of one rollout.

    Attributes:
        settings: "NAME=VALUE" limits.
        force_memory: load the new generation even if the estimate says that memory is too small.
        skip_hashes: do not compare hashes of artefacts with the manifest.
        dry_run: report what would be done, and change nothing.
        trial: do not switch to the new generation, but give it a share of the requests.
        lenient: pages that differ are reported but do not stop the rollout; for rollbacks.
    """

    settings: tuple[str, ...] = ()
    force_memory: bool = False
    skip_hashes: bool = False
    dry_run: bool = False
    trial: Share | None = None
    lenient: bool = False


class Rollout:
    """Rollouts of one running server, whose lock is held.

    Args:
        server: The server.
        report: Called with each line of progress.
        options: Options of the rollout.
    """

    def __init__(self, server: RunningServer, report: Report, options: RolloutOptions = RolloutOptions()) -> None:
        self.server, self.report, self.options = server, report, options
        self.state: StateFolder = server.state_folder
        self.journal = self.state.journal
        self.control = server.control
        self.switch = Switch(self.state, self.control, Path(server.run_folder), server.process)
        self._run_folder = Path(server.run_folder)

    def apply(self, source: Path | None, *, kind: str = "apply", to: int = 0) -> int | None:
        """Roll out a folder; returns the number of the new generation, None if there was nothing to do.

        Raises:
            RolloutRefused: lint, the comparison or the watch found a problem; the live generation is unchanged.
            ApplyError: the rollout failed; the live generation is unchanged.
        """
        live = self.live()
        if staged := self.journal.standing().staged:
            raise ApplyError(
                f"generation {staged} runs beside the live one: make it live with `endcap apply --promote`, or end its "
                "trial with `endcap rollback`"
            )
        source = source or self._default_source(live)
        repository, artefacts = source_folders(source, self.state.snapshot(live.number))
        limits = RolloutLimits.read((source, repository, artefacts), self.options.settings)
        number = self.journal.standing().newest + 1
        candidate = self.state.folder / "generations" / ".candidate"
        began = {"kind": kind, "source": str(source.resolve()), "to": to}
        try:
            take_snapshot(repository, artefacts, candidate)
            generation = self._plan(candidate, number, source, repository, live)
            if generation is None or self.options.dry_run:
                return None
            self._check_memory(candidate, generation, live, limits)
            self.journal.write("began", number, changed=generation.own, **began)
            candidate.rename(self.state.snapshot(number))
        except RolloutRefused as error:
            if not self.options.dry_run:
                self.journal.write("began", number, **began)
                self.journal.write("ended", number, outcome="refused", reason=str(error))
            raise
        finally:
            shutil.rmtree(candidate, ignore_errors=True)
        with self._taken_back_on_failure(number, live):
            self.state.write(generation)
            self._go(generation, live, limits)
        return number

    @contextmanager
    def _taken_back_on_failure(self, number: int, live: Generation) -> Iterator[None]:
        """Restore the server if the rollout ends early for any reason, also by an interrupt."""
        try:
            yield
        except BaseException as error:
            try:
                self._take_back(number, live, error)
            except (ApplyError, ControlError) as second:
                self.report(f"bringing generation {live.number} back was not finished: {second}; run `endcap rollback`")
            raise

    def _go(self, generation: Generation, live: Generation, limits: RolloutLimits) -> None:
        number = generation.number
        watch = Watch(self.control, live.public, limits)
        self.journal.step(number, "load")
        self.switch.load(generation, self.report)
        with Asker(self.server.http) as asker:
            self.journal.step(number, "compare")
            self._compare(asker, generation, live, limits)
            if self.options.trial is not None:
                self.try_out(generation, self.options.trial)
                self.journal.write("ended", number, outcome="staged")
                return
            self._promote(asker, generation, live, limits, watch)

    def _promote(
        self, asker: Asker, generation: Generation, live: Generation, limits: RolloutLimits, watch: Watch
    ) -> None:
        """Switch to a generation that is loaded and compared, watch it, and unload the former one."""
        number = generation.number
        self.end_trial()
        watch.switching()
        self.journal.step(number, "switch")
        self.switch.to(generation)
        self.journal.step(number, "watch")
        self.report(f"switched: generation {number} is live; watching for {limits.watch_s:g} s")
        probes = smoke_samples(self.state.snapshot(number))
        if wrong := watch.run(asker, probes, generation):
            raise RolloutRefused(wrong)
        self.finish(generation, live)

    def finish(self, generation: Generation, former: Generation) -> None:
        """Unload the former generation: the last step of a successful rollout."""
        self.journal.step(generation.number, "unload")
        self.switch.drop_staging(generation)
        self.switch.retire(former, generation, self.report, was_live=True)
        self.journal.write("ended", generation.number, outcome="live")
        self.state.prune(generation)

    def try_out(self, generation: Generation, share: Share) -> None:
        """Announce a loaded generation, so that clients send it a share of the requests."""
        models = {ensemble: generation.staging(ensemble) for ensemble in generation.public}
        document = {
            "generation": str(generation.number),
            "digest": generation.digest,
            "mode": share.mode,
            "share": share.share,
            "models": models,
        }
        write_whole(self._run_folder / TRIAL_FILE, json.dumps(document))

    def end_trial(self) -> None:
        """Remove the announcement; clients stop using the generation after their next answer."""
        (self._run_folder / TRIAL_FILE).unlink(missing_ok=True)

    def promote(self) -> int:
        """Switch to the generation on trial.

        Raises:
            RolloutRefused: it failed a check; the live generation is unchanged.
            ApplyError: there is none.
        """
        live, staged = self.live(), self.journal.standing().staged
        if not staged:
            raise ApplyError("no generation runs beside the live one; `endcap apply --split 5%` loads one")
        generation = self.state.read(staged)
        limits = RolloutLimits.read((Path(generation.source),), self.options.settings)
        with Asker(self.server.http) as asker, self._taken_back_on_failure(staged, live):
            self.report(f"generation {staged} from {generation.source}:")
            watch = Watch(self.control, live.public, limits)
            self._smoke(asker, generation)
            self._promote(asker, generation, live, limits, watch)
        return staged

    def live(self) -> Generation:
        """The generation that is live.

        Raises:
            ApplyError: there is none yet, or its files are gone.
        """
        standing = self.journal.standing()
        if not standing.live:
            raise ApplyError(f"{self.state.folder}: no generation is live; is the server starting?")
        return self.state.read(standing.live)

    def _default_source(self, live: Generation) -> Path:
        """The folder from which the live configurations came; for a rollback, the source of the earlier generation."""
        source, runs = Path(live.source), self.journal.standing().runs
        run = runs.get(live.number)
        while run is not None and run.to:
            run = runs.get(run.to)
        return Path(run.source) if run is not None and run.source else source

    def _plan(self, folder: Path, number: int, source: Path, repository: Path, live: Generation) -> Generation | None:
        """Check a snapshot, compose its generation and report the changes; None if nothing changes."""
        self._lint(folder, repository, live.profile)
        view = view_of(folder, live.profile)
        generation = compose(number, str(source.resolve()), view, folder, live)
        if generation.digests == live.digests:
            self.report(f"{source}: nothing differs from generation {live.number}, which is live")
            return None
        live_view = view_of(self.state.snapshot(live.number), live.profile)
        self.report(f"generation {number} from {source}:")
        for line in difference(view, generation, live_view, live):
            self.report(line)
        for notice in notices(view, generation, live):
            self.report(f"  note: {notice}")
        return generation

    def _lint(self, folder: Path, repository: Path, profile: str) -> None:
        findings = lint_repository(folder, (profile,), hashes=not self.options.skip_hashes)
        for finding in findings:
            self.report(describe_finding(_at_source(finding, folder, repository)))
        errors = sum(finding.severity == "error" for finding in findings)
        if errors:
            raise RolloutRefused(f"lint found {errors} error{'s' * (errors > 1)}; nothing was loaded")

    def _check_memory(self, folder: Path, generation: Generation, live: Generation, limits: RolloutLimits) -> None:
        need = memory_need(self.server.process, generation, live, folder, self.state.snapshot(live.number))
        self.report(f"  memory: about {need.needed_mb} MB more while both are loaded, {need.available_mb} MB available")
        if need.available_mb - need.needed_mb < limits.memory_reserve_mb and not self.options.force_memory:
            raise RolloutRefused(
                f"{need.available_mb} MB of memory are available; the new generation takes about {need.needed_mb} MB "
                f"beside the live one, and {limits.memory_reserve_mb} MB stay free (memory_reserve_mb). Free memory, "
                "load it regardless with --force-memory, or change over with a gap: stop `endcap serve`, and start it "
                "on the new build"
            )

    def _smoke(self, asker: Asker, generation: Generation) -> None:
        for sample in smoke_samples(self.state.snapshot(generation.number)):
            answer = asker.ask(sample, generation.staging(sample.ensemble))
            if not answer.error or answer.overloaded:
                continue
            if live := asker.ask(sample, sample.ensemble).error:
                self.report(f"  note: live fails too: {live} ({sample})")
            else:
                raise RolloutRefused(f"a smoke request failed: {answer.error} ({sample})")

    def _compare(self, asker: Asker, generation: Generation, live: Generation, limits: RolloutLimits) -> None:
        self._smoke(asker, generation)
        staged = {each: generation.staging(each) for each in generation.public}
        asked, recorded = samples(self.state.snapshot(live.number), self._run_folder, live.table, limits.sample)
        self.report(f"comparing {len(asked)} requests, {recorded} of them recorded")
        found = compare(asker, asked, {each: each for each in live.public}, staged)
        self.journal.write("compared", generation.number, **found.document())
        for name, of_live, of_staged in found.lines():
            self.report(f"  {name:<16} {of_live:>10} {of_staged:>10}")
        broken = found.broken(limits)
        if broken and not self.options.lenient:
            raise RolloutRefused("; ".join(broken))
        for each in broken:
            self.report(f"  note: {each}")

    def _take_back(self, number: int, live: Generation, error: BaseException) -> None:
        """Return the server to the live generation from any state of the rollout."""
        switched = "switch" in self.journal.standing().runs[number].steps
        outcome = "rolled back" if switched else "refused" if isinstance(error, RolloutRefused) else "failed"
        self.undo(number, live, outcome, str(error) or type(error).__name__)

    def undo(self, number: int, live: Generation, outcome: str, reason: str) -> None:
        """Revert what a rollout has done; idempotent."""
        run = self.journal.standing().runs[number]
        self.end_trial()
        if "switch" in run.steps:
            self.journal.step(number, "back")
            self.switch.to(live)
            self.report(f"switched back: generation {live.number} is live")
        if self.state.has(number):
            generation = self.state.read(number)
            asked = "switch" in run.steps or run.outcome == "staged"
            self.switch.retire(generation, live, self.report, was_live=asked)
        shutil.rmtree(self.state.snapshot(number), ignore_errors=True)
        self.journal.write("ended", number, outcome=outcome, reason=reason)
        self.state.prune(live)


def _at_source(finding: Finding, folder: Path, repository: Path) -> Finding:
    """A finding in a snapshot, with the place in the file that was copied."""
    path = finding.where.path
    for inner, outer in ((folder / REPOSITORY, repository), (folder, repository.parent)):
        if inner in (path, *path.parents):
            where = type(finding.where)(outer / path.relative_to(inner), finding.where.line)
            return Finding(where, finding.code, finding.what, finding.mend)
    return finding

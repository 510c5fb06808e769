"""The journal of facts: what is acknowledged is never lost, and nobody sees half of anything."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from endcap_server.shop import facts_writer
from endcap_server.shop.facts import Facts
from endcap_server.shop.facts_journal import FactsError, JournalReader
from endcap_server.shop.facts_state import FactChange, FactsState, FactsWriter, RuleChange
from endcap_server.shop.facts_writer import JournalWriter
from endcap_server.shop.standing_rules import StandingRule
from endcap_server.shop.store import ItemStore
from tiny_shop import build_shop


def changes(count: int, start: int = 0) -> list[FactChange]:
    """Change ``k`` sets the price of p<k mod 20> to k."""
    return [FactChange(f"p{k % 20}", "price", float(k), 1000.0 + k) for k in range(start, start + count)]


def prices(state: FactsState) -> dict[str, float]:
    return {product: state.of(product)["price"][0] for product in state.ids}


def test_what_was_written_is_read_in_another_object(tmp_path: Path) -> None:
    writer = FactsWriter(tmp_path, "test")
    assert writer.write(changes(30)) == 20
    rule = StandingRule.model_validate({"rule": "ban", "subject": "brand:Ostara", "reason": "recall"})
    writer.write(rules=[RuleChange(rule)], seen=2000.0)
    found = FactsState.read(tmp_path)
    assert prices(found) == {f"p{k % 20}": float(k) for k in range(10, 30)}
    assert list(found.rules.values()) == [rule]
    assert found.as_of == 2000.0
    writer.write(rules=[RuleChange(rule, remove=True)])
    assert not FactsState.read(tmp_path).rules


def test_an_older_value_does_not_replace_a_newer_one(tmp_path: Path) -> None:
    writer = FactsWriter(tmp_path, "test")
    writer.write([FactChange("p1", "price", 5.0, 100.0), FactChange("p1", "in_stock", 0.0, 50.0)])
    assert writer.write([FactChange("p1", "price", 4.0, 99.0), FactChange("p1", "in_stock", 1.0, 99.0)]) == 1
    assert FactsState.read(tmp_path).of("p1") == {"price": (5.0, 100.0), "in_stock": (1.0, 99.0)}


def test_a_journal_cut_at_any_byte_shows_whole_writes_and_goes_on(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    writer = FactsWriter(whole, "test")
    ends, states = [], []
    for number in range(4):
        writer.write(changes(3, 3 * number))
        ends.append(next(whole.glob("journal-*")).stat().st_size)
        states.append(prices(FactsState.read(whole)))
    name = next(whole.glob("journal-*")).name
    data = (whole / name).read_bytes()
    for cut in range(ends[0], len(data)):
        folder = tmp_path / "cut"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / name).write_bytes(data[:cut])
        acknowledged = sum(end <= cut for end in ends)
        assert prices(FactsState.read(folder)) == states[acknowledged - 1]
        FactsWriter(folder, "test").write([FactChange("p19", "price", 77.0, 1e6)])
        assert prices(FactsState.read(folder)) == {**states[acknowledged - 1], "p19": 77.0}


_WRITER = """
import sys
from pathlib import Path
from endcap_server.shop import facts_writer
from endcap_server.shop.facts_state import FactChange, FactsWriter
facts_writer.COMPACT_BYTES = 2000
writer = FactsWriter(Path(sys.argv[1]), "test")
for number in range(10**6):
    writer.write([FactChange(f"p{k}", "price", float(number), float(number)) for k in range(20)])
    print(number, flush=True)
"""


def test_a_killed_writer_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    last = -1
    for round_ in range(6):
        shutil.rmtree(tmp_path / "facts", ignore_errors=True)
        writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path / "facts")], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        reader, state = JournalReader(tmp_path / "facts"), FactsState()
        for _ in range(20 + 13 * round_):
            last = int(writer.stdout.readline())
            for entry in reader.read():
                state.take(entry)
            values = set(prices(state).values())
            assert len(values) == 1, "a reader saw a part of a write"
            assert min(values) >= last, "a reader missed what was acknowledged"
        os.kill(writer.pid, signal.SIGKILL)
        last = max([last, *(int(line) for line in writer.communicate()[0].split(b"\n")[:-1])])
        found = FactsState.read(tmp_path / "facts")
        assert set(prices(found).values()) in ({float(last)}, {float(last + 1)})
        FactsWriter(tmp_path / "facts", "test").write(changes(20, 10**7))
        assert prices(FactsState.read(tmp_path / "facts"))["p0"] == 10**7


def test_a_reader_follows_through_compactions_and_a_removed_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts_writer, "COMPACT_BYTES", 500)
    folder, store = tmp_path / "facts", ItemStore.open(build_shop(tmp_path / "build"))
    steady, seldom = Facts(store, folder), Facts(store, folder)
    assert steady.now().price[3] == 9.5
    writer = FactsWriter(folder, "test")
    for number in range(60):
        writer.write(changes(2, 2 * number))
        assert steady.now().price[(2 * number + 1) % 20] == 2 * number + 1
        if number % 25 == 24:
            assert (seldom.now().price == steady.now().price).all()
    assert len(list(folder.glob("journal-*"))) <= 2
    assert next(iter(sorted(folder.glob("journal-*")))).name > "journal-00000003"
    shutil.rmtree(folder)
    assert (steady.now().price == 9.5).all()
    FactsWriter(folder, "test").write(changes(1))
    assert steady.now().price[0] == 0


def test_a_reader_of_a_file_that_was_cut_reads_it_anew(tmp_path: Path) -> None:
    FactsWriter(tmp_path, "test").write(changes(2))
    path = next(tmp_path.glob("journal-*"))
    whole = path.stat().st_size
    FactsWriter(tmp_path, "test").write(changes(2, 10))
    reader, state = JournalReader(tmp_path), FactsState()
    for entry in reader.read():
        state.take(entry)
    assert len(prices(state)) == 4
    os.truncate(path, whole)
    for _ in range(2):
        for entry in reader.read():
            state.take(entry)
        assert prices(state) == {"p0": 0.0, "p1": 1.0}
    FactsWriter(tmp_path, "test").write(changes(1, 5))
    for entry in reader.read():
        state.take(entry)
    assert prices(state) == {"p0": 0.0, "p1": 1.0, "p5": 5.0}


def test_a_new_build_maps_the_same_facts_to_its_own_rows(tmp_path: Path) -> None:
    writer = FactsWriter(tmp_path / "facts", "test")
    writer.write([FactChange("p7", "in_stock", 0.0, 1.0), FactChange("gone", "in_stock", 0.0, 1.0)])
    one = Facts(ItemStore.open(build_shop(tmp_path / "one")), tmp_path / "facts")
    two = Facts(ItemStore.open(build_shop(tmp_path / "two", out_of_stock=(3,))), tmp_path / "facts")
    assert (~one.now().in_stock).nonzero()[0].tolist() == [7]
    assert (~two.now().in_stock).nonzero()[0].tolist() == [3, 7]
    before = one.now()
    writer.write([FactChange("p7", "in_stock", 1.0, 2.0)])
    assert one.now().in_stock[7]
    assert not before.in_stock[7], "what a request has looked up changes under it"
    assert one.now() is one.now()


def test_a_second_writer_is_told_who_writes(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, "endcap facts follow redis://shop/stock")
    with (
        writer.locked(),
        pytest.raises(FactsError, match=rf"only writer, but process {os.getpid()}, endcap facts follow redis://shop"),
    ):
        FactsWriter(tmp_path, "test", patience_s=0).write(changes(1))
    FactsWriter(tmp_path, "test", patience_s=0).write(changes(1))


def test_a_full_disk_is_an_error_that_leaves_the_journal_whole(tmp_path: Path) -> None:
    writer = FactsWriter(tmp_path, "test")
    writer.write(changes(5))
    script = (
        "import resource, sys; from pathlib import Path\n"
        "from endcap_server.shop.facts_state import FactChange, FactsWriter\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "FactsWriter(Path(sys.argv[1]), 'test').write([FactChange(f'q{k}', 'price', 1.0, 1.0) for k in range(500)])\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode
    assert "nothing of this was taken: free space" in done.stderr
    assert prices(FactsState.read(tmp_path)) == {f"p{k}": float(k) for k in range(5)}
    writer.write(changes(1, 5))
    assert prices(FactsState.read(tmp_path)) == {f"p{k}": float(k) for k in range(6)}


def test_damage_before_whole_records_is_an_error(tmp_path: Path) -> None:
    FactsWriter(tmp_path, "test").write(changes(5))
    FactsWriter(tmp_path, "test").write(changes(5, 5))
    path = next(tmp_path.glob("journal-*"))
    data = bytearray(path.read_bytes())
    data[-200] ^= 1
    FactsWriter(tmp_path, "test").write(changes(5, 10))
    path.write_bytes(bytes(data) + path.read_bytes()[len(data) :])
    with pytest.raises(FactsError, match=r"got a damaged one at byte \d+ and more"):
        FactsWriter(tmp_path, "test").write(changes(1))

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from optimize.fleet import journal


def test_what_is_done_is_known_to_the_next_run(tmp_path):
    path = tmp_path / "work" / "journal.jsonl"
    first = journal.Journal(path)
    first.add("orin1", "bench", "key", value={"rows": 4})
    first.add("orin2", "bench", "key", journal.LOST, why="no route to host")
    again = journal.Journal(path)
    assert again.done("orin1", "bench", "key") == {"rows": 4}
    assert again.done("orin1", "bench", "another key") is None
    assert again.done("orin2", "bench", "key") is None
    (last,) = again.last("orin2")
    assert (last["state"], last["why"]) == (journal.LOST, "no route to host")


def test_the_last_line_of_a_step_counts(tmp_path):
    one = journal.Journal(tmp_path / "j")
    one.add("a", "bench", "k", journal.BEGUN)
    assert one.unfinished("a", "bench") == "k"
    one.add("a", "bench", "k", value=1)
    assert journal.Journal(tmp_path / "j").unfinished("a", "bench") == ""
    one.add("a", "bench", "k2", journal.LOST)
    assert one.done("a", "bench", "k") is None and one.unfinished("a", "bench") == "k2"


@given(st.integers(0, 400))
def test_a_journal_that_a_crash_cut_short_is_gone_on_with(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("j") / "journal"
    one = journal.Journal(path)
    for number in range(3):
        one.add(f"board{number}", "bench", "k", value=number)
    content = path.read_bytes()
    path.write_bytes(content[: max(0, len(content) - cut)])
    again = journal.Journal(path)
    again.add("later", "bench", "k", value=9)
    third = journal.Journal(path)
    assert third.done("later", "bench", "k") == 9
    kept = [third.done(f"board{number}", "bench", "k") for number in range(3)]
    assert kept == [0, 1, 2][: len([k for k in kept if k is not None])] + [None] * kept.count(None)


def test_a_file_of_something_else_is_no_journal(tmp_path):
    (tmp_path / "j").write_text(
        '{"schema": "optimize.cells/1"}\n{"subject": "a", "step": "b", "key": "k", "state": "done"}\n'
    )
    assert journal.Journal(tmp_path / "j").last("a") == []

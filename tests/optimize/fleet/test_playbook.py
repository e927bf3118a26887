from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimize.fleet import playbook

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


def loaded(text: str):
    """The YAML as a loader sees it that knows `!unsafe`."""
    yaml = pytest.importorskip("yaml")

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!unsafe", lambda loader, node: loader.construct_scalar(node))
    return yaml.load(text, Loader)


@given(VALUES.filter(lambda value: isinstance(value, dict)))
def test_values_are_handed_over_as_they_are(value):
    assert loaded(playbook._yaml({"given": value})) == {"given": value}


def test_every_string_is_marked_as_one_that_is_not_expanded():
    assert playbook._yaml({"a": ["{{ x }}", 1, True, None]}) == '{"a": [!unsafe "{{ x }}", 1, true, null]}'


def answer(tmp_path: Path, **told):
    file = tmp_path / "answer.json"
    file.write_text(json.dumps({"quiet": {"rc": 0, "stdout": ""}, "rcs": [], "stdouts": [], "stderrs": [], **told}))
    return playbook._answer(file, tmp_path / "log")


def test_a_board_without_an_answer_was_lost(tmp_path):
    found = playbook._answer(tmp_path / "none.json", tmp_path / "log")
    assert found.lost and str(tmp_path / "log") in found.message


def test_ssh_s_own_words_are_kept(tmp_path):
    words = (
        "Task failed: Failed to connect to the host via ssh: ssh: connect to host 10.0.0.9 port 22: No route to host"
    )
    found = answer(tmp_path, unreachable=True, message=words)
    assert found.lost and found.message == "ssh: connect to host 10.0.0.9 port 22: No route to host"


def test_an_error_of_ours_is_told_by_its_message(tmp_path):
    document = json.dumps({"error": {"message": "no such model", "hint": "", "exit_code": 2}})
    found = answer(tmp_path, rcs=[0, 2], stdouts=["", document], stderrs=["", "error: no such model"])
    assert not found.lost and found.message == "no such model"
    assert playbook.error_of(found.commands[1])["exit_code"] == 2


def test_an_error_of_another_program_is_told_by_its_last_words(tmp_path):
    found = answer(tmp_path, rcs=[2], stdouts=[""], stderrs=["tar: x: Cannot write: No space left on device"])
    assert "No space left on device" in found.message and "code 2" in found.message


def test_a_task_that_failed_is_named(tmp_path):
    found = answer(tmp_path, failed=True, task="Send files", message="No space left on device")
    assert found.message == "Send files: No space left on device"


def test_a_board_that_is_not_quiet_or_not_free(tmp_path):
    assert "load 1.20 for each core" in answer(tmp_path, quiet={"rc": 75, "stdout": "1.20 45.0\n"}).message
    assert "lock" in answer(tmp_path, rcs=[75], stdouts=[""], stderrs=[""]).message


def test_text_of_a_board_that_no_file_or_terminal_takes_is_made_safe(tmp_path):
    found = answer(tmp_path, rcs=[1], stdouts=["\udcff"], stderrs=["no \x1b[31m space \ud800 left"])
    assert found.message.isprintable() and "left" in found.message
    json.dumps(found.told, ensure_ascii=False).encode()
    document = playbook.document({"stdout": '{"active": "\\ud800"}'})
    assert document == {"active": "?"}


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' * 990 + "1" + "}" * 990, '{"\\ud800": 1, "\\ud801": 2}'])
def test_a_document_that_cannot_be_written_again_is_none(text):
    assert playbook.document({"stdout": text}) is None


@pytest.mark.parametrize("text", ["", "[]", "{", '{"rcs": 3}', '{"rcs": [0], "stdouts": [], "stderrs": null}'])
def test_an_answer_that_is_none_is_no_crash(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    assert playbook._answer(tmp_path / "a.json", tmp_path / "log").commands == []


def test_ansible_is_run_and_never_imported():
    for path in Path(playbook.__file__).parent.rglob("*.py"):
        assert "import ansible" not in path.read_text() and "from ansible" not in path.read_text(), path

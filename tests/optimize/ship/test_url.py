"""Which place a URL means, and what of it may be shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.errors import UsageError
from optimize.ship.stores.files import FileStore
from optimize.ship.url import open_source, open_store, shown


def test_a_path_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "with:colon").mkdir()
    for text in ("models", "./a:b", "with:colon", "-x", str(tmp_path)):
        store = open_store(text)
        assert isinstance(store, FileStore) and store.url == text


def test_an_unknown_scheme_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(UsageError, match="unknown scheme ftp://") as caught:
        open_store("ftp://me:never-shown@host/x?token=never-shown")
    for known in ("ssh://", "s3://", "oci://", "oci-layout:", "file://"):
        assert known in caught.value.hint
    assert "never-shown" not in str(caught.value) and caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "hint"),
    [("board:models", "ssh://board/~/models"), ("me@board:/srv/models", "ssh://me@board/srv/models")],
)
def test_the_form_of_scp_is_told_apart(text: str, hint: str) -> None:
    with pytest.raises(UsageError, match="a host is written as a URL") as caught:
        open_store(text)
    assert hint in caught.value.hint


@pytest.mark.parametrize("text", ["", "a\0b", "file://host/x", "file:relative", "file:///x?y", "file:///a%00b"])
def test_what_is_no_path_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        open_store(text)


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("ssh://me:secret@host:22/x", "ssh://me@host:22/x"),
        ("s3://bucket/x?token=secret", "s3://bucket/x"),
        ("oci://host/x#secret", "oci://host/x"),
        ("ftp://a:se@cret@host", "ftp://a@host"),
        ("a/plain@path:x", "a/plain@path:x"),
        ("oci-layout://u:secret@h/x", "oci-layout://u@h/x"),
        ("oci-layout:a@b", "oci-layout:a@b"),
        ("oci://u:se@cr/et@host/x", "oci://u@host/x"),
        ("oci://u:se/cr?et@host/x", "oci://u@host/x"),
        ("ssh://me:1234@host/x", "ssh://me@host/x"),
        ("ssh://host:22/a@b/x", "ssh://host:22/a@b/x"),
        ("ssh://me@host:22/a@b/x", "ssh://me@host:22/a@b/x"),
        ("me:secret@host:x", "me@host:x"),
        ("me:se/cr@et@host:x", "me@host:x"),
    ],
)
def test_nothing_secret_is_shown(text: str, safe: str) -> None:
    assert shown(text) == safe


@pytest.mark.parametrize("text", ["oci-layout://u:hunter2@h/x", "oci://u:hun@ter/hunter2@host/x", "u:hunter2@h:x"])
def test_a_url_with_a_password_is_refused_without_it(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_store(text)
    assert "hun" not in caught.value.message + caught.value.hint


def test_a_password_in_the_form_of_scp_is_refused_with_the_url_to_use() -> None:
    with pytest.raises(UsageError, match="a password has no place in a URL") as caught:
        open_store("me:hunter2@board:models")
    assert caught.value.hint == "ssh://me@board/~/models"


@pytest.mark.parametrize("form", ["{}", "file://{}", "oci-layout:{}"])
def test_a_folder_that_is_not_there_is_no_source(tmp_path: Path, form: str) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        open_source(form.format(tmp_path / "engines"))
    open_source(form.format(tmp_path)).close()

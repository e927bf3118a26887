"""An image layout that other tools wrote and read."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from engines.errors import DamagedError, IncompatibleError, UsageError
from optimize.ship.store import Ref
from optimize.ship.url import open_store
from tests.optimize.ship.stores.test_stores import published


def test_what_other_tools_have_put_there_stays(tmp_path: Path) -> None:
    (tmp_path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    other = {"mediaType": "x", "digest": "sha256:" + "a" * 64, "size": 2, "annotations": {"org.x": "y"}}
    (tmp_path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [other]}))
    store = open_store(f"oci-layout:{tmp_path}")
    digest = published(store, tmp_path, "net", "v1", "x")
    assert store.refs() == [Ref("net", "v1", digest)]
    assert json.loads((tmp_path / "index.json").read_text())["manifests"][0] == other


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed (apt-get install skopeo)")
def test_skopeo_reads_it(tmp_path: Path) -> None:
    store = open_store(f"oci-layout:{tmp_path}/layout")
    digest = published(store, tmp_path, "net", "v1", "x")
    command = ["skopeo", "inspect", "--raw", f"oci:{tmp_path}/layout:net:v1"]
    found = subprocess.run(command, check=True, capture_output=True).stdout
    assert found == store.get_document("net", digest, 1 << 20)


def test_a_newer_layout_is_refused(tmp_path: Path) -> None:
    (tmp_path / "oci-layout").write_text('{"imageLayoutVersion": "2.0.0"}')
    with pytest.raises(IncompatibleError, match=r"version 2\.0\.0"):
        open_store(f"oci-layout:{tmp_path}").refs()


@pytest.mark.parametrize(
    "text", ["", "[]", '{"schemaVersion":1,"manifests":[]}', '{"schemaVersion":2,"manifests":[1]}']
)
def test_an_index_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(DamagedError, match="no index of an OCI image layout"):
        open_store(f"oci-layout:{tmp_path}").resolve("net", "v1")


@pytest.mark.parametrize("url", ["oci-layout:", "oci-layout://host/x"])
def test_a_malformed_url_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="oci-layout:DIR"):
        open_store(url)

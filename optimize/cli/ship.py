"""`optimize ship`, `optimize pull` and `optimize key new|show`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, Dict, List, Optional

import typer
from typing_extensions import Annotated

from optimize.cli.command import about_node, command
from optimize.cli.console import answer, line, progress, say

key_app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Keys that sign shipments (ed25519).",
)

Bandwidth = Annotated[
    Optional[str], typer.Option("--bandwidth", metavar="10Mbps", help="Use no more of the network: 10Mbps, 5MB/s.")
]
Sign = Annotated[Optional[Path], typer.Option("--sign", metavar="KEY", help="Private key of optimize key new.")]


def ship(
    bundles: Annotated[List[Path], typer.Argument(metavar="BUNDLE...", help="Of one model, each for another device.")],
    to: Annotated[
        str,
        typer.Option("--to", metavar="URL", help="DIR, ssh://HOST/DIR, s3://BUCKET, oci://HOST/REPO, triton:DIR|URL."),
    ],
    name: Annotated[
        Optional[str],
        typer.Option("--name", help="What nodes pull it by [default: its shipment's, or <model>-<precision>]."),
    ] = None,
    tag: Annotated[str, typer.Option("--tag", help="Version of the name.")] = "latest",
    sign: Sign = None,
    data: Annotated[
        Optional[str],
        typer.Option("--data", metavar="cifar10|DIR|NPZ", help="Images to send along: others calibrate INT8 by them."),
    ] = None,
    bandwidth: Bandwidth = None,
    verify: Annotated[
        Optional[bool],
        typer.Option(
            "--verify/--no-verify",
            help="Check what is there by its hash, and send what is damaged anew [default: where it is a folder].",
        ),
    ] = None,
    load: Annotated[
        Optional[str], typer.Option("--load", metavar="URL", help="With triton:...: tell this Triton to load them.")
    ] = None,
) -> None:
    """Send engines to a store: what it lacks of them, with what a node needs to check them or to build its own."""
    from optimize.ship.send import ship as run

    with progress() as report:
        done = run(bundles, to, name, tag, sign, _limit(bandwidth), data, verify, load, report)
    answer(done, lambda: show_shipped(done))
    if "models" not in done:
        say(f"next, on the node: optimize pull {_reference(done)} --from {done['url']}")
    elif "loaded" not in done:
        root = shlex.quote(done["repository"])
        say(f"next: tritonserver --model-repository={root}, or --load http://HOST:8000 where one runs")


def pull(
    reference: Annotated[str, typer.Argument(metavar="NAME[:TAG][@sha256:...]", help="What optimize ship printed.")],
    url: Annotated[str, typer.Option("--from", metavar="URL", help="Where it was shipped to.")],
    device: Annotated[
        str,
        typer.Option("--for", metavar="this-device|KEY", help="A bundle, or a file of optimize device show --json."),
    ] = "this-device",
    allow_build: Annotated[
        bool, typer.Option("--allow-build", help="Where no variant fits, build one here from the graph in another.")
    ] = False,
    node: Annotated[
        Optional[Path],
        typer.Option("--node", metavar="DIR", help="Folder of the node [default: $OPTIMIZE_NODE, the user's]."),
    ] = None,
    out: Annotated[
        Optional[Path], typer.Option("-o", "--out", metavar="DIR", help="Into this folder, and no node.")
    ] = None,
    trust: Annotated[
        Optional[List[Path]], typer.Option("--trust", metavar="KEY.pub", help="With -o: it must be signed by this key.")
    ] = None,
    sign: Sign = None,
    bandwidth: Bandwidth = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say which variant would come, and why not the others.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait for another command on the node or folder.")
    ] = True,
) -> None:
    """Bring the engine that fits this device into the node (or a folder), whole and checked; nothing is activated.

    Exit code 4 where no variant fits or the signature is not trusted, 1 where a file is damaged, 3 where what was built
    here does not answer as the model did.
    """
    from optimize.ship import pull as pulling

    if dry_run:
        found = pulling.variants(reference, url, device)
        answer(found, lambda: _variants(found["variants"]), asked=True)
        if any(one["why_not"] is None for one in found["variants"]):
            return
        if not allow_build:
            raise pulling.none_fits(found["variants"], reference, url, device)
        say("none fits: one would be built here")
        return
    with progress() as report:
        done = pulling.pull(
            reference, url, device, allow_build, node, out, trust or [], sign, _limit(bandwidth), wait, report
        )
    answer(done, lambda: _pulled(done))
    if done["node"] is not None:
        say(about_node("next: optimize node activate", node))


@key_app.command("new")
@command
def new(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Private key; the public one is FILE.pub.")],
) -> None:
    """Make a key: the private one stays here and signs, the public one goes to the nodes."""
    from optimize.ship.trust import new_key

    made = new_key(path)
    answer(made, [f"{made['key']}: private key {made['id']}, keep it secret", f"{made['public']}: {made['line']}"])
    say(f"next, on each node: optimize node trust add {Path(made['public']).name}")


@key_app.command("show")
@command
def show(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A private or a public key.")],
) -> None:
    """The id and the public line of a key."""
    from optimize.ship.trust import show_key

    found = show_key(path)
    answer(found, [found["line"], f"id {found['id']}"], asked=True)


def _limit(bandwidth: Optional[str]) -> int:
    """Bytes a second; 0 for no limit."""
    if bandwidth is None:
        return 0
    from optimize.selection.asked import bandwidth as bits

    return max(1, int(bits("--bandwidth", bandwidth) / 8))


def _reference(done: Dict[str, Any]) -> str:
    return done["name"] if done["tag"] in ("latest", None) else f"{done['name']}:{done['tag']}"


def show_shipped(done: Dict[str, Any]) -> None:
    """What was shipped, to a store or to a model repository."""
    if "models" in done:
        for one in done["models"]:
            line(f"{done['repository']}/{one['name']}/{one['version']}: {_size(one['copied'])} copied")
        return
    from engines.device import DeviceKey
    from optimize.ship.choose import describe

    line(f"{done['name']}:{done['tag']}  {done['digest']}")
    for one in done["variants"]:
        sent = f"{_size(one['sent_bytes'])} of {_size(one['bytes'])} sent"
        line(f"  {one['variant'][:19]}  {describe(DeviceKey.from_json(one['device']))}: {sent}")


def _pulled(done: Dict[str, Any]) -> None:
    signed = f"signed by {done['signed_by']}" if done["signed_by"] else "no trusted signature"
    line(f"{done['path']}: {_reference(done)} ({done['precision']}), {signed}")
    if done["built"]:
        line("  built here from the graph of another variant, and held against its golden answers")
    _variants([one for one in done["variants"] if one["why_not"]])


def _variants(found: List[Dict[str, Any]]) -> None:
    from engines.device import DeviceKey
    from optimize.ship.choose import describe

    for one in found:
        why = one["why_not"] or "fits"
        line(f"  {one['variant'][:19]}  {describe(DeviceKey.from_json(one['device']))}: {why}")


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"

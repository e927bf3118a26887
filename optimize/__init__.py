"""From a trained Keras, PyTorch or ONNX model to verified, honestly measured engines.

The functions of the command line, for Python::

    import optimize

    done = optimize.build("resnet34.keras", precision="fp16,int8", data="cifar10")
    with optimize.load(done.bundles[0].path) as engine:
        scores = engine.infer({engine.inputs[0].name: images})
"""

from __future__ import annotations

TYPE_CHECKING = False  # nothing is imported: every command starts with this file, before Ctrl-C can be answered
if TYPE_CHECKING:
    from typing import Any, List

    from optimize.api import (
        activate,
        bench,
        build,
        compare,
        export,
        inspect,
        load,
        node_status,
        predict,
        profile,
        pull,
        report,
        rollback,
        select,
        serve,
        ship,
        verify,
        wcet,
    )
    from optimize.version import VERSION as __version__

__all__ = [
    "__version__",
    "activate",
    "bench",
    "build",
    "compare",
    "export",
    "inspect",
    "load",
    "node_status",
    "predict",
    "profile",
    "pull",
    "report",
    "rollback",
    "select",
    "serve",
    "ship",
    "verify",
    "wcet",
]


def __getattr__(name: str) -> Any:
    """The functions of `optimize.api`, imported when they are first asked for."""
    if name == "__version__":
        from optimize.version import VERSION

        return VERSION
    if name in __all__:
        from optimize import api

        return getattr(api, name)
    raise AttributeError(f"module 'optimize' has no attribute {name!r}")


def __dir__() -> List[str]:
    """For completion, which has seen nothing imported yet."""
    return [*globals(), *__all__]

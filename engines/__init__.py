"""What runs: device facts, specs, errors, bundles, and one backend or framework a file."""

from engines.open import open  # noqa: A004

__all__ = ["open"]

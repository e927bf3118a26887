"""What a run file must hold of a tail (`tail` of a row) before anything is drawn from it."""

from __future__ import annotations

from engines import fields

_or_none = fields.null_or(fields.number)
_share = fields.between(0, 1)

_check = fields.an_object(name=fields.word, asks=fields.word, p=_share, failed=fields.truth)
_ends = dict.fromkeys(("ms", "low_ms", "high_ms"), fields.number)
_threshold = dict.fromkeys(("ms", "shape", "scale_ms", "shape_error"), fields.number)

_layer = {"median_ms": fields.number, "max_ms": fields.number, "share": _or_none}

TAIL = fields.an_object(
    n=fields.whole(1, 1 << 40),
    **dict.fromkeys(("best_ms", "median_ms", "mean_ms", "hwm_ms", "hwm_ratio", "mu_3_sigma_ms"), fields.number),
    mu_3_sigma_exceeded=_share,
    first_ms=_or_none,
    tests=fields.a_list(_check),
    peak_tests=fields.a_list(_check),
    declustered=fields.truth,
    extremal_index=fields.null_or(_share),
    threshold=fields.null_or(fields.an_object(**_threshold, peaks=fields.whole(1, 1 << 40), p=_share)),
    candidates=fields.a_list(fields.an_object(**_threshold, peaks=fields.whole(1, 1 << 40), p=_share)),
    blocks=fields.null_or(
        fields.an_object(
            size=fields.whole(1, 1 << 40),
            count=fields.whole(1, 1 << 40),
            estimates=fields.a_list(
                fields.an_object(p=_share, **dict.fromkeys(("value", "low", "high"), fields.number))
            ),
        )
    ),
    estimates=fields.a_list(
        fields.an_object(**_ends, p=_share, extrapolated=fields.truth, seen_after=fields.whole(1, 1 << 53))
    ),
    curve=fields.a_list(fields.an_object(**_ends, p=_share)),
    deadline=fields.null_or(
        fields.an_object(
            deadline=fields.number,
            count=fields.whole(0, 1 << 40),
            n=fields.whole(1, 1 << 40),
            share=_share,
            interval=fields.a_list(_share, 2),
            after_a_miss=fields.null_or(_share),
            longest=fields.whole(0, 1 << 40),
            clustered=fields.truth,
        )
    ),
    out_of_sample=fields.null_or(
        fields.a_list(
            fields.an_object(p=_share, ms=fields.number, expected=fields.number, seen=fields.whole(0, 1 << 40))
        )
    ),
    layers=fields.null_or(
        fields.an_object(
            slow=fields.whole(1, 1 << 40),
            queries=fields.whole(1, 1 << 40),
            layers=fields.a_list(fields.an_object(name=fields.word, **_layer)),
            outside=fields.an_object(**_layer),
        )
    ),
    refused=fields.null_or(fields.an_object(reason=fields.word, needed=fields.whole(0, 1 << 60), hint=fields.word)),
)
"""Of `bench.tail.estimate.estimate`, with what `optimize wcet` adds."""

"""Event time of one partition: how far each topic is, and how far both are."""

from __future__ import annotations

from collections.abc import Mapping

NO_WATERMARK = -1
"""Nothing is known yet. Every event time is ≥ 0, so this one holds nothing back and closes nothing."""


def combined(watermarks: Mapping[str, int], idle: Mapping[str, bool], before: int) -> int:
    """Watermark of a partition over its topics.

    Parameters
    ----------
    watermarks : mapping of str to int
        Per topic, in milliseconds of event time; `NO_WATERMARK` where nothing was seen.
    idle : mapping of str to bool
        Topics that are drained to their last stable offset: they hold nothing back while another is not.
    before : int
        The watermark so far: it never goes back.

    Examples
    --------
    >>> combined({"predictions": 50, "ground-truth": 20}, {"predictions": False, "ground-truth": False}, -1)
    20
    >>> combined({"predictions": 50, "ground-truth": 20}, {"predictions": False, "ground-truth": True}, -1)
    50
    >>> combined({"predictions": 50, "ground-truth": 20}, {"predictions": True, "ground-truth": True}, -1)
    50
    """
    active = [watermarks[topic] for topic in watermarks if not idle.get(topic, False)]
    now = min(active) if active else max(watermarks.values(), default=NO_WATERMARK)
    return max(now, before)

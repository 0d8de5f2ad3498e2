"""Many outcomes of one message become the one reply that SMTP has for it. Pure.

It does nothing about the recipients who lost; with one destination per transaction the sender tries them all again.
"""

from __future__ import annotations

from collections.abc import Sequence

from mailgw.wire.events import Reply
from mailgw.wire.replies import TROUBLE


def verdict(outcomes: Sequence[Reply]) -> Reply:
    """Choose the reply: all accepted, the first one's; all refused for good, the first refusal; else a temporary one.

    Where some accepted and some did not, the sender is told to try again: a second copy for some is better than none
    for others.

    @param outcomes: one for each recipient or branch; none at all is trouble of ours.
    """
    refused = [reply for reply in outcomes if not reply.good]
    if not outcomes:
        return TROUBLE
    if not refused:
        return outcomes[0]
    temporary = [reply for reply in refused if reply.code < 500]
    if temporary:
        return temporary[0]
    return refused[0] if len(refused) == len(outcomes) else TROUBLE


def is_mixed(outcomes: Sequence[Reply]) -> bool:
    """Whether some accepted and some did not, so that a second try brings a second copy to somebody."""
    return len({reply.good for reply in outcomes}) > 1

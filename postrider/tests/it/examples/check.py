"""Tries the examples of the documentation on webhooks that are genuine and on others."""

import json
import sys

sys.path.insert(0, sys.argv[1])

import verify
import verify_by_hand


def passes_library(case: dict) -> bool:
    try:
        event = verify.event_of(case["secret"], case["headers"], case["body"].encode())
    except Exception:
        return False
    return event == json.loads(case["body"])


def passes_by_hand(case: dict) -> bool:
    return verify_by_hand.is_genuine(case["secret"], case["headers"], case["body"].encode())


mistakes = [
    f"{check.__name__}: {case['name']}"
    for case in json.load(sys.stdin)
    for check in (passes_library, passes_by_hand)
    if check(case) != case["is_genuine"]
]
sys.exit("\n".join(mistakes) or None)

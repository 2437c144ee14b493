import base64
import hashlib
import hmac
import time


def is_genuine(secret: str, headers: dict[str, str], body: bytes) -> bool:
    """`headers` have lower-case names. `body` is as it arrived, not parsed and serialized again."""
    message_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{message_id}.{timestamp}.".encode() + body
    expected = b"v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256))
    is_recent = timestamp.isdecimal() and abs(time.time() - int(timestamp)) <= 5 * 60
    signatures = headers.get("webhook-signature", "").encode().split(b" ")
    return is_recent and any(hmac.compare_digest(expected, signature) for signature in signatures)

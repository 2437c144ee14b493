from standardwebhooks import Webhook  # pip install standardwebhooks


def event_of(secret: str, headers: dict[str, str], body: bytes) -> dict:
    """Returns the verified event. Raises if it is not genuine: respond with 400 then."""
    return Webhook(secret).verify(body, headers)

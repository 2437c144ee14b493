from standardwebhooks import Webhook  # pip install standardwebhooks


def event_of(secret: str, headers: dict[str, str], body: bytes) -> dict:
    """The verified event; raises where it is not genuine: answer 400 then."""
    return Webhook(secret).verify(body, headers)

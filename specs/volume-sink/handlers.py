"""Areas of rectangles."""


def area(record):
    """The rectangle's id and area."""
    return {"id": record["id"], "area": record["width"] * record["height"]}

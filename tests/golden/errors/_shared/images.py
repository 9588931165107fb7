def add_tools(image):
    return image


class Builder:
    pass

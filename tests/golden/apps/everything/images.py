def add_flash_attn(image):
    return image.env({"FLASH": "1"})

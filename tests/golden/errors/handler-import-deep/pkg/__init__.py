import images

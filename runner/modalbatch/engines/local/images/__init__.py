"""What containers see of an image: layers read, environments built, uploaded code as folders. Runs on: laptop."""

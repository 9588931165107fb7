"""What user code keeps and receives: volumes, blobs, secrets. Runs on: laptop."""

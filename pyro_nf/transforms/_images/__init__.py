"""What the layers of images share."""

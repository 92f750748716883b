"""Image files to TFDS records that keep the original encoded bytes."""

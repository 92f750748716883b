"""Pictures on disk -> TFDS records, original bytes kept."""

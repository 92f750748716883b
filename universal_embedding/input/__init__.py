"""Input pipeline: batch sampling, reading, decoding, cropping and augmentation."""

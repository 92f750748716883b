"""Records -> batches: which record at which step, decoding, cropping, augmentation."""
